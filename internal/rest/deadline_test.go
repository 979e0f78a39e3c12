package rest

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestEveryRequestHasADeadline(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"": exchange.DefaultTimeout, "20": 20 * time.Millisecond, "3000": 3 * time.Second, "5001": exchange.MaxTimeout,
		"9223372036854775807": exchange.MaxTimeout,
	} {
		synctest.Test(t, func(t *testing.T) {
			s := serveInMemory(t, options{}, func(s *Server) {
				s.Handle(http.MethodGet, "/", "Get", func(c echo.Context) error {
					<-c.Request().Context().Done()
					return c.Request().Context().Err()
				})
			})
			began := time.Now()
			response, body := s.do(t, "GET", "/", "", exchange.TimeoutHeader, header)
			wantProblem(t, response, body, problem.DeadlineExceeded)
			if took := time.Since(began); took != want {
				t.Errorf("with %q it took %s, want %s", header, took, want)
			}
		})
	}
}

// If a sender stalls, it gets its answer in time and its connection is closed.
func TestStalledBodyEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	const noBody, put, neverRead, stream = "/no-body", "/put", "/never-read", "/stream"
	for _, test := range []struct {
		path, length string
		code         problem.Code
		within       time.Duration
	}{
		{put, "Content-Length: 100", problem.DeadlineExceeded, exchange.DefaultTimeout},
		{put, "Transfer-Encoding: chunked", problem.DeadlineExceeded, exchange.DefaultTimeout},
		{put, "Content-Length: 9999999", problem.DeadlineExceeded, exchange.DefaultTimeout},
		{noBody, "Content-Length: 100", problem.DeadlineExceeded, exchange.DefaultTimeout},
		{neverRead, "Content-Length: 100", problem.WrongState, readTimeout},
		{stream, "Content-Length: 100", problem.WrongState, readTimeout},
		{"/nothing", "Content-Length: 100", problem.NotFound, readTimeout},
	} {
		t.Run(test.path+" "+test.length, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				refuses := func(echo.Context) error { return problem.New(problem.WrongState, "No.") }
				s := serveInMemory(t, options{}, func(s *Server) {
					s.Handle(http.MethodPost, put, "Put", decodes)
					s.Handle(http.MethodPost, noBody, "NoBody", NoBody)
					s.Handle(http.MethodPost, neverRead, "NeverRead", refuses)
					s.Handle(http.MethodPost, stream, "Stream", refuses, Stream)
				})
				began := time.Now()
				answer := s.raw(t, "POST "+test.path+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"+test.length+"\r\n\r\n")
				if !strings.Contains(answer, `"code":"`+string(test.code)+`"`) {
					t.Errorf("got %q", answer)
				}
				// net/http waits for half a second before it closes a connection.
				if took := time.Since(began); took > test.within+time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// After the body has arrived, its time limit no longer applies. So the connection is
// still open when the deadline passes, and the next request uses it too.
func TestConnectionOutlivesADeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var connection context.Context
		s := serveInMemory(t, options{}, func(s *Server) {
			s.Handle(http.MethodPut, "/", "Put", func(c echo.Context) error {
				if err := Decode(c, new(request)); err != nil {
					return err
				}
				<-c.Request().Context().Done()
				time.Sleep(time.Second)
				return errors.Join(connection.Err(), ok(c))
			})
			s.echo.Pre(func(next echo.HandlerFunc) echo.HandlerFunc {
				return func(c echo.Context) error {
					connection = c.Request().Context()
					return next(c)
				}
			})
		})
		for i := range 2 {
			var reused bool
			trace := &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }}
			r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "PUT", s.url, strings.NewReader(good))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json")
			response, err := s.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = response.Body.Close()
			if response.StatusCode != http.StatusNoContent || reused != (i == 1) {
				t.Errorf("request %d: got %d, connection reused: %t", i, response.StatusCode, reused)
			}
		}
	})
}

func TestStreamHasNoDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(t, options{}, func(s *Server) {
			s.Handle(http.MethodPost, "/", "Post", func(c echo.Context) error {
				if _, has := c.Request().Context().Deadline(); has {
					return errors.New("it has a deadline")
				}
				control := http.NewResponseController(c.Response())
				for range 60 { // a minute, which is longer than the limits on connections
					if err := errors.Join(control.SetReadDeadline(time.Now().Add(time.Minute)),
						control.SetWriteDeadline(time.Now().Add(time.Minute))); err != nil {
						return err
					}
					time.Sleep(time.Second)
					if _, err := c.Response().Write([]byte(".")); err != nil {
						return err
					}
				}
				return nil
			}, Stream)
		})
		if response, body := s.do(t, "POST", "/", ""); response.StatusCode != http.StatusOK || len(body) != 60 {
			t.Errorf("got %d %s", response.StatusCode, body)
		}
	})
}
