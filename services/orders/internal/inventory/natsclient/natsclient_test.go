package natsclient

import (
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/messaging"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wiretest"
	"roundtrip/services/orders/internal/order"
)

// serveNATS starts a NATS server and a fake inventory, and connects the wire.
// Without respond there is no inventory.
func serveNATS(t *testing.T, respond func(*nats.Msg)) *Wire {
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
	connection, err := nats.Connect(broker.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(connection.Close)
	if respond != nil {
		if _, err := connection.Subscribe(subjects+">", respond); err != nil {
			t.Fatal(err)
		}
		if err := connection.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	wire, err := New(broker.ClientURL(), "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = wire.Close() })
	return wire
}

func replies(body string, headers ...string) func(*nats.Msg) {
	return func(m *nats.Msg) {
		reply := nats.NewMsg(m.Reply)
		reply.Data = []byte(body)
		for i := 0; i < len(headers); i += 2 {
			reply.Header.Set(headers[i], headers[i+1])
		}
		_ = m.RespondMsg(reply) // the test may be over
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	var got *nats.Msg
	wire := serveNATS(t, func(m *nats.Msg) {
		got = m
		replies(wiretest.AnyAnswer)(m)
	})
	for _, c := range []struct {
		ask           func() error
		subject, body string
	}{
		{func() error {
			_, err := wire.PutReservation(wiretest.Deadline(t, 5*time.Second), 2, wiretest.Hold)
			return err
		}, "inventory.v1.PutReservation",
			`{"id":"a","seq":1,"state":"held","lines":[{"sku":"85123A","location":"main","quantity":6},{"sku":"85123A","location":"main","quantity":2}],"hold_seconds":900}`},
		{func() error {
			_, err := wire.PutReservation(wiretest.Deadline(t, 5*time.Second), 2, order.Request{ID: "a", Seq: 2, State: order.ReservationCommitted})
			return err
		}, "inventory.v1.PutReservation", `{"id":"a","seq":2,"state":"committed"}`},
		{func() error { _, err := wire.GetReservation(wiretest.Deadline(t, 5*time.Second), 2, "a"); return err }, "inventory.v1.GetReservation", `{"id":"a"}`},
		{func() error {
			_, err := wire.GetStock(wiretest.Deadline(t, 5*time.Second), 2, []string{"a", "b"})
			return err
		}, "inventory.v1.GetStock", `{"skus":["a","b"]}`},
	} {
		if err := c.ask(); err != nil {
			t.Errorf("%s: %v", c.body, err)
		}
		h := got.Header
		if got.Subject != c.subject || string(got.Data) != c.body || h.Get(exchange.RequestIDHeader) != wiretest.RequestID || h.Get(exchange.AttemptHeader) != "2" ||
			h.Get(exchange.TimeoutHeader) == "" || h.Get(messaging.DeadlineHeader) == "" {
			t.Errorf("sent %s %s %v, want %s %s", got.Subject, got.Data, h, c.subject, c.body)
		}
		if !strings.HasPrefix(got.Reply, "_INBOX_orders.") {
			t.Errorf("the reply subject is %s", got.Reply)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		respond     func(*nats.Msg)
		code        problem.Code
		unexplained bool
	}{
		"nothing":               {replies(""), problem.Internal, true},
		"garbage":               {replies("\x00\xff{"), problem.Internal, true},
		"an empty object":       {replies("{}"), problem.Internal, true},
		"half an answer":        {replies(wiretest.HeldAnswer[:len(wiretest.HeldAnswer)/2]), problem.Internal, true},
		"a hold without an end": {replies(strings.Replace(wiretest.HeldAnswer, "expires_at", "until", 1)), problem.Internal, true},
		"half a problem":        {replies(wiretest.Shortage[:99], messaging.ErrorHeader, "insufficient-stock", messaging.ErrorCodeHeader, "409"), problem.Internal, false},
		"a foreign error":       {replies("no", messaging.ErrorHeader, "no", messaging.ErrorCodeHeader, "503"), problem.Unavailable, false},
		"an error with no code": {replies("no", messaging.ErrorHeader, "no"), problem.Internal, false},
		"a problem":             {replies(wiretest.Shortage, messaging.ErrorHeader, "insufficient-stock", messaging.ErrorCodeHeader, "409"), problem.InsufficientStock, false},
		"no reply":              {func(*nats.Msg) {}, problem.DeadlineExceeded, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := serveNATS(t, c.respond)
			within := 5 * time.Second
			if c.code == problem.DeadlineExceeded {
				within = 100 * time.Millisecond
			}
			_, err := wire.PutReservation(wiretest.Deadline(t, within), 1, wiretest.Hold)
			if problem.CodeOf(err) != c.code || errors.Is(err, order.ErrUnexplained) != c.unexplained {
				t.Errorf("got %v; want %s, unexplained: %v", err, c.code, c.unexplained)
			}
		})
	}
}

// Without a subscriber or a server nothing is sent, so inventory counts as unreachable.
func TestMissingResponderIsUnreachable(t *testing.T) {
	t.Parallel()
	nowhere, err := New("nats://127.0.0.1:1", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nowhere.Close() })
	for name, wire := range map[string]*Wire{"no subscriber": serveNATS(t, nil), "no server": nowhere} {
		caller := exchange.NewCaller(exchange.Options{})
		client := inventory.NewResending(wire, caller)
		for range 5 {
			if _, err := client.PutReservation(wiretest.Deadline(t, 5*time.Second), wiretest.Hold); problem.CodeOf(err) != problem.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !caller.Unreachable() {
			t.Errorf("%s: the caller does not report inventory as unreachable", name)
		}
	}
}

// A request above the limit of the server is not sent.
func TestTooLargeRequestIsNotSent(t *testing.T) {
	t.Parallel()
	wire := serveNATS(t, func(*nats.Msg) { t.Error("the request was sent") })
	_, err := wire.PutReservation(wiretest.Deadline(t, 5*time.Second), 1, order.Request{ID: strings.Repeat("x", 2<<20), Seq: 1, State: order.ReservationReleased})
	if problem.CodeOf(err) != problem.TooLarge {
		t.Errorf("got %v", err)
	}
}
