package messaging_test

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/messaging"
	"roundtrip/internal/problem"
)

// fixture is a responder with one operation, Get, and a client.
type fixture struct {
	client   *nats.Conn
	server   *messaging.Server
	answered chan exchange.RequestObservation
}

func start(t *testing.T, workers int, handler messaging.Handler) fixture {
	t.Helper()
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(func() { broker.Shutdown(); broker.WaitForShutdown() })
	if !broker.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server does not answer")
	}
	f := fixture{answered: make(chan exchange.RequestObservation, 100)}
	connection, err := messaging.Connect(broker.ClientURL(), "test", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	f.server = messaging.NewServer(connection, "test.v1", "test", workers, exchange.NewResponder(exchange.ResponderOptions{
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 100, Observe: func(a exchange.RequestObservation) { f.answered <- a },
	}))
	f.server.Handle("Get", handler)
	if err := f.server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.server.Shutdown(context.WithoutCancel(t.Context())) })
	if err := connection.Flush(); err != nil { // waits for the subscription
		t.Fatal(err)
	}
	if f.client, err = nats.Connect(broker.ClientURL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.client.Close)
	return f
}

// ask sends a request with these headers. It returns nil if no reply comes.
func (f fixture) ask(t *testing.T, body string, within time.Duration, headers ...string) *nats.Msg {
	t.Helper()
	m := nats.NewMsg("test.v1.Get")
	m.Data = []byte(body)
	for i := 0; i < len(headers); i += 2 {
		m.Header.Set(headers[i], headers[i+1])
	}
	reply, err := f.client.RequestMsg(m, within)
	if errors.Is(err, nats.ErrTimeout) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

const longWait = 30 * time.Second

func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func TestRequestIsAnswered(t *testing.T) {
	t.Parallel()
	f := start(t, 8, func(ctx context.Context, body []byte) (any, error) {
		if left, ok := exchange.Remaining(ctx); !ok || left > exchange.MaxTimeout {
			t.Errorf("the context has %s left", left)
		}
		return map[string]string{"body": string(body), "id": exchange.RequestID(ctx)}, nil
	})
	reply := f.ask(t, "hello", longWait, exchange.RequestIDHeader, "r-1", exchange.TimeoutHeader, "3600000")
	if string(reply.Data) != `{"body":"hello","id":"r-1"}` && string(reply.Data) != `{"id":"r-1","body":"hello"}` ||
		reply.Header.Get(exchange.RequestIDHeader) != "r-1" || reply.Header.Get(messaging.ErrorHeader) != "" {
		t.Errorf("got %s %v", reply.Data, reply.Header)
	}
	if a := <-f.answered; a.Wire != "nats" || a.Operation != "Get" || a.Outcome != "ok" || a.RequestID != "r-1" {
		t.Errorf("observed %+v", a)
	}
	if reply := f.ask(t, "", longWait, exchange.RequestIDHeader, "no id!"); !exchange.ValidRequestID(reply.Header.Get(exchange.RequestIDHeader)) {
		t.Errorf("got %v", reply.Header)
	}
}

func TestErrorsBecomeProblems(t *testing.T) {
	t.Parallel()
	f := start(t, 8, func(_ context.Context, body []byte) (any, error) {
		switch string(body) {
		case "panic":
			panic("hunter2")
		case "error":
			return nil, errors.New("hunter2")
		case "later":
			return nil, &problem.Problem{Code: problem.Unavailable, RetryAfter: 1500 * time.Millisecond}
		case "long":
			return strings.Repeat("x", 2<<20), nil
		}
		return nil, problem.New(problem.WrongState, "It is committed.")
	})
	for _, c := range []struct {
		body    string
		headers []string
		code    problem.Code
		retry   string
	}{
		{"panic", nil, problem.Internal, ""},
		{"error", nil, problem.Internal, ""},
		{"later", nil, problem.Unavailable, "2"},
		{"long", nil, problem.Internal, ""},
		{"", nil, problem.WrongState, ""},
		{"", []string{exchange.TimeoutHeader, "soon"}, problem.Invalid, ""},
		{"", []string{exchange.TimeoutHeader, "10"}, problem.DeadlineExceeded, ""},
		{"", []string{messaging.DeadlineHeader, "soon"}, problem.Invalid, ""},
		{"", []string{messaging.DeadlineHeader, millis(time.Now().Add(time.Hour))}, problem.WrongState, ""},
	} {
		reply := f.ask(t, c.body, longWait, c.headers...)
		if reply.Header.Get(messaging.ErrorHeader) != string(c.code) || reply.Header.Get(messaging.ErrorCodeHeader) != strconv.Itoa(c.code.HTTPStatus()) ||
			reply.Header.Get(exchange.RetryAfterHeader) != c.retry || strings.Contains(string(reply.Data), "hunter2") {
			t.Errorf("%s %v: got %v %s, want %s", c.body, c.headers, reply.Header, reply.Data, c.code)
		}
		if a := <-f.answered; a.Outcome != string(c.code) {
			t.Errorf("observed %+v", a)
		}
	}
}

// A request whose caller is gone is dropped, and gets no reply.
func TestExpiredRequestIsDropped(t *testing.T) {
	t.Parallel()
	f := start(t, 8, func(context.Context, []byte) (any, error) {
		t.Error("the handler was called")
		return nil, nil
	})
	if reply := f.ask(t, "", 200*time.Millisecond, messaging.DeadlineHeader, millis(time.Now().Add(-2*time.Second))); reply != nil {
		t.Errorf("it got a reply: %v", reply.Header)
	}
	if a := <-f.answered; a.Outcome != string(problem.DeadlineExceeded) {
		t.Errorf("observed %+v", a)
	}
}

// A request above the number of workers is refused before it is read. A server that
// stops answers the requests that it has started.
func TestWorkersAreLimitedAndDrained(t *testing.T) {
	t.Parallel()
	in, out := make(chan struct{}), make(chan struct{})
	f := start(t, 2, func(context.Context, []byte) (any, error) {
		in <- struct{}{}
		<-out
		return "done", nil
	})
	replies := make(chan *nats.Msg, 2)
	for range 2 {
		go func() { replies <- f.ask(t, "", longWait) }()
		<-in
	}
	if reply := f.ask(t, "", longWait); reply.Header.Get(messaging.ErrorHeader) != string(problem.Overloaded) || reply.Header.Get(exchange.RetryAfterHeader) == "" {
		t.Errorf("the third request got %s %v", reply.Data, reply.Header)
	}
	if a := <-f.answered; !a.Shed {
		t.Errorf("observed %+v", a)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- f.server.Shutdown(context.WithoutCancel(t.Context())) }()
	close(out)
	for range 2 {
		if reply := <-replies; reply == nil || string(reply.Data) != `"done"` {
			t.Errorf("a started request got %v", reply)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if _, err := f.client.Request("test.v1.Get", nil, longWait); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the stopped server still answers: %v", err)
	}
}
