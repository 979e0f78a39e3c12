package stock_test

import (
	"slices"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

func adjustBy(id, sku string, delta int64) stock.Adjust {
	return stock.Adjust{ID: id, SKU: sku, Location: stock.MainLocation, Delta: &delta, Reason: stock.ReasonReceived}
}

func adjustTo(id, sku string, onHand int64) stock.Adjust {
	return stock.Adjust{ID: id, SKU: sku, Location: stock.MainLocation, OnHand: &onHand, Reason: stock.ReasonCounted}
}

func expecting(a stock.Adjust, onHand int64) stock.Adjust {
	a.ExpectedOnHand = &onHand
	return a
}

func importRow(id, sku, name string, onHand int64) stock.ImportRow {
	return stock.ImportRow{ImportID: id, Row: 7, SKU: sku, Location: stock.MainLocation, Name: name, OnHand: onHand}
}

// Level a has 10 on hand and 4 reserved. Level b does not exist.
func TestAdjust(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		adjust stock.Adjust
		code   problem.Code
		level  string
		delta  int64 // of the ledger entry; 0 means no entry
	}{
		{"by more", adjustBy("adj", "a", 5), "", "15/4", 5},
		{"by less", adjustBy("adj", "a", -5), "", "5/4", -5},
		{"by less, down to what is reserved", adjustBy("adj", "a", -6), "", "4/4", -6},
		{"by less, below what is reserved", adjustBy("adj", "a", -7), problem.BelowReserved, "10/4", 0},
		{"by more than is on hand", adjustBy("adj", "a", -11), problem.BelowReserved, "10/4", 0},
		{"to more", adjustTo("adj", "a", 12), "", "12/4", 2},
		{"to the same", adjustTo("adj", "a", 10), "", "10/4", 0},
		{"to what is reserved", adjustTo("adj", "a", 4), "", "4/4", -6},
		{"to below what is reserved", adjustTo("adj", "a", 3), problem.BelowReserved, "10/4", 0},
		{"as expected", expecting(adjustBy("adj", "a", 1), 10), "", "11/4", 1},
		{"not as expected", expecting(adjustBy("adj", "a", 1), 11), problem.PreconditionFailed, "10/4", 0},
		{"not as expected and too little", expecting(adjustTo("adj", "a", 3), 6), problem.PreconditionFailed, "10/4", 0},
		{"a new level by more", adjustBy("adj", "b", 3), "", "3/0", 3},
		{"a new level to something", adjustTo("adj", "b", 3), "", "3/0", 3},
		{"a new level to nothing", adjustTo("adj", "b", 0), "", "0/0", 0},
		{"a new level by less", adjustBy("adj", "b", -1), problem.BelowReserved, "", 0},
		{"a new level, none expected", expecting(adjustBy("adj", "b", 3), 0), "", "3/0", 3},
		{"a new level, some expected", expecting(adjustBy("adj", "b", 3), 1), problem.PreconditionFailed, "", 0},
		{"to the limit", adjustTo("adj", "b", stock.MaxOnHand), "", "1000000000000/0", stock.MaxOnHand},
		{"by the limit", adjustBy("adj", "b", stock.MaxOnHand), "", "1000000000000/0", stock.MaxOnHand},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, map[string]int64{"a": 10})
			h.must(hold("order-1", 1, line("a", 4)))
			h.now = start.Add(time.Second)
			key := stock.Key{Location: test.adjust.Location, SKU: test.adjust.SKU}
			levelBefore, entriesBefore := h.levels[key], len(h.ledger)

			got := h.send(test.adjust)
			wantCode(t, got.Err, test.code)
			levels := map[string]string{"a": "10/4"}
			if test.level != "" {
				levels[test.adjust.SKU] = test.level
			}
			h.wantLevels(levels)

			entries := h.ledger[entriesBefore:]
			if (test.delta != 0) != (len(entries) == 1) {
				t.Fatalf("the new ledger entries are %+v, want one of %d", entries, test.delta)
			}
			for _, e := range entries {
				if e.OnHandDelta != test.delta || e.ReservedDelta != 0 || e.Reason != test.adjust.Reason ||
					e.Ref != "adj" || e.Seq != 0 || !e.At.Equal(h.now) {
					t.Errorf("the entry is %+v", e)
				}
			}
			kept, ok := h.adjustments["adj"]
			if !ok || problem.CodeOf(got.Err) != "" && kept.Problem == nil || got.Err == nil && kept.Problem != nil ||
				!kept.CreatedAt.Equal(h.now) || kept.Level != got.Adjustment.Level {
				t.Errorf("the adjustment is stored as %+v (%v)", kept, ok)
			}
			switch {
			case test.code == "" && (got.Level != h.levels[key] || got.Adjustment.Level != got.Level):
				t.Errorf("the answer's level is %+v and %+v, the stored one is %+v", got.Level, got.Adjustment.Level, h.levels[key])
			case test.code != "" && h.levels[key] != levelBefore:
				t.Errorf("a rejection changed the level to %+v", h.levels[key])
			}

			// A repeat after the level has moved gets the same answer and changes
			// nothing.
			h.must(adjustTo("later", test.adjust.SKU, 100))
			again := h.send(test.adjust)
			if !h.lastWrite().Empty() {
				t.Errorf("the repeat wrote %+v", h.lastWrite())
			}
			wantCode(t, again.Err, test.code)
			if got.Err != nil && again.Err.Error() != got.Err.Error() {
				t.Errorf("the stored problem became %v, was %v", again.Err, got.Err)
			}
			if again.Level != got.Level || again.Adjustment.Level != got.Adjustment.Level {
				t.Errorf("the level became %+v, was %+v", again.Level, got.Level)
			}
		})
	}
}

func TestAdjustmentIDCannotBeReused(t *testing.T) {
	t.Parallel()
	original := expecting(adjustBy("adj", "a", 5), 10)
	original.Note = "pallet 7"
	for name, change := range map[string]func(*stock.Adjust){
		"sku":               func(a *stock.Adjust) { a.SKU = "b" },
		"location":          func(a *stock.Adjust) { a.Location = "east" },
		"delta":             func(a *stock.Adjust) { a.Delta = new(int64(6)) },
		"on_hand for delta": func(a *stock.Adjust) { a.Delta, a.OnHand = nil, new(int64(5)) },
		"expected":          func(a *stock.Adjust) { a.ExpectedOnHand = new(int64(0)) },
		"no expectation":    func(a *stock.Adjust) { a.ExpectedOnHand = nil },
		"reason":            func(a *stock.Adjust) { a.Reason = stock.ReasonCorrected },
		"note":              func(a *stock.Adjust) { a.Note = "pallet 8" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, map[string]int64{"a": 10})
			h.must(original)
			other := original
			change(&other)
			wantCode(t, h.send(other).Err, problem.KeyReused)
			if !h.lastWrite().Empty() {
				t.Errorf("a reused id wrote %+v", h.lastWrite())
			}
			h.must(original)
			h.wantLevels(map[string]string{"a": "15/0"})
		})
	}
}

// An adjustment that would overflow a level is invalid. That is not an outcome:
// nothing is stored, and its id stays free.
func TestOverflowingAdjustmentIsInvalid(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	got := h.send(adjustBy("adj", "a", stock.MaxOnHand-9))
	wantCode(t, got.Err, problem.Invalid)
	wantPointers(t, got.Err, []string{"/delta"})
	if !h.lastWrite().Empty() {
		t.Errorf("the changes are %+v", h.lastWrite())
	}
	h.must(adjustBy("adj", "a", stock.MaxOnHand-10))
}

// Returned goods may lift a level above the limit of an adjustment. The level can
// still be lowered.
func TestLevelAboveTheLimitMayBeLowered(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10})
	h.must(hold("order-1", 1, line("a", 10)))
	h.must(commit("order-1", 2))
	h.must(adjustTo("full", "a", stock.MaxOnHand))
	h.must(release("order-1", 3))
	wantCode(t, h.send(adjustBy("more", "a", 1)).Err, problem.Invalid)
	h.must(adjustBy("lost", "a", -5))
	h.wantLevels(map[string]string{"a": "1000000000005/0"})
}

// Level a is named apple, and has 10 on hand and 4 reserved. Level b does not
// exist.
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
		{"no change", importRow("i", "a", "apple", 10), "", false, "10/4", "apple", 0},
		{"more", importRow("i", "a", "apple", 12), "", true, "12/4", "apple", 2},
		{"down to what is reserved", importRow("i", "a", "apple", 4), "", true, "4/4", "apple", -6},
		{"below what is reserved", importRow("i", "a", "pear", 3), problem.BelowReserved, false, "10/4", "apple", 0},
		{"another name", importRow("i", "a", "pear", 10), "", true, "10/4", "pear", 0},
		{"another name and more", importRow("i", "a", "pear", 11), "", true, "11/4", "pear", 1},
		{"a new level", importRow("i", "b", "banana", 3), "", true, "3/0", "banana", 3},
		{"a new level of nothing", importRow("i", "b", "banana", 0), "", true, "0/0", "banana", 0},
		{"a new level of nothing without a name", importRow("i", "b", "", 0), "", true, "0/0", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, nil)
			h.must(importRow("first", "a", "apple", 10))
			h.must(hold("order-1", 1, line("a", 4)))
			key := stock.Key{Location: test.row.Location, SKU: test.row.SKU}
			entriesBefore := len(h.ledger)

			got := h.send(test.row)
			wantCode(t, got.Err, test.code)
			if got.Changed != test.changed || got.Level != h.levels[key] || got.Level.Name != test.called {
				t.Errorf("the answer says changed %v and %+v; the stored level is %+v", got.Changed, got.Level, h.levels[key])
			}
			if h.lastWrite().Empty() == test.changed {
				t.Errorf("the changes are %+v", h.lastWrite())
			}
			levels := map[string]string{"a": "10/4"}
			levels[test.row.SKU] = test.level
			h.wantLevels(levels)
			entries := h.ledger[entriesBefore:]
			if (test.delta != 0) != (len(entries) == 1) {
				t.Fatalf("the new ledger entries are %+v, want one of %d", entries, test.delta)
			}
			for _, e := range entries {
				if e.OnHandDelta != test.delta || e.ReservedDelta != 0 || e.Reason != stock.ReasonImported || e.Ref != "i" || e.Seq != 7 {
					t.Errorf("the entry is %+v", e)
				}
			}

			again := h.send(test.row)
			wantCode(t, again.Err, test.code)
			if again.Changed || !h.lastWrite().Empty() {
				t.Errorf("the repeated row changed %+v", h.lastWrite())
			}
		})
	}
}

// A level's version counts the commands that changed it, however many of its fields
// they changed.
func TestCommandRaisesTheLevelVersionByOne(t *testing.T) {
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
		"adjustment":                      {adjustBy("adj", "a", 1), 1},
		"adjustment to the same":          {adjustTo("adj", "a", 10), 0},
		"adjustment, rejected":            {adjustTo("adj", "a", 3), 0},
		"new level by adjustment":         {adjustBy("adj", "b", 1), 1},
		"new empty level":                 {adjustTo("adj", "b", 0), 1},
		"import":                          {importRow("i", "a", "", 11), 1},
		"import without a change":         {importRow("i", "a", "", 10), 0},
		"import of a name":                {importRow("i", "a", "apple", 10), 1},
		"import of a name and stock":      {importRow("i", "a", "apple", 11), 1},
		"import of a new level":           {importRow("i", "b", "banana", 3), 1},
		"import of a new, empty level":    {importRow("i", "b", "banana", 0), 1},
		"import of a new, nameless level": {importRow("i", "b", "", 3), 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t, map[string]int64{"a": 10})
			h.must(hold("order-1", 1, line("a", 4)))
			key := stock.Key{Location: "main", SKU: "a"}
			if slices.Contains(test.command.Needs().Levels, stock.Key{Location: "main", SKU: "b"}) {
				key.SKU = "b"
			}
			before := h.levels[key].Version
			h.send(test.command)
			if got := h.levels[key].Version - before; got != test.grows {
				t.Errorf("the version rose by %d, want %d", got, test.grows)
			}
		})
	}
}
