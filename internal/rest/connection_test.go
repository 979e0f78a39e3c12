package rest

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
)

func TestConnectionIsClosedAtItsMaxAge(t *testing.T) {
	t.Parallel()
	const age, pause = 10 * time.Minute, 10 * time.Second
	ages := map[time.Duration]bool{}
	for range 5 {
		synctest.Test(t, func(t *testing.T) {
			s := serveInMemory(t, options{Options: Options{MaxConnectionAge: age}}, func(s *Server) { s.Handle(http.MethodGet, "/", "Get", ok) })
			began := time.Now()
			for {
				response, _ := s.do(t, "GET", "/", "")
				if response.Close {
					break
				}
				time.Sleep(pause)
			}
			took := time.Since(began)
			ages[took] = true
			if took < age-age/10 || took > age+age/10+pause {
				t.Errorf("closed after %s", took)
			}
		})
	}
	if len(ages) == 1 {
		t.Error("every connection is closed at the same age")
	}
}

func TestConnectionWithoutAMaxAgeStaysOpen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(t, options{}, func(s *Server) { s.Handle(http.MethodGet, "/", "Get", ok) })
		for range 1_000 {
			if response, _ := s.do(t, "GET", "/", ""); response.Close {
				t.Fatal("closed")
			}
			time.Sleep(50 * time.Second)
		}
	})
}

// Every request that a handler has started is answered, even while the server stops.
func TestShutdownAnswersEveryStartedRequest(t *testing.T) {
	t.Parallel()
	var begun, answered atomic.Int64
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodPost, "/", "Post", func(c echo.Context) error {
			begun.Add(1)
			return decodes(c)
		})
	})
	var callers sync.WaitGroup
	for range 8 {
		client := s.caller(t)
		callers.Go(func() {
			for {
				response, err := client.Post(s.url, "application/json", strings.NewReader(good))
				if err != nil {
					return // refused, or the connection was closed before the request was read
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || string(body) != good {
					t.Errorf("got %s, %v", body, err)
				}
				answered.Add(1)
			}
		})
	}
	for range 500 {
		<-s.observed
	}
	s.stop(t)
	callers.Wait()
	if begun.Load() != answered.Load() {
		t.Errorf("%d requests were started, %d answered", begun.Load(), answered.Load())
	}
}

// A caller keeps its connection until the server asks it to close it. It then gets
// an answer to every request, even while the server stops.
func TestShutdownAsksCallersToCloseConnections(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodPost, "/", "Post", decodes) })
	var callers sync.WaitGroup
	for range 8 {
		client := s.caller(t)
		callers.Go(func() {
			for told := false; !told; {
				response, err := client.Post(s.url, "application/json", strings.NewReader(good))
				if err != nil {
					t.Errorf("a connection ended without notice: %v", err)
					return
				}
				_, err = io.Copy(io.Discard, response.Body)
				if err := errors.Join(err, response.Body.Close()); err != nil {
					t.Error(err)
				}
				told = response.Close
			}
		})
	}
	for range 500 {
		<-s.observed
	}
	go func() { // the callers continue until they are told to close
		for {
			select {
			case <-s.observed:
			case <-t.Context().Done():
				return
			}
		}
	}()
	s.stop(t)
	callers.Wait()
}

func TestShutdownWaitsForRequestsUntilItsDeadline(t *testing.T) {
	t.Parallel()
	for _, patience := range []time.Duration{time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			s := serveInMemory(t, options{}, func(s *Server) {
				s.Handle(http.MethodGet, "/", "Get", func(c echo.Context) error {
					select {
					case <-time.After(3 * time.Second):
						return ok(c)
					case <-c.Request().Context().Done():
						return c.Request().Context().Err()
					}
				})
			})
			var status int
			done := make(chan struct{})
			go func() {
				defer close(done)
				r, err := http.NewRequestWithContext(t.Context(), "GET", s.url, nil)
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set(exchange.TimeoutHeader, "5000")
				if response, err := s.client.Do(r); err == nil {
					status = response.StatusCode
					_ = response.Body.Close()
				}
			}()
			synctest.Wait()
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := s.Shutdown(ctx)
			<-done
			if patient := patience > 3*time.Second; patient != (err == nil) || patient != (status == http.StatusNoContent) {
				t.Errorf("with %s: %v, status %d", patience, err, status)
			}
		})
	}
}
