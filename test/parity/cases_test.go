package parity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/orderstest"
)

// testCase is one exchange. Its ids and SKUs differ on each wire, so that the
// wires do not affect each other.
type testCase struct {
	operation, name string
	want            problem.Code
	// setup prepares inventory over REST.
	setup setup
	call  call
	// around wraps inventory's handler during the call.
	around around
	// ownDetail says that the problem's detail may differ by wire.
	ownDetail bool
}

type (
	setup = func(t *testing.T, f *fixture, id string)
	call  = func(ctx context.Context, w orderstest.Wire, id string) (any, error)
)

func put(seq int64, state string, lines ...orderstest.Demand) call {
	return func(ctx context.Context, w orderstest.Wire, id string) (any, error) {
		r := orderstest.Request{ID: id, Seq: seq, State: orderstest.ReservationState(state)}
		if state == "held" {
			r.HoldSeconds = 900
		}
		for _, l := range lines {
			l.SKU = id + l.SKU
			r.Lines = append(r.Lines, l)
		}
		return w.PutReservation(ctx, 1, r)
	}
}

func get(ctx context.Context, w orderstest.Wire, id string) (any, error) {
	return w.GetReservation(ctx, 1, id)
}

func stock(skus ...string) call {
	return func(ctx context.Context, w orderstest.Wire, id string) (any, error) {
		named := make([]string, len(skus))
		for i, sku := range skus {
			named[i] = id + sku
		}
		return w.GetStock(ctx, 1, named)
	}
}

func line(sku string, quantity int64) orderstest.Demand {
	return orderstest.Demand{SKU: sku, Location: "main", Quantity: quantity}
}

// steps runs setups one after the other.
func steps(all ...setup) setup {
	return func(t *testing.T, f *fixture, id string) {
		t.Helper()
		for _, step := range all {
			step(t, f, id)
		}
	}
}

// stocked sets the stock on hand.
func stocked(sku string, onHand int) setup {
	return func(t *testing.T, f *fixture, id string) {
		t.Helper()
		f.rest(t, "/v1/adjustments/"+id+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %d, "reason": "counted"}`, id+sku, onHand), 200)
	}
}

// putOverREST sets a reservation.
func putOverREST(status int, body string) setup {
	return func(t *testing.T, f *fixture, id string) {
		t.Helper()
		f.rest(t, "/v1/reservations/"+id, strings.ReplaceAll(body, "ID", id), status)
	}
}

const (
	holdOne   = `{"seq": 1, "state": "held", "hold_seconds": 900, "lines": [{"sku": "ID-a", "location": "main", "quantity": 6}]}`
	commit    = `{"seq": 2, "state": "committed"}`
	release   = `{"seq": 2, "state": "released"}`
	briefHold = `{"seq": 1, "state": "held", "hold_seconds": 1, "lines": [{"sku": "ID-a", "quantity": 6}]}`
)

// held holds 6 of 10 units.
var held = steps(stocked("-a", 10), putOverREST(200, holdOne))

// expired holds 6 of 10 units for a second and waits until the hold expires.
var expired = steps(stocked("-a", 10), putOverREST(200, briefHold), func(t *testing.T, f *fixture, id string) {
	t.Helper()
	ctx := deadline(t)
	for {
		r, err := f.wires["http"].GetReservation(ctx, 1, id)
		if err != nil {
			t.Fatal(err)
		}
		if r.State == "expired" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("the reservation does not expire")
		case <-time.After(20 * time.Millisecond):
		}
	}
})

func (f *fixture) rest(t *testing.T, path, body string, want int) {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), http.MethodPut, f.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		t.Fatalf("PUT %s %s: %s %s, %v", path, body, response.Status, text, err)
	}
}

func fails(with error) around {
	return func(string, func() error) error { return with }
}

func panics(string, func() error) error { panic("hunter2") }

func many(n int) []orderstest.Demand {
	lines := make([]orderstest.Demand, n)
	for i := range lines {
		lines[i] = line(fmt.Sprintf("-%048d", i), 1)
	}
	return lines
}

func testCases() []testCase {
	hold := put(1, "held", line("-a", 6))
	all := []testCase{
		{operation: "PutReservation", name: "held", setup: stocked("-a", 10), call: hold},
		{operation: "PutReservation", name: "held, two lines of one SKU", setup: stocked("-a", 10), call: put(1, "held", line("-a", 4), line("-a", 2))},
		{operation: "PutReservation", name: "repeated", setup: held, call: hold},
		{operation: "PutReservation", name: "repeated after it expired", setup: expired, call: func(ctx context.Context, w orderstest.Wire, id string) (any, error) {
			return w.PutReservation(ctx, 1, orderstest.Request{ID: id, Seq: 1, State: "held", HoldSeconds: 1, Lines: []orderstest.Demand{line(id+"-a", 6)}})
		}},
		{operation: "PutReservation", name: "amended", setup: held, call: put(2, "held", line("-a", 9))},
		{operation: "PutReservation", name: "committed", setup: held, call: put(2, "committed")},
		{operation: "PutReservation", name: "released", setup: held, call: put(2, "released")},
		{operation: "PutReservation", name: "tombstone", call: put(1, "released")},
		{operation: "PutReservation", name: "stale seq", setup: steps(held, putOverREST(200, commit)), call: hold, want: problem.StaleSeq},
		{operation: "PutReservation", name: "seq reused", setup: held, call: put(1, "held", line("-a", 5)), want: problem.SeqReused},
		{operation: "PutReservation", name: "shortage of one SKU", setup: stocked("-a", 5), call: hold, want: problem.InsufficientStock},
		{operation: "PutReservation", name: "shortage of all SKUs", setup: stocked("-a", 5), call: put(1, "held", line("-a", 6), line("-b", 1), line("-c", 1_000_000)), want: problem.InsufficientStock},
		{operation: "PutReservation", name: "shortage repeated", setup: steps(stocked("-a", 5), putOverREST(409, holdOne), stocked("-a2", 1)), call: hold, want: problem.InsufficientStock},
		{operation: "PutReservation", name: "amended beyond stock", setup: held, call: put(2, "held", line("-a", 11)), want: problem.InsufficientStock},
		{operation: "PutReservation", name: "committed after it expired", setup: expired, call: put(2, "committed"), want: problem.ReservationExpired},
		{operation: "PutReservation", name: "held after it expired", setup: expired, call: put(2, "held", line("-a", 1)), want: problem.ReservationExpired},
		{operation: "PutReservation", name: "committed without a hold", call: put(1, "committed"), want: problem.WrongState},
		{operation: "PutReservation", name: "held after it was committed", setup: steps(held, putOverREST(200, commit)), call: put(3, "held", line("-a", 1)), want: problem.WrongState},
		{operation: "PutReservation", name: "committed after it was released", setup: steps(held, putOverREST(200, release)), call: put(3, "committed"), want: problem.WrongState},
		{operation: "PutReservation", name: "invalid fields", call: put(0, "held", line("-!", 1), line("-b", 0), line(strings.Repeat("x", 65), 1_000_001)), want: problem.Invalid},
		{operation: "PutReservation", name: "commit with lines", setup: held, call: put(2, "committed", line("-a", 1)), want: problem.Invalid},
		{operation: "PutReservation", name: "invalid state", call: put(1, "none"), want: problem.Invalid},
		{operation: "PutReservation", name: "invalid id", call: func(ctx context.Context, w orderstest.Wire, id string) (any, error) {
			return w.PutReservation(ctx, 1, orderstest.Request{ID: id + "!", Seq: 1, State: "released"})
		}, want: problem.Invalid},
		{operation: "PutReservation", name: "too many lines", call: put(1, "held", many(2001)...), want: problem.Invalid},
		{operation: "PutReservation", name: "too large", call: put(1, "held", many(20_000)...), want: problem.TooLarge, ownDetail: true},

		{operation: "GetReservation", name: "held", setup: held, call: get},
		{operation: "GetReservation", name: "expired", setup: expired, call: get},
		{operation: "GetReservation", name: "committed", setup: steps(held, putOverREST(200, commit)), call: get},
		{operation: "GetReservation", name: "released", setup: steps(held, putOverREST(200, release)), call: get},
		{operation: "GetReservation", name: "rejected", setup: putOverREST(409, holdOne), call: get},
		{operation: "GetReservation", name: "not found", call: get, want: problem.NotFound},
		{operation: "GetReservation", name: "invalid id", call: func(ctx context.Context, w orderstest.Wire, id string) (any, error) {
			return w.GetReservation(ctx, 1, id+"!")
		}, want: problem.Invalid},

		{operation: "GetStock", name: "levels", setup: steps(stocked("-a", 10), stocked("-b", 0)), call: stock("-b", "-a", "-unknown")},
		{operation: "GetStock", name: "unknown SKU", call: stock("-unknown")},
		{operation: "GetStock", name: "invalid SKU", call: stock("-!"), want: problem.Invalid},
		{operation: "GetStock", name: "too many SKUs", call: stock(slices.Repeat([]string{"-a"}, 101)...), want: problem.Invalid},
	}
	calls := map[string]call{"PutReservation": hold, "GetReservation": get, "GetStock": stock("-a")}
	for operation, c := range calls {
		all = append(all,
			testCase{operation: operation, name: "deadline exceeded", call: c, around: fails(context.DeadlineExceeded), want: problem.DeadlineExceeded},
			testCase{operation: operation, name: "store unavailable", call: c, want: problem.Unavailable,
				around: fails(problem.Wrap(errors.New("hunter2"), problem.Unavailable, "The database can't be used at the moment."))},
			testCase{operation: operation, name: "unavailable with Retry-After", call: c, want: problem.Unavailable,
				around: fails(&problem.Problem{Code: problem.Unavailable, RetryAfter: 3 * time.Second})},
			testCase{operation: operation, name: "panic", call: c, around: panics, want: problem.Internal},
			testCase{operation: operation, name: "unknown error", call: c, around: fails(errors.New("hunter2")), want: problem.Internal},
			testCase{operation: operation, name: "unknown code", call: c, around: fails(problem.New("tomorrow", "A later version knows it.")), want: "tomorrow"},
		)
	}
	return all
}
