package rest

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestLastFifthOfTheLimitIsForPriority(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, options{maxInFlight: 5, admission: map[string]exchange.Admission{
		"Priority": exchange.AdmitPriority, "Undecided": exchange.AdmitByHandler, "Decided": exchange.AdmitByHandler,
	}}, func(s *Server) {
		waits := func(echo.Context) error {
			entered <- struct{}{}
			<-leave
			return nil
		}
		s.Handle(http.MethodGet, "/ordinary", "Ordinary", waits)
		s.Handle(http.MethodGet, "/priority", "Priority", waits)
		s.Handle(http.MethodGet, "/decided", "Decided", func(c echo.Context) error {
			if err := exchange.Admit(c.Request().Context(), true); err != nil {
				return err
			}
			return waits(c)
		})
		s.Handle(http.MethodGet, "/undecided", "Undecided", func(echo.Context) error {
			return problem.New(problem.Invalid, "It was not admitted.")
		})
	})
	var requests sync.WaitGroup
	begin := func(path string) {
		requests.Go(func() {
			if response, body := s.do(t, "GET", path, ""); response.StatusCode != http.StatusOK {
				t.Errorf("%s: got %s", path, body)
			}
		})
		<-entered
	}
	refused := func(path string) {
		t.Helper()
		response, body := s.do(t, "GET", path, "")
		wantProblem(t, response, body, problem.Overloaded)
		if o := <-s.observed; !o.Shed || o.Outcome != string(problem.Overloaded) {
			t.Errorf("observed %+v", o)
		}
	}
	for _, path := range []string{"/priority", "/decided"} { // twice, to check that finished requests no longer count
		for range 4 {
			begin("/ordinary")
		}
		refused("/ordinary")
		begin(path)
		refused("/ordinary")
		refused(path)
		response, body := s.do(t, "GET", "/undecided", "")
		wantProblem(t, response, body, problem.Invalid)
		<-s.observed
		for range 5 {
			leave <- struct{}{}
		}
		requests.Wait()
		for range 5 {
			if o := <-s.observed; o.Shed || o.Outcome != "ok" {
				t.Errorf("observed %+v", o)
			}
		}
	}
}

// A handler that must admit its requests can't forget to do so.
func TestHandlerWithoutAdmissionIsAnInternalError(t *testing.T) {
	t.Parallel()
	s := serve(t, options{maxInFlight: 5, admission: map[string]exchange.Admission{"Forgotten": exchange.AdmitByHandler}}, func(s *Server) {
		s.Handle(http.MethodGet, "/forgotten", "Forgotten", func(echo.Context) error { return nil })
	})
	response, body := s.do(t, "GET", "/forgotten", "")
	wantProblem(t, response, body, problem.Internal)
}

func TestFinishedRequestNoLongerCountsAsInFlight(t *testing.T) {
	t.Parallel()
	ends := []func() error{
		func() error { return nil },
		func() error { return errors.New("an error") },
		func() error { panic("a panic") },
		func() error { panic(http.ErrAbortHandler) },
	}
	var n atomic.Int64
	s := serve(t, options{maxInFlight: 1}, func(s *Server) {
		s.Handle(http.MethodPost, "/", "Post", func(echo.Context) error { return ends[int(n.Add(1)-1)%len(ends)]() })
	})
	for range 3 * len(ends) {
		response, err := s.client.Post(s.url, "", nil)
		if err != nil {
			continue // dropped because of ErrAbortHandler
		}
		if _ = response.Body.Close(); response.StatusCode == http.StatusServiceUnavailable {
			t.Fatalf("after %d requests the server refuses more", n.Load())
		}
	}
	if got := n.Load(); got != int64(3*len(ends)) {
		t.Errorf("%d requests were handled", got)
	}
}
