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

// The table of the protocol, now x asked, cell by cell. Stock is 10 of a, 10 of
// b and none of c; what is held or committed is 4 of a and 1 of b.
func TestTransitions(t *testing.T) {
	t.Parallel()
	const id, seq = "order-1", 10
	first := []stock.Line{line("a", 4), line("b", 1)}
	fits := hold(id, seq, line("a", 10)) // for an amend only with the 4 of its own
	short := hold(id, seq, line("b", 11), line("a", 2), line("c", 1))
	until := start.Add(stock.DefaultHold * time.Second)
	full := map[string]string{"a": "10/0", "b": "10/0", "c": "0/0"}
	heldLevels := map[string]string{"a": "10/4", "b": "10/1", "c": "0/0"}
	goneLevels := map[string]string{"a": "6/0", "b": "9/0", "c": "0/0"}

	before := map[string]func(s *shelf){
		"none":            func(*shelf) {},
		"only rejections": func(s *shelf) { s.send(hold(id, 1, line("a", 11))); s.send(commit(id, 2)) },
		"held":            func(s *shelf) { s.must(hold(id, 1, first...)) },
		"held, amend rejected": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.send(hold(id, 2, line("a", 11)))
		},
		"expired": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.now = until
			s.must(stock.Expire{ID: id})
		},
		"run out": func(s *shelf) { s.must(hold(id, 1, first...)); s.now = until },
		"committed": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.must(commit(id, 2))
		},
		"released": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.must(release(id, 2))
		},
		"returned": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.must(commit(id, 2))
			s.must(release(id, 3))
		},
		"expired, released": func(s *shelf) {
			s.must(hold(id, 1, first...))
			s.now = until
			s.must(release(id, 2))
		},
		"tombstone": func(s *shelf) { s.must(release(id, 1)) },
	}
	expiry := []string{"expired a 0 -4", "expired b 0 -1"}
	for _, cell := range []struct {
		now     string
		asked   stock.Put
		code    problem.Code // "" is ok
		state   stock.State
		lines   []stock.Line
		expires bool
		levels  map[string]string
		entries []string
	}{
		{"none", fits, "", stock.Held, fits.Lines, true, map[string]string{"a": "10/10", "b": "10/0", "c": "0/0"}, []string{"held a 0 10"}},
		{"none", short, problem.InsufficientStock, stock.None, nil, false, full, nil},
		{"none", commit(id, seq), problem.WrongState, stock.None, nil, false, full, nil},
		{"none", release(id, seq), "", stock.Released, nil, false, full, nil},

		{"only rejections", fits, "", stock.Held, fits.Lines, true, map[string]string{"a": "10/10", "b": "10/0", "c": "0/0"}, []string{"held a 0 10"}},
		{"only rejections", short, problem.InsufficientStock, stock.None, nil, false, full, nil},
		{"only rejections", commit(id, seq), problem.WrongState, stock.None, nil, false, full, nil},
		{"only rejections", release(id, seq), "", stock.Released, nil, false, full, nil},

		{"held", fits, "", stock.Held, fits.Lines, true, map[string]string{"a": "10/10", "b": "10/0", "c": "0/0"}, []string{"amended a 0 6", "amended b 0 -1"}},
		{"held", short, problem.InsufficientStock, stock.Held, first, true, heldLevels, nil},
		{"held", hold(id, seq, first...), "", stock.Held, first, true, heldLevels, nil},
		{"held", commit(id, seq), "", stock.Committed, first, false, goneLevels, []string{"committed a -4 -4", "committed b -1 -1"}},
		{"held", release(id, seq), "", stock.Released, first, false, full, []string{"released a 0 -4", "released b 0 -1"}},

		{"held, amend rejected", fits, "", stock.Held, fits.Lines, true, map[string]string{"a": "10/10", "b": "10/0", "c": "0/0"}, []string{"amended a 0 6", "amended b 0 -1"}},
		{"held, amend rejected", commit(id, seq), "", stock.Committed, first, false, goneLevels, []string{"committed a -4 -4", "committed b -1 -1"}},
		{"held, amend rejected", release(id, seq), "", stock.Released, first, false, full, []string{"released a 0 -4", "released b 0 -1"}},

		{"expired", fits, problem.ReservationExpired, stock.Expired, first, true, full, nil},
		{"expired", short, problem.ReservationExpired, stock.Expired, first, true, full, nil},
		{"expired", commit(id, seq), problem.ReservationExpired, stock.Expired, first, true, full, nil},
		{"expired", release(id, seq), "", stock.Released, first, false, full, nil},

		// A hold that nobody has marked yet reads as expired all the same.
		{"run out", fits, problem.ReservationExpired, stock.Expired, first, true, full, expiry},
		{"run out", short, problem.ReservationExpired, stock.Expired, first, true, full, expiry},
		{"run out", commit(id, seq), problem.ReservationExpired, stock.Expired, first, true, full, expiry},
		{"run out", release(id, seq), "", stock.Released, first, false, full, expiry},

		{"committed", fits, problem.WrongState, stock.Committed, first, false, goneLevels, nil},
		{"committed", short, problem.WrongState, stock.Committed, first, false, goneLevels, nil},
		{"committed", commit(id, seq), "", stock.Committed, first, false, goneLevels, nil},
		{"committed", release(id, seq), "", stock.Released, first, false, full, []string{"returned a 4 0", "returned b 1 0"}},

		{"released", fits, problem.WrongState, stock.Released, first, false, full, nil},
		{"released", short, problem.WrongState, stock.Released, first, false, full, nil},
		{"released", commit(id, seq), problem.WrongState, stock.Released, first, false, full, nil},
		{"released", release(id, seq), "", stock.Released, first, false, full, nil},

		{"returned", fits, problem.WrongState, stock.Released, first, false, full, nil},
		{"returned", commit(id, seq), problem.WrongState, stock.Released, first, false, full, nil},
		{"returned", release(id, seq), "", stock.Released, first, false, full, nil},

		{"expired, released", fits, problem.WrongState, stock.Released, first, false, full, nil},
		{"expired, released", commit(id, seq), problem.WrongState, stock.Released, first, false, full, nil},
		{"expired, released", release(id, seq), "", stock.Released, first, false, full, nil},

		{"tombstone", fits, problem.WrongState, stock.Released, nil, false, full, nil},
		{"tombstone", short, problem.WrongState, stock.Released, nil, false, full, nil},
		{"tombstone", commit(id, seq), problem.WrongState, stock.Released, nil, false, full, nil},
		{"tombstone", release(id, seq), "", stock.Released, nil, false, full, nil},
	} {
		t.Run(fmt.Sprintf("%s, %s %d asked", cell.now, cell.asked.State, len(cell.asked.Lines)), func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, map[string]int64{"a": 10, "b": 10, "c": 0})
			before[cell.now](s)
			entriesBefore := len(s.ledger)

			want := stock.Reservation{ID: id, Seq: seq, State: cell.state, Lines: cell.lines, CreatedAt: start}
			if cell.expires {
				want.ExpiresAt = until
			}
			if cell.now == "none" || cell.now == "tombstone" {
				want.CreatedAt = s.now
			}
			decided := s.send(cell.asked)
			wantAnswer(t, decided, cell.code, want)

			s.wantLevels(cell.levels)
			var entries []string
			for _, e := range s.ledger[entriesBefore:] {
				entries = append(entries, fmt.Sprintf("%s %s %d %d", e.Reason, e.SKU, e.OnHandDelta, e.ReservedDelta))
				if e.Ref != id || e.Reason != stock.ReasonExpired && e.Seq != seq || !e.At.Equal(s.now) {
					t.Errorf("entry %+v is not of %s seq %d at %v", e, id, seq, s.now)
				}
			}
			if !slices.Equal(entries, cell.entries) {
				t.Errorf("the ledger gained %q, want %q", entries, cell.entries)
			}

			outcome, ok := s.outcomes[fmt.Sprint(id, " ", seq)]
			if !ok {
				t.Fatal("no outcome is stored")
			}
			if problem.CodeOf(decided.Err) == "" && outcome.Problem != nil ||
				outcome.Problem != nil && outcome.Problem.Code != cell.code ||
				outcome.Asked != cell.asked.State || !outcome.At.Equal(s.now) || outcome.Fingerprint == "" {
				t.Errorf("stored outcome %+v (%v)", outcome, outcome.Problem)
			}
			if outcome.Problem != nil && outcome.Problem.Current != nil {
				t.Error("the stored outcome names a current state, which moves on")
			}

			// Whatever was decided: again, the same; reused or late, nothing.
			s.now = s.now.Add(time.Second)
			again := s.send(cell.asked)
			wantAnswer(t, again, cell.code, want)
			if decided.Err != nil && !reflect.DeepEqual(stored(problem.From(decided.Err)), stored(problem.From(again.Err))) {
				t.Errorf("the stored problem changed from %#v to %#v", decided.Err, again.Err)
			}
			late := s.send(hold(id, seq-1, line("b", 1)))
			wantCode(t, late.Err, problem.StaleSeq)
			wantCurrent(t, late.Err, id, seq, cell.state)
			reused := s.send(hold(id, seq, line("b", 7)))
			wantCode(t, reused.Err, problem.SeqReused)
			wantCurrent(t, reused.Err, id, seq, cell.state)
			for _, c := range s.writes[len(s.writes)-3:] {
				if !c.Empty() {
					t.Errorf("a repeat, a stale or a reused seq wrote %+v", c)
				}
			}
		})
	}
}

// wantAnswer compares a decision with what it has to say: the outcome, and what
// the reservation is now.
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
		t.Errorf("current is %+v, want %+v", got, want)
	}
}

func TestShortageListsEveryShortLine(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 5, "b": 5, "c": 5})
	s.must(hold("other", 1, line("c", 2)))
	wanted := []stock.Line{
		{SKU: "a", Location: "east", Quantity: 1}, line("unknown", 2), line("c", 4), line("b", 5), line("a", 3), line("a", 3),
	}
	rejected := s.send(hold("order-1", 1, wanted...))
	wantCode(t, rejected.Err, problem.InsufficientStock)
	want := []problem.Shortage{
		{SKU: "a", Location: "east", Requested: 1, Available: 0},
		{SKU: "a", Location: "main", Requested: 6, Available: 5},
		{SKU: "c", Location: "main", Requested: 4, Available: 3},
		{SKU: "unknown", Location: "main", Requested: 2, Available: 0},
	}
	if got := problem.From(rejected.Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("shortages are %+v, want %+v", got, want)
	}
	if len(s.lastWrite().Levels) > 0 {
		t.Errorf("a rejection wrote levels: %+v", s.lastWrite().Levels)
	}
	// Stock that arrives later doesn't change what was decided.
	s.must(stock.ImportRow{ImportID: "late", Row: 1, SKU: "c", Location: "main", OnHand: 100})
	if got := problem.From(s.send(hold("order-1", 1, wanted...)).Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("the stored shortages became %+v", got)
	}
}

func TestAmendCountsItsOwnLinesAsAvailable(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10, "b": 3})
	s.must(hold("other", 1, line("a", 3)))
	s.must(hold("order-1", 1, line("a", 5)))
	rejected := s.send(hold("order-1", 2, line("a", 8), line("b", 4)))
	want := []problem.Shortage{
		{SKU: "a", Location: "main", Requested: 8, Available: 7},
		{SKU: "b", Location: "main", Requested: 4, Available: 3},
	}
	if got := problem.From(rejected.Err).Shortages; !slices.Equal(got, want) {
		t.Errorf("shortages are %+v, want %+v", got, want)
	}
	s.must(hold("order-1", 3, line("a", 7)))
	s.wantLevels(map[string]string{"a": "10/10", "b": "3/0"})
	s.must(hold("order-1", 4, line("b", 3)))
	s.wantLevels(map[string]string{"a": "10/3", "b": "3/3"})
}

func TestAmendStartsTheHoldAnew(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("order-1", 1, line("a", 5)))
	s.now = start.Add(stock.DefaultHold*time.Second - time.Millisecond)
	amended := s.must(hold("order-1", 2, line("a", 5)))
	if want := s.now.Add(stock.DefaultHold * time.Second); !amended.Reservation.ExpiresAt.Equal(want) {
		t.Errorf("the hold ends at %v, want %v", amended.Reservation.ExpiresAt, want)
	}
	if !amended.Reservation.CreatedAt.Equal(start) {
		t.Errorf("the reservation was made at %v, want %v", amended.Reservation.CreatedAt, start)
	}
	rejectedAt := s.now
	s.now = s.now.Add(time.Minute)
	s.send(hold("order-1", 3, line("a", 11)))
	if got, want := s.reservations["order-1"].ExpiresAt, rejectedAt.Add(stock.DefaultHold*time.Second); !got.Equal(want) {
		t.Errorf("a rejected amend moved the hold's end to %v from %v", got, want)
	}
}

// The same demand, written otherwise, is the same request.
func TestLinesAreMergedAndSorted(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10, "b": 10})
	lines := []stock.Line{line("b", 1), line("a", 2), line("b", 3), line("a", 2)}
	given := slices.Clone(lines)
	got := s.must(hold("order-1", 1, lines...)).Reservation.Lines
	if want := []stock.Line{line("a", 4), line("b", 4)}; !slices.Equal(got, want) {
		t.Errorf("lines are %v, want %v", got, want)
	}
	if !slices.Equal(lines, given) {
		t.Errorf("the request's own lines were changed to %v", lines)
	}
	if len(s.lastWrite().Entries) != 2 {
		t.Errorf("entries %+v, want one a level", s.lastWrite().Entries)
	}
	s.must(hold("order-1", 1, line("a", 4), line("b", 4)))
	longer := hold("order-1", 1, line("a", 4), line("b", 4))
	longer.HoldSeconds++
	wantCode(t, s.send(longer).Err, problem.SeqReused)
	wantCode(t, s.send(hold("order-1", 1, line("a", 4), stock.Line{SKU: "b", Location: "west", Quantity: 4})).Err, problem.SeqReused)
	wantCode(t, s.send(commit("order-1", 1)).Err, problem.SeqReused)
}

// The fingerprint is of the request that was stored last, not of any before.
func TestAnEarlierRequestUnderTheLastSeqIsReused(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("order-1", 1, line("a", 1)))
	s.must(hold("order-1", 2, line("a", 2)))
	wantCode(t, s.send(hold("order-1", 2, line("a", 1))).Err, problem.SeqReused)
	wantCode(t, s.send(hold("order-1", 1, line("a", 1))).Err, problem.StaleSeq)
}

// A success that is asked for again after the hold has run out is still a
// success of that seq, and says what became of it.
func TestRepeatedSuccessSaysWhatIsNow(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	asked := hold("order-1", 1, line("a", 4))
	s.must(asked)
	s.now = start.Add(stock.DefaultHold * time.Second)
	again := s.must(asked).Reservation
	if again.State != stock.Expired || again.Seq != 1 || !again.ExpiresAt.Equal(s.now) || !slices.Equal(again.Lines, []stock.Line{line("a", 4)}) {
		t.Errorf("the reservation is %+v, want it expired with its lines and its end", again)
	}
	s.wantLevels(map[string]string{"a": "10/0"})
}

func TestRepeatedRejectionOfAnAmendSaysWhatIsNow(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("order-1", 1, line("a", 4)))
	rejected := hold("order-1", 2, line("a", 11))
	wantCurrent(t, s.send(rejected).Err, "order-1", 2, stock.Held)
	s.now = start.Add(stock.DefaultHold * time.Second)
	again := s.send(rejected)
	wantCode(t, again.Err, problem.InsufficientStock)
	wantCurrent(t, again.Err, "order-1", 2, stock.Expired)
	if again.Reservation.State != stock.Expired {
		t.Errorf("the reservation is %+v, want it expired", again.Reservation)
	}
	stale := s.send(commit("order-1", 1))
	wantCurrent(t, stale.Err, "order-1", 2, stock.Expired)
}

func TestTombstoneStopsADelayedHold(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(release("order-1", 2))
	delayed := s.send(hold("order-1", 1, line("a", 4)))
	wantCode(t, delayed.Err, problem.StaleSeq)
	wantCurrent(t, delayed.Err, "order-1", 2, stock.Released)
	s.wantLevels(map[string]string{"a": "10/0"})
	if r, ok := s.reservations["order-1"]; !ok || r.State != stock.Released || len(r.Lines) > 0 {
		t.Errorf("the tombstone is %+v", r)
	}
}

// A first hold that is rejected takes its seq and leaves none.
func TestRejectionTakesItsSeq(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	asked := hold("order-1", 1, line("a", 11))
	wantCode(t, s.send(asked).Err, problem.InsufficientStock)
	s.must(stock.ImportRow{ImportID: "more", Row: 1, SKU: "a", Location: "main", OnHand: 100})
	wantCode(t, s.send(asked).Err, problem.InsufficientStock)
	s.must(hold("order-1", 2, line("a", 11)))
	wantCode(t, s.send(asked).Err, problem.StaleSeq)
	s.wantLevels(map[string]string{"a": "100/11"})
}
