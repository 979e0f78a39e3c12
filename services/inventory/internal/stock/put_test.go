package stock_test

import (
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// wantAnswer compares an answer with the expected code and reservation.
func wantAnswer(t *testing.T, got stock.Result, code problem.Code, want stock.Reservation) {
	t.Helper()
	wantCode(t, got.Err, code)
	if got.Err != nil {
		wantCurrent(t, got.Err, want.ID, want.Seq, want.State)
	}
	r := got.Reservation
	if r.ID != want.ID || r.Seq != want.Seq || r.State != want.State || !slices.Equal(r.Lines, want.Lines) ||
		!r.ExpiresAt.Equal(want.ExpiresAt) || !r.CreatedAt.Equal(want.CreatedAt) {
		t.Errorf("the reservation is\n%+v, want\n%+v", r, want)
	}
}

func wantCurrent(t *testing.T, err error, id string, seq int64, state stock.State) {
	t.Helper()
	want := problem.Current{ID: id, Seq: seq, State: string(state)}
	if got := problem.From(err).Current; got == nil || *got != want {
		t.Errorf("the current state is %+v, want %+v", got, want)
	}
}

func TestShortageListsEveryShortLine(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 5, "b": 5, "c": 5})
	h.must(hold("other", 1, line("c", 2)))
	wanted := []stock.Line{
		{SKU: "a", Location: "east", Quantity: 1}, line("unknown", 2), line("c", 4), line("b", 5), line("a", 3), line("a", 3),
	}
	rejected := h.send(hold("order-1", 1, wanted...))
	wantCode(t, rejected.Err, problem.InsufficientStock)
	want := []problem.Shortage{
		{SKU: "a", Location: "east", Requested: 1, Available: 0},
		{SKU: "a", Location: "main", Requested: 6, Available: 5},
		{SKU: "c", Location: "main", Requested: 4, Available: 3},
		{SKU: "unknown", Location: "main", Requested: 2, Available: 0},
	}
	if got := problem.From(rejected.Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("the shortages are %+v, want %+v", got, want)
	}
	if len(h.lastWrite().Levels) > 0 {
		t.Errorf("a rejection wrote levels: %+v", h.lastWrite().Levels)
	}
	// Stock that arrives later does not change the decision.
	h.must(stock.ImportRow{ImportID: "late", Row: 1, SKU: "c", Location: "main", OnHand: 100})
	if got := problem.From(h.send(hold("order-1", 1, wanted...)).Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("the stored shortages became %+v", got)
	}
}

func TestAmendCountsItsOwnLinesAsAvailable(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10, "b": 3})
	h.must(hold("other", 1, line("a", 3)))
	h.must(hold("order-1", 1, line("a", 5)))
	rejected := h.send(hold("order-1", 2, line("a", 8), line("b", 4)))
	want := []problem.Shortage{
		{SKU: "a", Location: "main", Requested: 8, Available: 7},
		{SKU: "b", Location: "main", Requested: 4, Available: 3},
	}
	if got := problem.From(rejected.Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("the shortages are %+v, want %+v", got, want)
	}
	h.must(hold("order-1", 3, line("a", 7)))
	h.wantLevels(map[string]string{"a": "10/10", "b": "3/0"})
	h.must(hold("order-1", 4, line("b", 3)))
	h.wantLevels(map[string]string{"a": "10/3", "b": "3/3"})
}

func TestAmendRestartsTheHold(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("order-1", 1, line("a", 5)))
	h.now = start.Add(stock.DefaultHold*time.Second - time.Millisecond)
	amended := h.must(hold("order-1", 2, line("a", 5)))
	if want := h.now.Add(stock.DefaultHold * time.Second); !amended.Reservation.ExpiresAt.Equal(want) {
		t.Errorf("the hold ends at %v, want %v", amended.Reservation.ExpiresAt, want)
	}
	if !amended.Reservation.CreatedAt.Equal(start) {
		t.Errorf("the reservation was created at %v, want %v", amended.Reservation.CreatedAt, start)
	}
	rejectedAt := h.now
	h.now = h.now.Add(time.Minute)
	h.send(hold("order-1", 3, line("a", 11)))
	if got, want := h.reservations["order-1"].ExpiresAt, rejectedAt.Add(stock.DefaultHold*time.Second); !got.Equal(want) {
		t.Errorf("a rejected amend moved the end of the hold to %v, was %v", got, want)
	}
}

// Requests with the same demand are the same request.
func TestLinesAreMergedAndSorted(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10, "b": 10})
	lines := []stock.Line{line("b", 1), line("a", 2), line("b", 3), line("a", 2)}
	given := slices.Clone(lines)
	got := h.must(hold("order-1", 1, lines...)).Reservation.Lines
	if want := []stock.Line{line("a", 4), line("b", 4)}; !slices.Equal(got, want) {
		t.Errorf("the lines are %v, want %v", got, want)
	}
	if !slices.Equal(lines, given) {
		t.Errorf("the request's own lines were changed to %v", lines)
	}
	if len(h.lastWrite().Entries) != 2 {
		t.Errorf("the entries are %+v, want one for each level", h.lastWrite().Entries)
	}
	h.must(hold("order-1", 1, line("a", 4), line("b", 4)))
	longer := hold("order-1", 1, line("a", 4), line("b", 4))
	longer.HoldSeconds++
	wantCode(t, h.send(longer).Err, problem.SeqReused)
	wantCode(t, h.send(hold("order-1", 1, line("a", 4), stock.Line{SKU: "b", Location: "west", Quantity: 4})).Err, problem.SeqReused)
	wantCode(t, h.send(commit("order-1", 1)).Err, problem.SeqReused)
}

// The stored fingerprint is that of the last request.
func TestEarlierRequestUnderTheLastSeqIsSeqReused(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("order-1", 1, line("a", 1)))
	h.must(hold("order-1", 2, line("a", 2)))
	wantCode(t, h.send(hold("order-1", 2, line("a", 1))).Err, problem.SeqReused)
	wantCode(t, h.send(hold("order-1", 1, line("a", 1))).Err, problem.StaleSeq)
}

// A success that is repeated after the hold has expired is still a success, and
// names the current state.
func TestRepeatedSuccessNamesTheCurrentState(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	asked := hold("order-1", 1, line("a", 4))
	h.must(asked)
	h.now = start.Add(stock.DefaultHold * time.Second)
	again := h.must(asked).Reservation
	if again.State != stock.Expired || again.Seq != 1 || !again.ExpiresAt.Equal(h.now) || !slices.Equal(again.Lines, []stock.Line{line("a", 4)}) {
		t.Errorf("the reservation is %+v, want it expired, with its lines and its end", again)
	}
	h.wantLevels(map[string]string{"a": "10/0"})
}

func TestRepeatedRejectionNamesTheCurrentState(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("order-1", 1, line("a", 4)))
	rejected := hold("order-1", 2, line("a", 11))
	wantCurrent(t, h.send(rejected).Err, "order-1", 2, stock.Held)
	h.now = start.Add(stock.DefaultHold * time.Second)
	again := h.send(rejected)
	wantCode(t, again.Err, problem.InsufficientStock)
	wantCurrent(t, again.Err, "order-1", 2, stock.Expired)
	if again.Reservation.State != stock.Expired {
		t.Errorf("the reservation is %+v, want it expired", again.Reservation)
	}
	stale := h.send(commit("order-1", 1))
	wantCurrent(t, stale.Err, "order-1", 2, stock.Expired)
}

func TestTombstoneStopsADelayedHold(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(release("order-1", 2))
	delayed := h.send(hold("order-1", 1, line("a", 4)))
	wantCode(t, delayed.Err, problem.StaleSeq)
	wantCurrent(t, delayed.Err, "order-1", 2, stock.Released)
	h.wantLevels(map[string]string{"a": "10/0"})
	if r, ok := h.reservations["order-1"]; !ok || r.State != stock.Released || len(r.Lines) > 0 {
		t.Errorf("the tombstone is %+v", r)
	}
}

// A first hold that is rejected takes its seq and leaves the state none.
func TestRejectedHoldTakesItsSeq(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	asked := hold("order-1", 1, line("a", 11))
	wantCode(t, h.send(asked).Err, problem.InsufficientStock)
	h.must(stock.ImportRow{ImportID: "more", Row: 1, SKU: "a", Location: "main", OnHand: 100})
	wantCode(t, h.send(asked).Err, problem.InsufficientStock)
	h.must(hold("order-1", 2, line("a", 11)))
	wantCode(t, h.send(asked).Err, problem.StaleSeq)
	h.wantLevels(map[string]string{"a": "100/11"})
}
