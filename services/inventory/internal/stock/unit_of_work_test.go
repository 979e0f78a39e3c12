package stock_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// A hold expires exactly when its time is over, not a millisecond before or after.
func TestHoldExpiresExactlyOnTime(t *testing.T) {
	t.Parallel()
	end := start.Add(stock.DefaultHold * time.Second)
	for _, test := range []struct {
		at    time.Time
		state stock.State
		level string
	}{
		{end.Add(-time.Millisecond), stock.Held, "10/4"},
		{end, stock.Expired, "10/0"},
		{end.Add(time.Millisecond), stock.Expired, "10/0"},
	} {
		t.Run(test.at.Sub(end).String(), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, map[string]int64{"a": 10})
			h.must(hold("order-1", 1, line("a", 4)))
			if got := h.reservations["order-1"].At(test.at); got.State != test.state || !got.ExpiresAt.Equal(end) {
				t.Errorf("the reservation reads as %+v, want %s", got, test.state)
			}
			h.now = test.at
			if got := h.must(stock.Expire{ID: "order-1"}).Reservation; got.State != test.state {
				t.Errorf("the reservation is %s, want %s", got.State, test.state)
			}
			if got := h.reservations["order-1"].State; got != test.state {
				t.Errorf("the stored state is %s, want %s", got, test.state)
			}
			h.wantLevels(map[string]string{"a": test.level})
			// A second sweep changes nothing.
			h.must(stock.Expire{ID: "order-1"})
			if !h.lastWrite().Empty() {
				t.Errorf("the second sweep wrote %+v", h.lastWrite())
			}
		})
	}
}

// An expiry takes no seq, so the next request of orders is not stale.
func TestExpiryTakesNoSeq(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("order-1", 1, line("a", 4)))
	h.now = start.Add(time.Hour)
	h.must(stock.Expire{ID: "order-1"})
	if r := h.reservations["order-1"]; r.Seq != 1 || len(h.outcomes) != 1 {
		t.Errorf("the reservation is %+v with %d outcomes, want seq 1 and its one outcome", r, len(h.outcomes))
	}
	h.must(release("order-1", 2))
}

func TestExpireIgnoresOtherStates(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("committed", 1, line("a", 4)))
	h.must(commit("committed", 2))
	h.now = start.Add(time.Hour)
	for id, want := range map[string]stock.State{"committed": stock.Committed, "unknown": stock.None} {
		if got := h.must(stock.Expire{ID: id}).Reservation.State; got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
		if !h.lastWrite().Empty() {
			t.Errorf("expiring %s wrote %+v", id, h.lastWrite())
		}
	}
	h.wantLevels(map[string]string{"a": "6/0"})
}

// A shortage names the levels whose due holds are to be loaded. With them the
// demand is met, and every expiry is written.
func TestShortageFreesDueHolds(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10, "b": 2})
	h.must(hold("old-1", 1, line("a", 6), line("b", 1)))
	h.must(hold("old-2", 1, line("a", 4)))
	h.must(hold("old-3", 1, line("b", 1)))
	h.now = start.Add(time.Hour)

	command := hold("order-1", 1, line("a", 9))
	alone := h.load(h.now, command.Needs())
	wantCode(t, alone.Decide(command).Err, problem.InsufficientStock)
	if got, want := alone.Short(), []stock.Key{{Location: "main", SKU: "a"}}; !slices.Equal(got, want) {
		t.Errorf("the short levels are %v, want %v", got, want)
	}

	h.must(command)
	h.wantLevels(map[string]string{"a": "10/9", "b": "2/1"})
	for id, want := range map[string]stock.State{"old-1": stock.Expired, "old-2": stock.Expired, "old-3": stock.Held} {
		if got := h.reservations[id].State; got != want {
			t.Errorf("%s is stored as %s, want %s", id, got, want)
		}
	}
}

func TestAdjustmentFreesDueHolds(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10, "b": 10})
	h.must(hold("old", 1, line("a", 6), line("b", 6)))
	h.now = start.Add(time.Hour)
	h.must(stock.Adjust{ID: "fire", SKU: "a", Location: "main", OnHand: new(int64(1)), Reason: stock.ReasonLost})
	h.wantLevels(map[string]string{"a": "1/0", "b": "10/0"})
	h.must(stock.ImportRow{ImportID: "i", Row: 1, SKU: "b", Location: "main", OnHand: 0})
	h.wantLevels(map[string]string{"a": "1/0", "b": "0/0"})
}

// Commands are decided in the order of their arrival. An id may occur several
// times, and each command sees the changes of those before it.
func TestCommandsAreDecidedInOrder(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	results := h.batch(
		hold("order-1", 1, line("a", 10)),
		hold("order-2", 1, line("a", 1)),  // short: order-1 holds everything
		release("order-1", 2),             // gives it back
		hold("order-2", 1, line("a", 1)),  // the stored rejection, although there is stock now
		hold("order-2", 2, line("a", 10)), // held
		hold("order-1", 1, line("a", 10)), // stale
		commit("order-2", 3),
		stock.Adjust{ID: "adj", SKU: "a", Location: "main", Delta: new(int64(3)), ExpectedOnHand: new(int64(0)), Reason: stock.ReasonReceived},
		stock.ImportRow{ImportID: "i", Row: 1, SKU: "a", Location: "main", OnHand: 3},
		release("order-2", 4),
	)
	want := []problem.Code{"", problem.InsufficientStock, "", problem.InsufficientStock, "", problem.StaleSeq, "", "", "", ""}
	for i, r := range results {
		if got := problem.CodeOf(r.Err); got != want[i] {
			t.Errorf("command %d: %v, want %q", i, r.Err, want[i])
		}
	}
	if results[8].Changed {
		t.Error("an import row without a change says that it changed something")
	}
	if got := results[0].Reservation.State; got != stock.Held {
		t.Errorf("the first answer says %s, want the state at its decision", got)
	}
	h.wantLevels(map[string]string{"a": "13/0"})
	written := h.lastWrite()
	if len(written.Reservations) != 2 || len(written.Levels) != 1 || len(written.Outcomes) != 6 || len(written.Adjustments) != 1 {
		t.Errorf("the batch wrote %+v", written)
	}
}

func TestNeedsAreSortedWithoutRepeats(t *testing.T) {
	t.Parallel()
	needs := stock.NeedsOf([]stock.Command{
		hold("r2", 1, line("b", 1), line("a", 1), stock.Line{SKU: "z", Location: "east", Quantity: 1}, line("b", 2)),
		stock.Adjust{ID: "adj-2", SKU: "b", Location: "main"},
		commit("r1", 2),
		stock.Expire{ID: "r2"},
		stock.ImportRow{SKU: "c", Location: "main"},
		stock.Adjust{ID: "adj-1", SKU: "b", Location: "main"},
		stock.Adjust{ID: "adj-2", SKU: "b", Location: "main"},
	})
	want := stock.Needs{
		Reservations: []string{"r1", "r2"},
		Levels:       []stock.Key{{Location: "east", SKU: "z"}, {Location: "main", SKU: "a"}, {Location: "main", SKU: "b"}, {Location: "main", SKU: "c"}},
		Adjustments:  []string{"adj-1", "adj-2"},
		NewLevels:    []stock.Key{{Location: "main", SKU: "b"}, {Location: "main", SKU: "c"}},
	}
	if !reflect.DeepEqual(needs, want) {
		t.Errorf("the needs are\n%+v, want\n%+v", needs, want)
	}
	with := needs.With([]stock.Reservation{{ID: "r1", Lines: []stock.Line{line("a", 1), line("aa", 1)}}})
	if want := "[{east z} {main a} {main aa} {main b} {main c}]"; fmt.Sprint(with.Levels) != want {
		t.Errorf("with the loaded lines the levels are %v, want %v", with.Levels, want)
	}
	if !reflect.DeepEqual(needs, want) {
		t.Errorf("With changed the needs to %+v", needs)
	}
}
