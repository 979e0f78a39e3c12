package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestPgbenchOutputMustHaveNoFailures(t *testing.T) {
	t.Parallel()
	const out = `pgbench (15.20 (Debian 15.20-0+deb12u1))
transaction type: -
number of clients: 64
maximum number of tries: 1
duration: 3 s
number of transactions actually processed: 6543
number of failed transactions: 0 (0.000%)
latency average = 31.416 ms
initial connection time = 90.123 ms
tps = 2037.187000 (without initial connection time)
`
	if got, err := parsePgbench(out); err != nil || got != (pgbenchResult{6543, 2037.187}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, wrong := range []string{
		"", strings.Replace(out, "transactions: 0 (0.000%)", "transactions: 1 (0.015%)", 1),
		strings.Replace(out, "processed: 6543", "processed: 0", 1), out[:strings.Index(out, "tps")],
	} {
		if got, err := parsePgbench(wrong); err == nil {
			t.Errorf("%q: got %v", wrong, got)
		}
	}
}

func TestEchoOrdersCallsEchoInventory(t *testing.T) {
	t.Parallel()
	var asked []string
	reservations := echo{}.handler()
	inventory := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		reservations.ServeHTTP(w, r)
	}))
	defer inventory.Close()
	orders := httptest.NewServer(echo{InventoryURL: inventory.URL}.handler())
	defer orders.Close()
	r := place("some", placeBody{Customer: "a", Currency: "GBP", Lines: []line{{"x", 1, 255}}})
	if got, failure := send(t.Context(), orders.Client(), orders.URL, r); got != done {
		t.Errorf("got %d: %s", got, failure)
	}
	if want := []string{"PUT /v1/reservations/some"}; !slices.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	inventory.Close()
	if got, _ := send(t.Context(), orders.Client(), orders.URL, r); got != failed {
		t.Errorf("without inventory: got %d", got)
	}
}
