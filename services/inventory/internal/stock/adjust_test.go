package stock_test

import (
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

func by(id, sku string, delta int64) stock.Adjust {
	return stock.Adjust{ID: id, SKU: sku, Location: stock.MainLocation, Delta: &delta, Reason: stock.ReasonReceived}
}

func to(id, sku string, onHand int64) stock.Adjust {
	return stock.Adjust{ID: id, SKU: sku, Location: stock.MainLocation, OnHand: &onHand, Reason: stock.ReasonCounted}
}

func expecting(a stock.Adjust, onHand int64) stock.Adjust {
	a.ExpectedOnHand = &onHand
	return a
}

func row(id, sku, name string, onHand int64) stock.ImportRow {
	return stock.ImportRow{ImportID: id, Row: 7, SKU: sku, Location: stock.MainLocation, Name: name, OnHand: onHand}
}

// Level a has 10 on hand and 4 reserved; b does not exist.
func TestAdjust(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		adjust stock.Adjust
		code   problem.Code
		level  string
		delta  int64 // of the ledger's entry; 0 is no entry
	}{
		{"by more", by("adj", "a", 5), "", "15/4", 5},
		{"by less", by("adj", "a", -5), "", "5/4", -5},
		{"by less, down to what is reserved", by("adj", "a", -6), "", "4/4", -6},
		{"by less than is reserved", by("adj", "a", -7), problem.BelowReserved, "10/4", 0},
		{"by less than there is", by("adj", "a", -11), problem.BelowReserved, "10/4", 0},
		{"to more", to("adj", "a", 12), "", "12/4", 2},
		{"to the same", to("adj", "a", 10), "", "10/4", 0},
		{"to what is reserved", to("adj", "a", 4), "", "4/4", -6},
		{"to less than is reserved", to("adj", "a", 3), problem.BelowReserved, "10/4", 0},
		{"as expected", expecting(by("adj", "a", 1), 10), "", "11/4", 1},
		{"not as expected", expecting(by("adj", "a", 1), 11), problem.PreconditionFailed, "10/4", 0},
		{"not as expected and too little", expecting(to("adj", "a", 3), 6), problem.PreconditionFailed, "10/4", 0},
		{"a new level by more", by("adj", "b", 3), "", "3/0", 3},
		{"a new level to something", to("adj", "b", 3), "", "3/0", 3},
		{"a new level to nothing", to("adj", "b", 0), "", "0/0", 0},
		{"a new level by less", by("adj", "b", -1), problem.BelowReserved, "", 0},
		{"a new level, none expected", expecting(by("adj", "b", 3), 0), "", "3/0", 3},
		{"a new level, some expected", expecting(by("adj", "b", 3), 1), problem.PreconditionFailed, "", 0},
		{"to the most there may be", to("adj", "b", stock.MaxOnHand), "", "1000000000000/0", stock.MaxOnHand},
		{"by the most there may be", by("adj", "b", stock.MaxOnHand), "", "1000000000000/0", stock.MaxOnHand},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, map[string]int64{"a": 10})
			s.must(hold("order-1", 1, line("a", 4)))
			s.now = start.Add(time.Second)
			key := stock.Key{Location: test.adjust.Location, SKU: test.adjust.SKU}
			levelBefore, entriesBefore := s.levels[key], len(s.ledger)

			got := s.send(test.adjust)
			wantCode(t, got.Err, test.code)
			levels := map[string]string{"a": "10/4"}
			if test.level != "" {
				levels[test.adjust.SKU] = test.level
			}
			s.wantLevels(levels)

			entries := s.ledger[entriesBefore:]
			if (test.delta != 0) != (len(entries) == 1) {
				t.Fatalf("the ledger gained %+v, want an entry of %d", entries, test.delta)
			}
			for _, e := range entries {
				if e.OnHandDelta != test.delta || e.ReservedDelta != 0 || e.Reason != test.adjust.Reason ||
					e.Ref != "adj" || e.Seq != 0 || !e.At.Equal(s.now) {
					t.Errorf("the entry is %+v", e)
				}
			}
			kept, ok := s.adjustments["adj"]
			if !ok || problem.CodeOf(got.Err) != "" && kept.Problem == nil || got.Err == nil && kept.Problem != nil ||
				!kept.CreatedAt.Equal(s.now) || kept.Level != got.Adjustment.Level {
				t.Errorf("the adjustment is stored as %+v (%v)", kept, ok)
			}
			switch {
			case test.code == "" && (got.Level != s.levels[key] || got.Adjustment.Level != got.Level):
				t.Errorf("the answer's level is %+v and %+v, stored is %+v", got.Level, got.Adjustment.Level, s.levels[key])
			case test.code != "" && s.levels[key] != levelBefore:
				t.Errorf("a rejection changed the level to %+v", s.levels[key])
			}

			// Again after the level has moved on: the same answer, nothing changed.
			s.must(to("later", test.adjust.SKU, 100))
			again := s.send(test.adjust)
			if !s.lastWrite().Empty() {
				t.Errorf("the repeat wrote %+v", s.lastWrite())
			}
			wantCode(t, again.Err, test.code)
			if got.Err != nil && again.Err.Error() != got.Err.Error() {
				t.Errorf("the stored problem became %v, it was %v", again.Err, got.Err)
			}
			if again.Level != got.Level || again.Adjustment.Level != got.Adjustment.Level {
				t.Errorf("the level became %+v, it was %+v", again.Level, got.Level)
			}
		})
	}
}

func TestAdjustmentIDIsForOneAdjustment(t *testing.T) {
	t.Parallel()
	original := expecting(by("adj", "a", 5), 10)
	original.Note = "pallet 7"
	for name, change := range map[string]func(*stock.Adjust){
		"sku":               func(a *stock.Adjust) { a.SKU = "b" },
		"location":          func(a *stock.Adjust) { a.Location = "east" },
		"delta":             func(a *stock.Adjust) { a.Delta = new(int64(6)) },
		"on_hand for delta": func(a *stock.Adjust) { a.Delta, a.OnHand = nil, new(int64(5)) },
		"expected":          func(a *stock.Adjust) { a.ExpectedOnHand = new(int64(0)) },
		"nothing expected":  func(a *stock.Adjust) { a.ExpectedOnHand = nil },
		"reason":            func(a *stock.Adjust) { a.Reason = stock.ReasonCorrected },
		"note":              func(a *stock.Adjust) { a.Note = "pallet 8" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, map[string]int64{"a": 10})
			s.must(original)
			other := original
			change(&other)
			wantCode(t, s.send(other).Err, problem.KeyReused)
			if !s.lastWrite().Empty() {
				t.Errorf("a reused id wrote %+v", s.lastWrite())
			}
			s.must(original)
			s.wantLevels(map[string]string{"a": "15/0"})
		})
	}
}

// An adjustment that would overflow a level is not valid, which is no outcome:
// nothing is stored, and its id stays free.
func TestAdjustmentThatOverflowsIsInvalid(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	got := s.send(by("adj", "a", stock.MaxOnHand-9))
	wantCode(t, got.Err, problem.Invalid)
	wantPointers(t, got.Err, []string{"/delta"})
	if !s.lastWrite().Empty() {
		t.Errorf("it wrote %+v", s.lastWrite())
	}
	s.must(by("adj", "a", stock.MaxOnHand-10))
}

// Goods that come back may lift a level above what it may be set to. It can
// still be brought down.
func TestLevelAboveTheMostMayBeLowered(t *testing.T) {
	t.Parallel()
	s := newShelf(t, map[string]int64{"a": 10})
	s.must(hold("order-1", 1, line("a", 10)))
	s.must(commit("order-1", 2))
	s.must(to("full", "a", stock.MaxOnHand))
	s.must(release("order-1", 3))
	wantCode(t, s.send(by("more", "a", 1)).Err, problem.Invalid)
	s.must(by("lost", "a", -5))
	s.wantLevels(map[string]string{"a": "1000000000005/0"})
}

// Level a is named apple and has 10 on hand and 4 reserved; b does not exist.
func TestImportRow(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		row     stock.ImportRow
		code    problem.Code
		changed bool
		level   string
		called  string
		delta   int64
	}{
		{"already true", row("i", "a", "apple", 10), "", false, "10/4", "apple", 0},
		{"more", row("i", "a", "apple", 12), "", true, "12/4", "apple", 2},
		{"down to what is reserved", row("i", "a", "apple", 4), "", true, "4/4", "apple", -6},
		{"less than is reserved", row("i", "a", "pear", 3), problem.BelowReserved, false, "10/4", "apple", 0},
		{"another name", row("i", "a", "pear", 10), "", true, "10/4", "pear", 0},
		{"another name and more", row("i", "a", "pear", 11), "", true, "11/4", "pear", 1},
		{"a new level", row("i", "b", "banana", 3), "", true, "3/0", "banana", 3},
		{"a new level of nothing", row("i", "b", "banana", 0), "", true, "0/0", "banana", 0},
		{"a new level of nothing without a name", row("i", "b", "", 0), "", true, "0/0", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, nil)
			s.must(row("first", "a", "apple", 10))
			s.must(hold("order-1", 1, line("a", 4)))
			key := stock.Key{Location: test.row.Location, SKU: test.row.SKU}
			entriesBefore := len(s.ledger)

			got := s.send(test.row)
			wantCode(t, got.Err, test.code)
			if got.Changed != test.changed || got.Level != s.levels[key] || got.Level.Name != test.called {
				t.Errorf("the answer is changed %v, %+v; stored is %+v", got.Changed, got.Level, s.levels[key])
			}
			if s.lastWrite().Empty() == test.changed {
				t.Errorf("it wrote %+v", s.lastWrite())
			}
			levels := map[string]string{"a": "10/4"}
			levels[test.row.SKU] = test.level
			s.wantLevels(levels)
			entries := s.ledger[entriesBefore:]
			if (test.delta != 0) != (len(entries) == 1) {
				t.Fatalf("the ledger gained %+v, want an entry of %d", entries, test.delta)
			}
			for _, e := range entries {
				if e.OnHandDelta != test.delta || e.ReservedDelta != 0 || e.Reason != stock.ReasonImported || e.Ref != "i" || e.Seq != 7 {
					t.Errorf("the entry is %+v", e)
				}
			}

			again := s.send(test.row)
			wantCode(t, again.Err, test.code)
			if again.Changed || !s.lastWrite().Empty() {
				t.Errorf("the row a second time changed something: %+v", s.lastWrite())
			}
		})
	}
}

// A level's version counts its changes: one command is one change of it,
// whatever it changes of it.
func TestVersionGrowsByOne(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		command stock.Command
		grows   int64
	}{
		"hold":                            {hold("order-2", 1, line("a", 1), line("a", 2)), 1},
		"amend":                           {hold("order-1", 2, line("a", 1)), 1},
		"amend to the same":               {hold("order-1", 2, line("a", 4)), 0},
		"commit":                          {commit("order-1", 2), 1},
		"release":                         {release("order-1", 2), 1},
		"shortage":                        {hold("order-2", 1, line("a", 11)), 0},
		"adjustment":                      {by("adj", "a", 1), 1},
		"adjustment to the same":          {to("adj", "a", 10), 0},
		"adjustment, rejected":            {to("adj", "a", 3), 0},
		"new level by adjustment":         {by("adj", "b", 1), 1},
		"new empty level":                 {to("adj", "b", 0), 1},
		"import":                          {row("i", "a", "", 11), 1},
		"import that is true":             {row("i", "a", "", 10), 0},
		"import of a name":                {row("i", "a", "apple", 10), 1},
		"import of a name and stock":      {row("i", "a", "apple", 11), 1},
		"import of a new level":           {row("i", "b", "banana", 3), 1},
		"import of a new, empty level":    {row("i", "b", "banana", 0), 1},
		"import of a new, nameless level": {row("i", "b", "", 3), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShelf(t, map[string]int64{"a": 10})
			s.must(hold("order-1", 1, line("a", 4)))
			key := stock.Key{Location: "main", SKU: "a"}
			if slices.Contains(test.command.Needs().Levels, stock.Key{Location: "main", SKU: "b"}) {
				key.SKU = "b"
			}
			before := s.levels[key].Version
			s.send(test.command)
			if got := s.levels[key].Version - before; got != test.grows {
				t.Errorf("the version grew by %d, want %d", got, test.grows)
			}
		})
	}
}
