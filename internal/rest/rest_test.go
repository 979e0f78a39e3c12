package rest

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/test/support/memnet"
)

// served is a Server that serves on a listener.
type served struct {
	*Server
	url      string
	dial     func(ctx context.Context, network, address string) (net.Conn, error)
	client   *http.Client
	observed chan exchange.RequestObservation
	log      *lines
	ended    chan error
}

// options are those of a Server and of its Responder.
type options struct {
	Options
	maxInFlight int
	admission   map[string]exchange.Admission
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

// serveInMemory starts a server without a network, for tests in virtual time
// (testing/synctest).
func serveInMemory(t *testing.T, o options, register func(*Server)) *served {
	t.Helper()
	l := memnet.Listen()
	return serveOn(t, l, l.Dial, o, register)
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
		Logger: slog.New(slog.NewJSONHandler(s.log, nil)), MaxInFlight: o.maxInFlight, Admission: o.admission,
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

// stop stops the server, and waits until Serve has returned.
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

// caller returns a client with at most one connection.
func (s *served) caller(t *testing.T) *http.Client {
	transport := &http.Transport{DialContext: s.dial, MaxConnsPerHost: 1}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// do sends a request and returns the response and its body.
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

// raw sends bytes as they are, and returns all that the server sends until it closes
// the connection.
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

// wantProblem checks that a response is a complete problem with this code.
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

func ok(c echo.Context) error { return c.NoContent(http.StatusNoContent) }

// request is the body of the tests' operations.
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
