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

// A hold is for its time and not a millisecond longer, and not one shorter.
func TestHoldEndsAtTheInstant(t *testing.T) {
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
			s := newShelf(t, map[string]int64{"a": 10})
			s.must(hold("order-1", 1, line("a", 4)))
			if got := s.reservations["order-1"].At(test.at); got.State != test.state || !got.ExpiresAt.Equal(end) {
				t.Errorf("it reads as %+v, want %s", got, test.state)
			}
			s.now = test.at
			if got := s.must(stock.Expire{ID: "order-1"}).Reservation; got.State != test.state {
				t.Errorf("the reservation is %s, want %s", got.State, test.state)
			}
			if got := s.reservations["order-1"].State; got != test.state {
				t.Errorf("%s is stored, want %s", got, test.state)
			}
			s.wantLevels(map[string]string{"a": test.level})
			// A second sweep finds nothing to do.
			s.must(stock.Expire{ID: "order-1"})
			if !s.lastWrite().Empty() {
				t.Errorf("the second sweep wrote %+v", s.lastWrite())
			}
		})
	}
}

// An expiry belongs to the last seq and takes none of its own, so what orders
// asks next is not stale.
func TestExpiryTakesNoSeq(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("order-1", 1, line("a", 4)))
	s.now = start.Add(time.Hour)
	s.must(stock.Expire{ID: "order-1"})
	if r := s.reservations["order-1"]; r.Seq != 1 || len(s.outcomes) != 1 {
		t.Errorf("the reservation is %+v with %d outcomes, want seq 1 and its one outcome", r, len(s.outcomes))
	}
	s.must(release("order-1", 2))
}

func TestExpireOfWhatCannotExpire(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("committed", 1, line("a", 4)))
	s.must(commit("committed", 2))
	s.now = start.Add(time.Hour)
	for id, want := range map[string]stock.State{"committed": stock.Committed, "unknown": stock.None} {
		if got := s.must(stock.Expire{ID: id}).Reservation.State; got != want {
			t.Errorf("%s is %s, want %s", id, got, want)
		}
		if !s.lastWrite().Empty() {
			t.Errorf("expiring %s wrote %+v", id, s.lastWrite())
		}
	}
	s.wantLevels(map[string]string{"a": "6/0"})
}

// Due holds that a book was not given are what its shortages point at; with
// them the demand is met, and every expiry is written.
func TestShortageFreesDueHolds(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10, "b": 2})
	s.must(hold("old-1", 1, line("a", 6), line("b", 1)))
	s.must(hold("old-2", 1, line("a", 4)))
	s.must(hold("old-3", 1, line("b", 1)))
	s.now = start.Add(time.Hour)

	command := hold("order-1", 1, line("a", 9))
	alone := s.open(s.now, command.Needs())
	wantCode(t, alone.Decide(command).Err, problem.InsufficientStock)
	if got, want := alone.Short(), []stock.Key{{Location: "main", SKU: "a"}}; !slices.Equal(got, want) {
		t.Errorf("short are %v, want %v", got, want)
	}

	s.must(command)
	s.wantLevels(map[string]string{"a": "10/9", "b": "2/1"})
	for id, want := range map[string]stock.State{"old-1": stock.Expired, "old-2": stock.Expired, "old-3": stock.Held} {
		if got := s.reservations[id].State; got != want {
			t.Errorf("%s is stored as %s, want %s", id, got, want)
		}
	}
}

func TestAdjustmentBelowADueHoldFreesIt(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10, "b": 10})
	s.must(hold("old", 1, line("a", 6), line("b", 6)))
	s.now = start.Add(time.Hour)
	s.must(stock.Adjust{ID: "fire", SKU: "a", Location: "main", OnHand: new(int64(1)), Reason: stock.ReasonLost})
	s.wantLevels(map[string]string{"a": "1/0", "b": "10/0"})
	s.must(stock.ImportRow{ImportID: "i", Row: 1, SKU: "b", Location: "main", OnHand: 0})
	s.wantLevels(map[string]string{"a": "1/0", "b": "0/0"})
}

// Commands of a batch are decided in arrival order, one id may come several
// times, and each sees what those before it did.
func TestBatchIsDecidedInOrder(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	results := s.batch(
		hold("order-1", 1, line("a", 10)),
		hold("order-2", 1, line("a", 1)),  // short: order-1 has everything
		release("order-1", 2),             // gives it back
		hold("order-2", 1, line("a", 1)),  // the stored rejection, though there is stock now
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
		t.Error("an import row that was already true says that it changed something")
	}
	if got := results[0].Reservation.State; got != stock.Held {
		t.Errorf("the first answer says %s, want what was true when it was decided", got)
	}
	s.wantLevels(map[string]string{"a": "13/0"})
	written := s.lastWrite()
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
		t.Errorf("needs are\n%+v, want\n%+v", needs, want)
	}
	with := needs.With([]stock.Reservation{{ID: "r1", Lines: []stock.Line{line("a", 1), line("aa", 1)}}})
	if want := "[{east z} {main a} {main aa} {main b} {main c}]"; fmt.Sprint(with.Levels) != want {
		t.Errorf("with the loaded lines the levels are %v, want %v", with.Levels, want)
	}
	if !reflect.DeepEqual(needs, want) {
		t.Errorf("asking for more changed the needs to %+v", needs)
	}
}
