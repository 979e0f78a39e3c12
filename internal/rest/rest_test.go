package rest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// served is a Server behind a listener.
type served struct {
	*Server
	url      string
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	client   *http.Client
	observed chan exchange.RequestObservation
	log      *lines
	ended    chan error
}

// options are a Server's, and its Responder's bound.
type options struct {
	Options
	maxInFlight int
}

// serve starts a server on a real port.
func serve(t *testing.T, o options, register func(*Server)) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, l, new(net.Dialer).DialContext, o, register)
}

// serveInMemory starts a server that time inside testing/synctest governs.
func serveInMemory(t *testing.T, o options, register func(*Server)) *served {
	t.Helper()
	l := &memory{accepted: make(chan net.Conn), closed: make(chan struct{})}
	return serveOn(t, l, l.dial, o, register)
}

func serveOn(
	t *testing.T, l net.Listener, dial func(context.Context, string, string) (net.Conn, error), o options, register func(*Server),
) *served {
	t.Helper()
	s := &served{
		url: "http://" + l.Addr().String(), dial: dial, observed: make(chan exchange.RequestObservation, 10_000), log: new(lines),
		ended: make(chan error, 1),
	}
	if o.maxInFlight == 0 {
		o.maxInFlight = 100
	}
	o.Responder = exchange.NewResponder(exchange.ResponderOptions{
		Logger: slog.New(slog.NewJSONHandler(s.log, nil)), MaxInFlight: o.maxInFlight,
		Observe: func(a exchange.RequestObservation) { s.observed <- a },
	})
	s.Server = New(o.Options)
	register(s.Server)
	transport := &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 100}
	s.client = &http.Client{Transport: transport}
	go func() { s.ended <- s.Serve(l) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = s.http.Close()
		<-s.ended
	})
	return s
}

// stop stops the server, and waits until it serves no more.
func (s *served) stop(t *testing.T) {
	t.Helper()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-s.ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
	s.ended <- nil // for the cleanup
}

// caller is a client with at most one connection.
func (s *served) caller(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: s.dial, MaxConnsPerHost: 1}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// do sends a request and gives the response with its body read.
func (s *served) do(t *testing.T, method, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	response, err := s.client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(answer)
}

// raw sends bytes as they are and gives what comes back until the server closes.
func (s *served) raw(t *testing.T, request string) string {
	t.Helper()
	conn, err := s.dial(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	go func() { _, _ = io.WriteString(conn, request) }()
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// wantProblem checks that a response is the problem, in full.
func wantProblem(t *testing.T, response *http.Response, body string, code problem.Code) *problem.Problem {
	t.Helper()
	p := new(problem.Problem)
	if err := json.Unmarshal([]byte(body), p); err != nil || p.Code != code || response.StatusCode != code.HTTPStatus() ||
		response.Header.Get("Content-Type") != problem.MediaType {
		t.Errorf("got %d %s %s (%v), want the problem %s", response.StatusCode, response.Header.Get("Content-Type"), body, err, code)
	}
	if wait := response.Header.Get("Retry-After"); (wait != "") != (code.Retry() == problem.After) {
		t.Errorf("%s with Retry-After %q", code, wait)
	}
	return p
}

// lines collects a log.
type lines struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// memory is a listener on which nothing leaves the process.
type memory struct {
	accepted chan net.Conn
	closed   chan struct{}
	once     sync.Once
}

func (m *memory) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case m.accepted <- theirs:
		return ours, nil
	case <-m.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *memory) Accept() (net.Conn, error) {
	select {
	case c := <-m.accepted:
		return c, nil
	case <-m.closed:
		return nil, net.ErrClosed
	}
}

func (m *memory) Close() error   { m.once.Do(func() { close(m.closed) }); return nil }
func (m *memory) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

func ok(c echo.Context) error { return c.NoContent(http.StatusNoContent) }

// request is what the tests' operations take.
type request struct {
	Customer string `json:"customer"`
	Seq      int64  `json:"seq"`
}

const good = `{"customer":"Ada","seq":1}`

func decodes(c echo.Context) error {
	var body request
	if err := Decode(c, &body); err != nil {
		return err
	}
	return JSON(c, http.StatusOK, body)
}

func TestWhateverGoesWrongIsAProblem(t *testing.T) {
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
		outcome                  string // the code's, where it is empty
	}{
		{name: "no such path", method: "GET", path: "/nothing", code: problem.NotFound},
		{name: "the root", method: "GET", path: "/", code: problem.NotFound},
		{name: "a path too long", method: "GET", path: "/things/1/2/3", code: problem.NotFound},
		{name: "a path too long, after a parameter", method: "GET", path: "/leaves/1/2", code: problem.NotFound},
		{name: "a slash after a parameter", method: "GET", path: "/leaves/1/", code: problem.NotFound},
		{name: "dots", method: "GET", path: "/things/../../etc/passwd", code: problem.NotFound},
		{name: "another method", method: "DELETE", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "a method that is served elsewhere", method: "POST", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "a method that nobody knows", method: "FROBNICATE", path: "/things/1", code: problem.MethodNotAllowed},
		{name: "no content type", method: "PUT", path: "/things/1", body: "{}", code: problem.UnsupportedMedia},
		{name: "another content type", method: "PUT", path: "/things/1", body: "{}",
			header: []string{"Content-Type", "text/plain"}, code: problem.UnsupportedMedia},
		{name: "a form", method: "PUT", path: "/things/1", body: "a=b",
			header: []string{"Content-Type", "application/x-www-form-urlencoded"}, code: problem.UnsupportedMedia},
		{name: "a content type that is none", method: "PUT", path: "/things/1", body: "{}",
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
		{name: "a body where none is taken", method: "POST", path: "/things/1/stop", body: "{}", code: problem.Invalid},
		{name: "a deadline that is none", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "soon"}, code: problem.Invalid},
		{name: "a deadline of zero", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "0"}, code: problem.Invalid},
		{name: "too little time", method: "GET", path: "/things/1",
			header: []string{exchange.TimeoutHeader, "19"}, code: problem.DeadlineExceeded},
		{name: "an error that is no problem", method: "GET", path: "/secret", code: problem.Internal},
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
			t.Errorf("%s: the answer tells what happened inside: %s", test.name, body)
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
		t.Error("the log does not tell what happened inside")
	}
	if response, _ := s.do(t, "GET", "/busy", ""); response.Header.Get("Retry-After") != "2" {
		t.Errorf("1.5 s became %q", response.Header.Get("Retry-After"))
	}
}

func TestMethodsThatAreNotServedAreListed(t *testing.T) {
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

func TestBodiesAreTakenUpToTheLimit(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodPut, "/", "Put", decodes)
		s.Handle(http.MethodPost, "/", "Post", func(c echo.Context) error { return errors.Join(NoBody(c), ok(c)) })
	})
	for _, contentType := range []string{"application/json", "Application/JSON; Charset=UTF-8"} {
		body := good + strings.Repeat(" ", MaxBody-len(good))
		if response, answer := s.do(t, "PUT", "/", body, "Content-Type", contentType); response.StatusCode != http.StatusOK || answer != good {
			t.Errorf("%s: got %d %.200s", contentType, response.StatusCode, answer)
		}
	}
	if response, answer := s.do(t, "POST", "/", ""); response.StatusCode != http.StatusNoContent {
		t.Errorf("without a body: got %d %s", response.StatusCode, answer)
	}
}

// The rest of a body that is too large is waited for until the deadline only.
func TestABodyTooLargeClosesTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(t, options{}, func(s *Server) { s.Handle(http.MethodPut, "/", "Put", decodes) })
		began := time.Now()
		answer := s.raw(t, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
			fmt.Sprintf("%x\r\n", 2*MaxBody)+strings.Repeat(" ", MaxBody+1))
		if !strings.HasPrefix(answer, "HTTP/1.1 413 ") || !strings.Contains(answer, "Connection: close") {
			t.Errorf("got %s", answer)
		}
		if took := time.Since(began); took > exchange.DefaultTimeout+time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestChunksThatAreNoneAreInvalid(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodPut, "/", "Put", decodes) })
	answer := s.raw(t, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"+
		"Connection: close\r\n\r\nzz\r\n{}\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, `"code":"invalid"`) {
		t.Errorf("got %s", answer)
	}
}

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

// A sender that stalls gets its answer in time and does not hold the connection.
func TestABodyThatStallsIsGivenUpAtTheDeadline(t *testing.T) {
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
				// net/http lingers for half a second before it closes a connection.
				if took := time.Since(began); took > test.within+time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// Once the body is there, its time limit is lifted: the caller is still connected
// when its deadline passes, and so is the next request.
func TestTheConnectionOutlivesADeadline(t *testing.T) {
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

func TestAStreamHasNoDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(t, options{}, func(s *Server) {
			s.Handle(http.MethodPost, "/", "Post", func(c echo.Context) error {
				if _, has := c.Request().Context().Deadline(); has {
					return errors.New("it has a deadline")
				}
				control := http.NewResponseController(c.Response())
				for range 60 { // a minute longer than the limits on connections
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

func TestACallerWhoHangsUpIsNoError(t *testing.T) {
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

// What breaks off half way must not look like the whole.
func TestAnAnswerThatBreaksOffIsNotEnded(t *testing.T) {
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

func TestTheLastFifthOfThePlacesIsForPriority(t *testing.T) {
	t.Parallel()
	entered, leave := make(chan struct{}), make(chan struct{})
	s := serve(t, options{maxInFlight: 5}, func(s *Server) {
		waits := func(echo.Context) error {
			entered <- struct{}{}
			<-leave
			return nil
		}
		s.Handle(http.MethodGet, "/ordinary", "Ordinary", waits)
		s.Handle(http.MethodGet, "/priority", "Priority", func(c echo.Context) error {
			if err := Admit(c, true); err != nil {
				return err
			}
			return waits(c)
		}, AdmitLater)
		s.Handle(http.MethodGet, "/undecided", "Undecided", func(echo.Context) error {
			return problem.New(problem.Invalid, "No place was taken.")
		}, AdmitLater)
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
	for range 2 { // a second time, to see that every place was given back
		for range 4 {
			begin("/ordinary")
		}
		refused("/ordinary")
		begin("/priority")
		refused("/ordinary")
		refused("/priority")
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

func TestEveryEndGivesThePlaceBack(t *testing.T) {
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
			continue // dropped, as ErrAbortHandler asks
		}
		if _ = response.Body.Close(); response.StatusCode == http.StatusServiceUnavailable {
			t.Fatalf("after %d requests there is no place any more", n.Load())
		}
	}
	if got := n.Load(); got != int64(3*len(ends)) {
		t.Errorf("%d requests were handled", got)
	}
}

func TestAConnectionIsClosedAtItsAge(t *testing.T) {
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

func TestAConnectionWithoutALimitStaysOpen(t *testing.T) {
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
		t.Error("the log has what a request said:", log)
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

// Every request that a handler began is answered, whenever the server is stopped.
func TestShutdownLosesNoAcceptedRequest(t *testing.T) {
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
					return // refused, or closed before it was read
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
		t.Errorf("%d requests were begun, %d answered", begun.Load(), answered.Load())
	}
}

// A caller that keeps its connection until it is told to close it has an answer to
// every request, whenever the server is stopped.
func TestShutdownTellsCallersToLeave(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodPost, "/", "Post", decodes) })
	var callers sync.WaitGroup
	for range 8 {
		client := s.caller(t)
		callers.Go(func() {
			for told := false; !told; {
				response, err := client.Post(s.url, "application/json", strings.NewReader(good))
				if err != nil {
					t.Errorf("a connection ended unannounced: %v", err)
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
	go func() { // who is not told goes on
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

func TestShutdownWaitsForWhatIsInFlightButNotForEver(t *testing.T) {
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

func TestIDsAreDecodedOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/things/:id", "GetThing", func(c echo.Context) error { return c.String(http.StatusOK, ID(c, "id")) })
	})
	for path, want := range map[string]string{
		"a": "a", "%61": "a", "a%2Fb": "a/b", "%2561": "%61", "%25": "%", "a%2F%2561": "a/%61", "a+b": "a+b", "%C3%A9": "é", "%00": "\x00",
	} {
		if response, body := s.do(t, "GET", "/things/"+path, ""); response.StatusCode != http.StatusOK || body != want {
			t.Errorf("%s: got %d %q, want %q", path, response.StatusCode, body, want)
		}
	}
}

func TestRequestsThatAreNoHTTPAreRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodGet, "/", "Get", ok) })
	for name, request := range map[string]string{
		"rubbish":           "\x16\x03\x01\r\n\r\n",
		"no host":           "GET / HTTP/1.1\r\n\r\n",
		"two lengths":       "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"a bad header":      "GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
		"headers too large": "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2*maxHeaderBytes) + "\r\n\r\n",
	} {
		answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s.raw(t, request))), nil)
		if err != nil || answer.StatusCode < 400 || answer.StatusCode > 499 {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
		if err == nil {
			_ = answer.Body.Close()
		}
	}
}

func TestEmptyListsAreWrittenAsSuch(t *testing.T) {
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

func TestTimesAreWrittenInUTCWithMilliseconds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 14, 0, 0, 999_999, time.FixedZone("", 3600))
	if got := FormatTime(at); got != "2026-11-24T13:00:00.000Z" {
		t.Error(got)
	}
	if got := OptionalTime(at); got != FormatTime(at) {
		t.Error(got)
	}
	if got := OptionalTime(time.Time{}); got != "" {
		t.Error(got)
	}
}
