package inventory

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
	"roundtrip/services/orders/internal/order"
)

// serveNATS starts a NATS server, an inventory that answers as the test says
// (none, where that is nil), and the wire to it.
func serveNATS(t *testing.T, respond func(*nats.Msg)) *NATS {
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
	wire, err := NewNATS(broker.ClientURL(), "", slog.New(slog.DiscardHandler))
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

func TestWhatIsSentOverNATS(t *testing.T) {
	t.Parallel()
	var got *nats.Msg
	wire := serveNATS(t, func(m *nats.Msg) {
		got = m
		replies(anyAnswer)(m)
	})
	for _, c := range []struct {
		ask           func() error
		subject, body string
	}{
		{func() error { _, err := wire.PutReservation(deadline(t, 5*time.Second), 2, hold); return err }, "inventory.v1.PutReservation",
			`{"id":"a","seq":1,"state":"held","lines":[{"sku":"85123A","location":"main","quantity":6},{"sku":"85123A","location":"main","quantity":2}],"hold_seconds":900}`},
		{func() error {
			_, err := wire.PutReservation(deadline(t, 5*time.Second), 2, order.Request{ID: "a", Seq: 2, State: order.ReservationCommitted})
			return err
		}, "inventory.v1.PutReservation", `{"id":"a","seq":2,"state":"committed"}`},
		{func() error { _, err := wire.GetReservation(deadline(t, 5*time.Second), 2, "a"); return err }, "inventory.v1.GetReservation", `{"id":"a"}`},
		{func() error { _, err := wire.GetStock(deadline(t, 5*time.Second), 2, []string{"a", "b"}); return err }, "inventory.v1.GetStock", `{"skus":["a","b"]}`},
	} {
		if err := c.ask(); err != nil {
			t.Errorf("%s: %v", c.body, err)
		}
		h := got.Header
		if got.Subject != c.subject || string(got.Data) != c.body || h.Get(exchange.RequestIDHeader) != "request-1" || h.Get(exchange.AttemptHeader) != "2" ||
			h.Get(exchange.TimeoutHeader) == "" || h.Get(messaging.DeadlineHeader) == "" {
			t.Errorf("sent %s %s %v, want %s %s", got.Subject, got.Data, h, c.subject, c.body)
		}
		if !strings.HasPrefix(got.Reply, "_INBOX_orders.") {
			t.Errorf("the reply is to go to %s", got.Reply)
		}
	}
}

func TestHostileAnswersOverNATS(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		respond     func(*nats.Msg)
		code        problem.Code
		unexplained bool
	}{
		"nothing":               {replies(""), problem.Internal, true},
		"garbage":               {replies("\x00\xff{"), problem.Internal, true},
		"an empty object":       {replies("{}"), problem.Internal, true},
		"half of it":            {replies(heldAnswer[:len(heldAnswer)/2]), problem.Internal, true},
		"a hold without an end": {replies(strings.Replace(heldAnswer, "expires_at", "until", 1)), problem.Internal, true},
		"half a problem":        {replies(shortage[:99], messaging.ErrorHeader, "insufficient-stock", messaging.ErrorCodeHeader, "409"), problem.Internal, false},
		"an error of others'":   {replies("no", messaging.ErrorHeader, "no", messaging.ErrorCodeHeader, "503"), problem.Unavailable, false},
		"an error with no code": {replies("no", messaging.ErrorHeader, "no"), problem.Internal, false},
		"a problem":             {replies(shortage, messaging.ErrorHeader, "insufficient-stock", messaging.ErrorCodeHeader, "409"), problem.InsufficientStock, false},
		"no reply":              {func(*nats.Msg) {}, problem.DeadlineExceeded, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire := serveNATS(t, c.respond)
			within := 5 * time.Second
			if c.code == problem.DeadlineExceeded {
				within = 100 * time.Millisecond
			}
			_, err := wire.PutReservation(deadline(t, within), 1, hold)
			if problem.CodeOf(err) != c.code || errors.Is(err, order.ErrUnexplained) != c.unexplained {
				t.Errorf("got %v; want %s, unexplained: %v", err, c.code, c.unexplained)
			}
		})
	}
}

// Nobody subscribed, or no server: nothing was sent, and orders knows that.
func TestNobodyOnNATSIsAway(t *testing.T) {
	t.Parallel()
	nowhere, err := NewNATS("nats://127.0.0.1:1", "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nowhere.Close() })
	for name, wire := range map[string]*NATS{"nobody": serveNATS(t, nil), "no server": nowhere} {
		caller := exchange.NewCaller(exchange.Options{MaxInFlight: 1})
		client := NewResending(wire, caller)
		for range 5 {
			if _, err := client.PutReservation(deadline(t, 5*time.Second), hold); problem.CodeOf(err) != problem.Unavailable {
				t.Errorf("%s: %v", name, err)
			}
		}
		if !caller.Away() {
			t.Errorf("%s is not away", name)
		}
	}
}

// More than the server takes is never sent.
func TestWhatIsTooLargeForNATS(t *testing.T) {
	t.Parallel()
	wire := serveNATS(t, func(*nats.Msg) { t.Error("it was sent") })
	_, err := wire.PutReservation(deadline(t, 5*time.Second), 1, order.Request{ID: strings.Repeat("x", 2<<20), Seq: 1, State: order.ReservationReleased})
	if problem.CodeOf(err) != problem.TooLarge {
		t.Errorf("got %v", err)
	}
}
