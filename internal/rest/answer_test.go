package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestEveryErrorIsAProblem(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/things/:id", "GetThing", ok)
		s.Handle(http.MethodPut, "/things/:id", "PutThing", decodes)
		s.Handle(http.MethodGet, "/leaves/:id", "GetLeaf", ok)
		s.Handle(http.MethodPost, "/things/:id/stop", "StopThing", func(c echo.Context) error {
			return NoBody(c)
		})
		for name, err := range map[string]error{
			"secret":   errors.New("password=hunter2"),
			"problem":  fmt.Errorf("ask the store: %w", problem.New(problem.WrongState, "It is closed.")),
			"busy":     &problem.Problem{Code: problem.OperationPending, RetryAfter: 1500 * time.Millisecond},
			"deadline": fmt.Errorf("ask the store: %w", context.DeadlineExceeded),
			"hangup":   fmt.Errorf("ask the store: %w", context.Canceled),
			"strange":  problem.New("from-a-stranger", "What is this?"),
		} {
			s.Handle(http.MethodGet, "/"+name, "Get-"+name, func(echo.Context) error { return err })
		}
		s.Handle(http.MethodGet, "/panic", "Panic", func(echo.Context) error { panic("password=hunter2") })
		s.Handle(http.MethodGet, "/nil", "Nil", func(echo.Context) error {
			var none *request
			none.Seq = 1
			return nil
		})
	})
	const jsonType = "application/json"
	tests := []struct {
		name, method, path, body string
		header                   []string
		code                     problem.Code
		outcome                  string // default: the code
	}{
		{name: "no such path", method: "GET", path: "/nothing", code: problem.NotFound},
		{name: "the root", method: "GET", path: "/", code: problem.NotFound},
		{name: "a path too long", method: "GET", path: "/things/1/2/3", code: problem.NotFound},
		{name: "a path too long, after a parameter", method: "GET", path: "/leaves/1/2", code: problem.NotFound},
		{name: "a slash after a parameter", method: "GET", path: "/leaves/1/", code: problem.NotFound},
		{name: "dots", method: "GET", path: "/things/../../etc/passwd", code: problem.NotFound},
		{name: "another method", method: "DELETE", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "a method of another path", method: "POST", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "an unknown method", method: "FROBNICATE", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "no content type", method: "PUT", path: "/things/1", body: "{}", code: problem.UnsupportedMedia},
		{name: "another content type", method: "PUT", path: "/things/1", body: "{}",
			header: []string{"Content-Type", "text/plain"}, code: problem.UnsupportedMedia},
		{name: "a form", method: "PUT", path: "/things/1", body: "a=b",
			header: []string{"Content-Type", "application/x-www-form-urlencoded"}, code: problem.UnsupportedMedia},
		{name: "an invalid content type", method: "PUT", path: "/things/1", body: "{}",
			header: []string{"Content-Type", "application/json; charset"}, code: problem.UnsupportedMedia},
		{name: "another charset", method: "PUT", path: "/things/1", body: "{}",
			header: []string{"Content-Type", "application/json; charset=utf-16"}, code: problem.UnsupportedMedia},
		{name: "a compressed body", method: "PUT", path: "/things/1", body: "{}",
			header: []string{"Content-Type", jsonType, "Content-Encoding", "gzip"}, code: problem.UnsupportedMedia},
		{name: "a body one byte too large", method: "PUT", path: "/things/1", body: strings.Repeat(" ", MaxBody+1),
			header: []string{"Content-Type", jsonType}, code: problem.TooLarge},
		{name: "a body much too large", method: "PUT", path: "/things/1", body: strings.Repeat(" ", 8*MaxBody),
			header: []string{"Content-Type", jsonType}, code: problem.TooLarge},
		{name: "an invalid body", method: "PUT", path: "/things/1", body: "{",
			header: []string{"Content-Type", jsonType}, code: problem.Invalid},
		{name: "a body for an operation that takes none", method: "POST", path: "/things/1/stop", body: "{}", code: problem.Invalid},
		{name: "an invalid deadline", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "soon"}, code: problem.Invalid},
		{name: "a deadline of zero", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "0"}, code: problem.Invalid},
		{name: "too little time", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "19"}, code: problem.DeadlineExceeded},
		{name: "an error that is not a problem", method: "GET", path: "/secret", code: problem.Internal},
		{name: "a problem", method: "GET", path: "/problem", code: problem.WrongState},
		{name: "a problem with a wait", method: "GET", path: "/busy", code: problem.OperationPending},
		{name: "a deadline that passed", method: "GET", path: "/deadline", code: problem.DeadlineExceeded},
		{name: "a context that was canceled", method: "GET", path: "/hangup", code: problem.Unavailable, outcome: "canceled"},
		{name: "a code that is not in the table", method: "GET", path: "/strange", code: "from-a-stranger", outcome: "other"},
		{name: "a panic", method: "GET", path: "/panic", code: problem.Internal},
		{name: "a nil pointer", method: "GET", path: "/nil", code: problem.Internal},
	}
	for _, test := range tests {
		response, body := s.do(t, test.method, test.path, test.body, test.header...)
		p := wantProblem(t, response, body, test.code)
		if strings.Contains(body, "hunter2") || strings.Contains(body, "goroutine") {
			t.Errorf("%s: the answer discloses the cause: %s", test.name, body)
		}
		if p.Detail == "" && (test.code == problem.NotFound || test.code == problem.Internal) {
			t.Errorf("%s: no detail", test.name)
		}
		o := <-s.observed
		want := test.outcome
		if want == "" {
			want = string(test.code)
		}
		if o.Outcome != want || o.Wire != "http" || o.Shed || o.RequestID != response.Header.Get(exchange.RequestIDHeader) {
			t.Errorf("%s: observed %+v, want outcome %s", test.name, o, want)
		}
	}
	if !strings.Contains(s.log.String(), "hunter2") {
		t.Error("the log lacks the cause")
	}
	if response, _ := s.do(t, "GET", "/busy", ""); response.Header.Get("Retry-After") != "2" {
		t.Errorf("1.5 s became %q", response.Header.Get("Retry-After"))
	}
}

func TestMethodNotAllowedListsTheAllowedMethods(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/things/:id", "GetThing", ok)
		s.Handle(http.MethodPut, "/things/:id", "PutThing", ok)
	})
	for _, method := range []string{"DELETE", "HEAD", "OPTIONS"} {
		response, _ := s.do(t, method, "/things/1", "")
		allow := response.Header.Get("Allow")
		if response.StatusCode != http.StatusMethodNotAllowed || !strings.Contains(allow, "GET") || !strings.Contains(allow, "PUT") {
			t.Errorf("%s: got %d, Allow %q", method, response.StatusCode, allow)
		}
	}
	want := []Route{{"GET", "/things/:id", "GetThing"}, {"PUT", "/things/:id", "PutThing"}}
	if got := s.Routes(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestHangUpIsNotLoggedAsAnError(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{}, 1)
	large := strings.Repeat("x", 64<<20)
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodPut, "/body", "Body", func(c echo.Context) error {
			entered <- struct{}{}
			return decodes(c)
		})
		s.Handle(http.MethodPut, "/work", "Work", func(c echo.Context) error {
			var body request
			if err := Decode(c, &body); err != nil {
				return err
			}
			entered <- struct{}{}
			<-c.Request().Context().Done()
			return fmt.Errorf("work: %w", context.Cause(c.Request().Context()))
		})
		s.Handle(http.MethodPut, "/answer", "Answer", func(c echo.Context) error {
			entered <- struct{}{}
			return JSON(c, http.StatusOK, large)
		})
	})
	for _, request := range []string{
		"PUT /body HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
		"PUT /body HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n9\r\n{",
		"PUT /work HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
		"PUT /answer HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		conn, err := s.dial(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		<-entered
		_ = conn.Close()
		if o := <-s.observed; o.Outcome != "canceled" {
			t.Errorf("%.12s: observed %+v", request, o)
		}
	}
	if log := s.log.String(); strings.Contains(log, "ERROR") || strings.Contains(log, "WARN") {
		t.Error(log)
	}
}

// An answer that is interrupted must not look complete.
func TestInterruptedAnswerLooksIncomplete(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		for path, end := range map[string]func() error{
			"/error": func() error { return errors.New("the disk is gone") },
			"/panic": func() error { panic("the disk is gone") },
		} {
			s.Handle(http.MethodGet, path, path, func(c echo.Context) error {
				if _, err := c.Response().Write([]byte(`{"row":1}`)); err != nil {
					return err
				}
				c.Response().Flush()
				return end()
			})
		}
	})
	for _, path := range []string{"/error", "/panic"} {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := s.client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		_ = response.Body.Close()
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(body) != `{"row":1}` {
			t.Errorf("%s: got %s, %v", path, body, err)
		}
		if o := <-s.observed; o.Outcome != string(problem.Internal) {
			t.Errorf("%s: observed %+v", path, o)
		}
	}
	if strings.Count(s.log.String(), `"level":"ERROR"`) != 2 {
		t.Error(s.log.String())
	}
}

func TestEveryResponseHasARequestID(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/", "Get", func(c echo.Context) error {
			return c.String(http.StatusOK, exchange.RequestID(c.Request().Context()))
		})
	})
	for _, id := range []string{"a", "A-z_0.9", strings.Repeat("x", 64)} {
		response, body := s.do(t, "GET", "/", "", exchange.RequestIDHeader, id)
		if got := response.Header.Get(exchange.RequestIDHeader); got != id || body != id {
			t.Errorf("%s: answered %q, handled as %q", id, got, body)
		}
	}
	seen := map[string]bool{}
	for _, id := range []string{"", " ", "a b", "a\tb", "ä", strings.Repeat("x", 65), `"}`} {
		response, body := s.do(t, "GET", "/", "", exchange.RequestIDHeader, id)
		got := response.Header.Get(exchange.RequestIDHeader)
		if got == id || !exchange.ValidRequestID(got) || got != body || seen[got] {
			t.Errorf("%q: answered %q, handled as %q", id, got, body)
		}
		seen[got] = true
	}
	if response, _ := s.do(t, "GET", "/nothing", "", exchange.RequestIDHeader, "lost"); response.Header.Get(exchange.RequestIDHeader) != "lost" {
		t.Error("a 404 has no request id")
	}
}

func TestOneLineIsLoggedForEachExchange(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodPut, "/ok", "Good", decodes)
		s.Handle(http.MethodPut, "/unknown", "Unknown", func(c echo.Context) error { return c.NoContent(http.StatusAccepted) })
		s.Handle(http.MethodPut, "/bad", "Bad", func(echo.Context) error { return errors.New("the disk is gone") })
	})
	const secret = `{"customer":"Ada Lovelace"}`
	for _, path := range []string{"/ok", "/unknown", "/bad", "/none?customer=Ada+Lovelace"} {
		s.do(t, "PUT", path, secret, "Content-Type", "application/json", exchange.RequestIDHeader, "r1", "Authorization", "Lovelace")
		<-s.observed
	}
	log := s.log.String()
	if strings.Contains(log, "Lovelace") {
		t.Error("the log has contents of a request:", log)
	}
	wants := []string{
		`"level":"INFO","msg":"exchange","request_id":"r1","operation":"Good","wire":"http","outcome":"ok","status":200,"duration_ms":`,
		`"level":"INFO","msg":"exchange","request_id":"r1","operation":"Unknown","wire":"http","outcome":"unknown","status":202,"duration_ms":`,
		`"level":"ERROR","msg":"exchange","request_id":"r1","operation":"Bad","wire":"http","outcome":"internal","status":500,"duration_ms":`,
		`"level":"INFO","msg":"exchange","request_id":"r1","operation":"none","wire":"http","outcome":"not-found","status":404,"duration_ms":`,
	}
	got := slices.Collect(strings.Lines(log))
	if len(got) != len(wants) {
		t.Fatalf("%d lines: %s", len(got), log)
	}
	for i, want := range wants {
		if !strings.Contains(got[i], want) {
			t.Errorf("got %s, want %s", got[i], want)
		}
	}
	if !strings.Contains(got[2], `"error":"the disk is gone"`) {
		t.Errorf("no cause: %s", got[2])
	}
}

func TestEmptyListsAreNotNull(t *testing.T) {
	t.Parallel()
	s := New(Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1})})
	s.Handle(http.MethodGet, "/", "Get", func(c echo.Context) error {
		return JSON(c, http.StatusOK, struct {
			Lines []int `json:"lines"`
		}{})
	})
	recorder := httptest.NewRecorder()
	s.ServeHTTP(recorder, httptest.NewRequest("GET", "/", nil))
	if recorder.Body.String() != `{"lines":[]}` || recorder.Header().Get("Content-Type") != "application/json" {
		t.Errorf("got %s %s", recorder.Header(), recorder.Body)
	}
}
