package httpapi

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/test/support/resttest"
)

func TestReservationLifecycle(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	began := time.Now()
	held := s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	r := resttest.Decode[payload.Reservation](t, held)
	if r.ID != "x" || r.Seq != 1 || r.State != "held" || !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 6}, {SKU: "b", Location: "main", Quantity: 1}}) {
		t.Errorf("the held reservation is %s", held.Body)
	}
	expires, err := time.Parse("2006-01-02T15:04:05.000Z", r.ExpiresAt)
	if hold := expires.Sub(began); err != nil || hold < 59*time.Second || hold > 90*time.Second {
		t.Errorf("the hold ends at %s, in %s: %v", r.ExpiresAt, hold, err)
	}
	for _, c := range [][2]string{{"PUT", holdBody}, {"GET", ""}} {
		if again := s.ok(t, c[0], "/v1/reservations/x", c[1]); again.Body != held.Body {
			t.Errorf("%s gives\n%s, want\n%s", c[0], again.Body, held.Body)
		}
	}
	s.wantLevel(t, "held", "a", 10, 6)

	amended := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "held", "lines": [{"sku": "a", "quantity": 4}]}`)
	if r := resttest.Decode[payload.Reservation](t, amended); r.Seq != 2 || !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 4}}) {
		t.Errorf("the amended reservation is %s", amended.Body)
	}
	s.wantLevel(t, "amended", "a", 10, 4)
	s.wantLevel(t, "amended", "b", 10, 0)

	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 3, "state": "committed"}`).Body,
		`{"id":"x","seq":3,"state":"committed","lines":[{"sku":"a","location":"main","quantity":4}]}`; got != want {
		t.Errorf("the committed reservation is %s, want %s", got, want)
	}
	s.wantLevel(t, "committed", "a", 6, 0)
	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 4, "state": "released"}`).Body,
		`{"id":"x","seq":4,"state":"released","lines":[{"sku":"a","location":"main","quantity":4}]}`; got != want {
		t.Errorf("the released reservation is %s, want %s", got, want)
	}
	s.wantLevel(t, "released", "a", 10, 0)
	if got, want := s.ledger(t, "x"), []string{"held", "held", "amended", "amended", "committed", "returned"}; !slices.Equal(got, want) {
		t.Errorf("the ledger has %v, want %v", got, want)
	}
}

func TestDefaultHoldIsFifteenMinutes(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	began := time.Now()
	r := resttest.Decode[payload.Reservation](t, s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`))
	expires, err := time.Parse(time.RFC3339, r.ExpiresAt)
	if hold := expires.Sub(began).Round(time.Minute); err != nil || hold != 15*time.Minute {
		t.Errorf("the hold lasts %s: %v", hold, err)
	}
}

func TestLinesForOneLevelAreMerged(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	got := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 1, "state": "held", "lines": [
		{"sku": "b", "quantity": 2}, {"sku": "a", "quantity": 1}, {"sku": "b", "location": "main", "quantity": 3}]}`)
	if r := resttest.Decode[payload.Reservation](t, got); !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 1}, {SKU: "b", Location: "main", Quantity: 5}}) {
		t.Errorf("the held reservation is %s", got.Body)
	}
	s.wantLevel(t, "then", "b", 10, 5)
}

func TestShortageListsEveryShortLineAndIsStored(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	const body = `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 11}, {"sku": "b", "quantity": 1}, {"sku": "new", "location": "shop", "quantity": 2}]}`
	first := s.Call(t, "PUT", "/v1/reservations/x", body)
	first.Want(t, "a hold of more than there is", 409, problem.InsufficientStock)
	want := []problem.Shortage{{SKU: "a", Location: "main", Requested: 11, Available: 10}, {SKU: "new", Location: "shop", Requested: 2}}
	if !slices.Equal(first.Problem.Shortages, want) || *first.Problem.Current != (problem.Current{ID: "x", Seq: 1, State: "none"}) {
		t.Errorf("got %s", first.Body)
	}
	s.wantLevel(t, "then", "b", 10, 0)
	s.ok(t, "PUT", "/v1/adjustments/more", `{"sku": "a", "delta": 90, "reason": "received"}`)
	if again := s.Call(t, "PUT", "/v1/reservations/x", body); again.Body != first.Body {
		t.Errorf("the repeat, with more on hand, got %s", again.Body)
	}
	if got, want := s.ok(t, "GET", "/v1/reservations/x", "").Body, `{"id":"x","seq":1,"state":"none","lines":[]}`; got != want {
		t.Errorf("the reservation is %s, want %s", got, want)
	}
	s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "held", "lines": [{"sku": "a", "quantity": 11}]}`)
}

func TestFencedRequestsNameTheCurrentState(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 5, "state": "committed"}`)
	before := s.dump(t)
	for _, c := range []struct {
		what, body string
		status     int
		code       problem.Code
	}{
		{"an earlier seq", holdBody, 409, problem.StaleSeq},
		{"a skipped seq", `{"seq": 4, "state": "released"}`, 409, problem.StaleSeq},
		{"the last seq for another request", `{"seq": 5, "state": "released"}`, 422, problem.SeqReused},
	} {
		r := s.Call(t, "PUT", "/v1/reservations/x", c.body)
		r.Want(t, c.what, c.status, c.code)
		if current := r.Problem.Current; current == nil || *current != (problem.Current{ID: "x", Seq: 5, State: "committed"}) {
			t.Errorf("%s: %s", c.what, r.Body)
		}
	}
	if after := s.dump(t); after != before {
		t.Errorf("the rows changed from\n%s to\n%s", before, after)
	}
	r := s.Call(t, "PUT", "/v1/reservations/x", `{"seq": 6, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`)
	r.Want(t, "a hold of a committed reservation", 409, problem.WrongState)
	if *r.Problem.Current != (problem.Current{ID: "x", Seq: 6, State: "committed"}) {
		t.Errorf("got %s", r.Body)
	}
}

func TestTombstoneStopsADelayedHold(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "released"}`).Body,
		`{"id":"x","seq":2,"state":"released","lines":[]}`; got != want {
		t.Errorf("the tombstone is %s, want %s", got, want)
	}
	s.Call(t, "PUT", "/v1/reservations/x", holdBody).Want(t, "the delayed hold", 409, problem.StaleSeq)
	s.Call(t, "PUT", "/v1/reservations/x", strings.Replace(holdBody, "1", "3", 1)).Want(t, "a later hold", 409, problem.WrongState)
	s.wantLevel(t, "then", "a", 10, 0)
	s.Call(t, "PUT", "/v1/reservations/y", `{"seq": 1, "state": "committed"}`).Want(t, "a commit without a hold", 409, problem.WrongState)
}

func TestConcurrentIdenticalPutsTakeEffectOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, body       string
		status           int
		onHand, reserved int64
		ledger           []string
	}{
		"a hold":               {"/v1/reservations/x", holdBody, 200, 10, 6, []string{"held", "held"}},
		"a shortage":           {"/v1/reservations/x", strings.Replace(holdBody, "6", "11", 1), 409, 10, 0, nil},
		"an adjustment":        {"/v1/adjustments/x", adjustBody, 200, 7, 0, []string{"damaged"}},
		"a refused adjustment": {"/v1/adjustments/x", strings.Replace(adjustBody, `"delta"`, `"expected_on_hand": 9, "delta"`, 1), 412, 10, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startStocked(t)
			answers := make([]resttest.Response, 50)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() { answers[i] = s.Call(t, "PUT", c.path, c.body) })
			}
			all.Wait()
			for _, r := range answers {
				if r.Status != c.status || r.Body != answers[0].Body {
					t.Errorf("got %d\n%s and\n%s", r.Status, r.Body, answers[0].Body)
				}
			}
			s.wantLevel(t, "then", "a", c.onHand, c.reserved)
			if got := s.ledger(t, "x"); !slices.Equal(got, c.ledger) {
				t.Errorf("the ledger has %v, want %v", got, c.ledger)
			}
		})
	}
}

func TestConcurrentHoldsDoNotOversell(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	statuses := make([]int, 40)
	var all sync.WaitGroup
	for i := range statuses {
		all.Go(func() {
			statuses[i] = s.Call(t, "PUT", fmt.Sprintf("/v1/reservations/x%d", i), `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`).Status
		})
	}
	all.Wait()
	count := map[int]int{}
	for _, status := range statuses {
		count[status]++
	}
	if count[200] != 10 || count[409] != 30 {
		t.Errorf("40 callers wanted the last 10 units; the statuses are %v", count)
	}
	s.wantLevel(t, "then", "a", 10, 10)
}
