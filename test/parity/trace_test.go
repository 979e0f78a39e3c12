package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

// logged keeps a service's log.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// trace waits for the line with that message about a request, and gives its
// trace id.
func (l *logged) trace(t *testing.T, msg, requestID string) string {
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
			t.Fatalf("no line %q about %s:\n%s", msg, requestID, text)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// startOrders starts an orders that asks inventory over a wire.
func startOrders(t *testing.T, o orders.Options) (url string) {
	t.Helper()
	o.HTTP, o.Admin, o.MaxInFlight, o.SettleInterval, o.GiveUpAfter = listen(t), listen(t), 64, time.Second, 30*time.Second
	o.Database = database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "orders.db"))
	a, err := orders.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, a)
	return "http://" + a.Addr().String()
}

// Inventory sees the trace that orders was given, whatever the operation and the
// wire. A trace that is none goes no further, and is no reason to refuse.
func TestInventorySeesTheTraceThatOrdersWasGiven(t *testing.T) {
	t.Parallel()
	const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
	traces := map[string]struct{ header, want string }{
		"traced": {"00-" + traceID + "-00f067aa0ba902b7-01", traceID}, "untraced": {"", ""}, "garbage": {"00-" + traceID + "-0000000000000000-01", ""},
	}
	operations := []operation{
		{http.MethodPut, "/v1/orders/ORDER", `{"customer": "me", "currency": "GBP", "lines": [{"sku": "a", "quantity": 1, "unit_price": 1}]}`},
		{http.MethodGet, "/v1/orders/ORDER/reservation", ""},
		{http.MethodGet, "/v1/availability?sku=a", ""},
	}
	atInventory := new(logged)
	broker := startBroker(t, server.RANDOM_PORT).ClientURL()
	at := listeners{listen(t), listen(t)}
	startInventoryAt(t, at, inventory.Options{NATSURL: broker, MaxInFlight: 64, Logger: slog.New(slog.NewJSONHandler(atInventory, nil))})
	for wire, url := range map[string]string{"http": "http://" + at.http.Addr().String(), "grpc": "dns:///" + at.grpc.Addr().String(), "nats": broker} {
		connected(t, newWire(t, orders.Options{InventoryWire: wire, InventoryURL: url}))
		atOrders := new(logged)
		base := startOrders(t, orders.Options{InventoryWire: wire, InventoryURL: url, Logger: slog.New(slog.NewJSONHandler(atOrders, nil))})
		for ask(t, base, operations[2], "", "", "") != http.StatusOK {
			time.Sleep(5 * time.Millisecond) // until orders is connected to NATS
		}
		for name, trace := range traces {
			for i, o := range operations {
				id := fmt.Sprint(wire, "-", name, "-", i)
				if status := ask(t, base, o, wire+"-"+name, id, trace.header); status >= 500 || status == http.StatusBadRequest {
					t.Errorf("%s: %d", id, status)
				}
				for line, got := range map[string]string{
					"orders answered":    atOrders.trace(t, "exchange", id),
					"orders asked":       atOrders.trace(t, "asked inventory", id),
					"inventory answered": atInventory.trace(t, "exchange", id),
				} {
					if got != trace.want {
						t.Errorf("%s: %s with the trace %q, want %q", id, line, got, trace.want)
					}
				}
			}
		}
	}
}

// operation is one of orders' that asks inventory.
type operation struct{ method, path, body string }

// ask makes a request of orders and gives the answer's status.
func ask(t *testing.T, base string, o operation, order, requestID, trace string) int {
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
