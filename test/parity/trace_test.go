package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/exchange"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
	"roundtrip/services/orders/orderstest"
	"roundtrip/test/support/inprocess"
)

// logBuffer collects a service's log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// trace waits for the line with a message and a request id, and returns its trace
// id.
func (l *logBuffer) trace(t *testing.T, msg, requestID string) string {
	t.Helper()
	ctx := deadline(t)
	for {
		l.mu.Lock()
		text := l.text.String()
		l.mu.Unlock()
		for line := range strings.Lines(text) {
			var at struct {
				Msg       string
				RequestID string `json:"request_id"`
				TraceID   string `json:"trace_id"`
			}
			if err := json.Unmarshal([]byte(line), &at); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if at.Msg == msg && at.RequestID == requestID {
				return at.TraceID
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no line %q for request %s:\n%s", msg, requestID, text)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Orders passes its caller's trace on to inventory, for every operation on every
// wire. It drops an invalid trace and serves the request.
func TestTraceReachesInventory(t *testing.T) {
	t.Parallel()
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	traces := map[string]struct{ header, want string }{
		"traced": {"00-" + traceID + "-00f067aa0ba902b7-01", traceID}, "untraced": {"", ""}, "invalid": {"00-" + traceID + "-0000000000000000-01", ""},
	}
	operations := []operation{
		{http.MethodPut, "/v1/orders/ORDER", `{"customer": "me", "currency": "GBP", "lines": [{"sku": "a", "quantity": 1, "unit_price": 1}]}`},
		{http.MethodGet, "/v1/orders/ORDER/reservation", ""},
		{http.MethodGet, "/v1/availability?sku=a", ""},
	}
	atInventory := new(logBuffer)
	broker := inprocess.StartNATS(t, server.RANDOM_PORT).ClientURL()
	i := inprocess.StartInventory(t, inventory.Options{NATSURL: broker, MaxInFlight: 64, Logger: slog.New(slog.NewJSONHandler(atInventory, nil))})
	for _, wire := range wires {
		waitConnected(t, newWire(t, orderstest.WireOptions{Wire: wire, URL: i.URL(wire)}))
		atOrders := new(logBuffer)
		o := inprocess.StartOrders(t, orders.Options{
			InventoryWire: wire, InventoryURL: i.URL(wire), Logger: slog.New(slog.NewJSONHandler(atOrders, nil)),
			MaxInFlight: 64, SettleInterval: time.Second, GiveUpAfter: 30 * time.Second,
		})
		base := "http://" + o.Addr().String()
		for send(t, base, operations[2], "", "", "") != http.StatusOK {
			time.Sleep(5 * time.Millisecond) // until orders is connected to NATS
		}
		for name, trace := range traces {
			for i, o := range operations {
				id := fmt.Sprint(wire, "-", name, "-", i)
				if status := send(t, base, o, wire+"-"+name, id, trace.header); status >= 500 || status == http.StatusBadRequest {
					t.Errorf("%s: %d", id, status)
				}
				for line, got := range map[string]string{
					"orders answered":    atOrders.trace(t, "exchange", id),
					"orders asked":       atOrders.trace(t, "asked inventory", id),
					"inventory answered": atInventory.trace(t, "exchange", id),
				} {
					if got != trace.want {
						t.Errorf("%s: %s: trace %q, want %q", id, line, got, trace.want)
					}
				}
			}
		}
	}
}

// operation is one of orders' operations that call inventory.
type operation struct{ method, path, body string }

// send sends a request to orders and returns the response's status.
func send(t *testing.T, base string, o operation, order, requestID, trace string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), o.method, base+strings.ReplaceAll(o.path, "ORDER", order), strings.NewReader(o.body))
	if err != nil {
		t.Fatal(err)
	}
	if o.body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set(exchange.RequestIDHeader, requestID)
	request.Header.Set(exchange.TraceHeader, trace)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}
