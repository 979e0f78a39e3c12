package stock_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// history is one random history. It decides on a fake store and on the model, and
// remembers the answers.
type history struct {
	*rapid.T
	store       *fakeStore
	model       *model
	now         time.Time
	puts        []stock.Put
	adjustments []stock.Adjust
	imports     int64
	// answers has the first answer to each decided seq, by "id seq".
	answers map[string]error
}

// Random sequences of requests, repeats, late and reused seqs, adjustments,
// imports, expiries and rollbacks give what the model gives. The invariants hold
// after every step.
func TestInvariantsHoldInRandomHistories(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		h := &history{T: t, store: newFakeStore(), model: newModel(), now: start, answers: map[string]error{}}
		t.Repeat(map[string]func(*rapid.T){
			"":        func(t *rapid.T) { h.T = t; h.checkInvariants() },
			"batch":   func(t *rapid.T) { h.T = t; h.step(rapid.IntRange(1, 5).Draw(t, "commands")) },
			"one":     func(t *rapid.T) { h.T = t; h.step(1) },
			"sweep":   func(t *rapid.T) { h.T = t; h.sweep() },
			"time":    func(t *rapid.T) { h.T = t; h.advance() },
			"restock": func(t *rapid.T) { h.T = t; h.transact([]stock.Command{h.importRow()}) },
		})
	})
}

func (h *history) advance() {
	h.now = h.now.Add(time.Duration(rapid.SampledFrom([]int{1, 500, 999, 1000, 2000, 5000}).Draw(h.T, "ms")) * time.Millisecond)
}

func (h *history) step(n int) {
	commands := make([]stock.Command, n)
	for i := range commands {
		switch rapid.IntRange(0, 9).Draw(h.T, "kind") {
		case 0:
			commands[i] = h.adjust()
		case 1:
			commands[i] = h.importRow()
		case 2:
			commands[i] = stock.Expire{ID: id().Draw(h.T, "expire")}
		default:
			commands[i] = h.put()
		}
	}
	h.transact(commands)
}

// sweep expires every due hold, as the sweeper does.
func (h *history) sweep() {
	var commands []stock.Command
	for _, k := range slices.Sorted(maps.Keys(h.store.reservations)) {
		if held := h.store.reservations[k]; held.State == stock.Held && !held.ExpiresAt.After(h.now) {
			commands = append(commands, stock.Expire{ID: k})
		}
	}
	if len(commands) == 0 {
		return
	}
	h.commit(commands)
	for _, held := range h.store.reservations {
		if held.State != held.At(h.now).State {
			h.Fatalf("after a sweep %s is still stored as %s", held.ID, held.State)
		}
	}
}

// transact decides commands in one transaction. Sometimes it rolls back, and then
// decides each command alone, or none.
func (h *history) transact(commands []stock.Command) {
	needs := stock.NeedsOf(commands)
	for what, sorted := range map[string]bool{
		"reservations": increasing(needs.Reservations, func(a, b string) bool { return a < b }),
		"levels":       increasing(needs.Levels, func(a, b stock.Key) bool { return a.Compare(b) < 0 }),
		"adjustments":  increasing(needs.Adjustments, func(a, b string) bool { return a < b }),
	} {
		if !sorted {
			h.Fatalf("the needed %s are not sorted or have repeats: %+v", what, needs)
		}
	}
	switch rapid.SampledFrom([]string{"commit", "commit", "commit", "commit", "again alone", "lost"}).Draw(h.T, "transaction") {
	case "lost":
		if _, _, err := h.store.decide(h.now, commands); err != nil {
			h.Fatal(err)
		}
		return
	case "again alone":
		if _, _, err := h.store.decide(h.now, commands); err != nil {
			h.Fatal(err)
		}
		for _, c := range commands {
			h.commit([]stock.Command{c})
		}
		return
	}
	h.commit(commands)
}

func (h *history) commit(commands []stock.Command) {
	results, err := h.store.do(h.now, commands...)
	if err != nil {
		h.Fatal(err)
	}
	for i, c := range commands {
		switch c := c.(type) {
		case stock.Put:
			h.comparePut(c, results[i])
		case stock.Adjust:
			code, onHand := h.model.adjust(c, h.now)
			h.wantCode(c, results[i].Err, code)
			if code != problem.KeyReused && results[i].Adjustment.Level.OnHand != onHand {
				h.Fatalf("%+v: the level is %+v, want %d on hand", c, results[i].Adjustment.Level, onHand)
			}
		case stock.ImportRow:
			code, changed := h.model.importRow(c, h.now)
			h.wantCode(c, results[i].Err, code)
			if results[i].Changed != changed {
				h.Fatalf("%+v: changed is %v, want %v", c, results[i].Changed, changed)
			}
		case stock.Expire:
			h.compareReservation(c.ID, results[i].Reservation)
		}
	}
}

func (h *history) comparePut(p stock.Put, got stock.Result) {
	code, shortages := h.model.put(p, h.now)
	h.wantCode(p, got.Err, code)
	now := h.model.reservation(p.ID, h.now)
	if got.Err != nil {
		answer := problem.From(got.Err)
		if !slices.Equal(answer.Shortages, shortages) {
			h.Fatalf("%+v: shortages are %+v, want %+v", p, answer.Shortages, shortages)
		}
		want := problem.Current{ID: p.ID, Seq: now.seq, State: string(now.state)}
		if answer.Current == nil || *answer.Current != want {
			h.Fatalf("%+v: current is %+v, want %+v", p, answer.Current, want)
		}
	}
	if code == problem.StaleSeq || code == problem.SeqReused {
		return
	}
	h.compareReservation(p.ID, got.Reservation)

	// The answer to a seq never changes (invariant 6).
	at := fmt.Sprint(p.ID, " ", p.Seq)
	first, ok := h.answers[at]
	if !ok {
		h.answers[at] = got.Err
		return
	}
	if problem.CodeOf(first) != problem.CodeOf(got.Err) || first != nil && first.Error() != got.Err.Error() {
		h.Fatalf("%s got %v first, and now %v", at, first, got.Err)
	}
}

func (h *history) compareReservation(id string, got stock.Reservation) {
	want := h.model.reservation(id, h.now)
	lines := map[stock.Key]int64{}
	for _, l := range got.Lines {
		lines[l.Key()] += l.Quantity
	}
	if got.ID != id || got.Seq != want.seq || got.State != want.state || !maps.Equal(lines, want.lines) ||
		len(got.Lines) != len(lines) || !got.ExpiresAt.Equal(want.expires) {
		h.Fatalf("reservation %s is\n%+v, want\n%+v", id, got, want)
	}
	if !increasing(got.Lines, func(a, b stock.Line) bool { return a.Key().Compare(b.Key()) < 0 }) {
		h.Fatalf("reservation %s has lines that are not sorted: %v", id, got.Lines)
	}
}

func (h *history) wantCode(c stock.Command, err error, want problem.Code) {
	if got := problem.CodeOf(err); got != want {
		h.Fatalf("%+v got %q (%v), want %q", c, got, err, want)
	}
}

// checkInvariants checks the store, and compares it with the model.
func (h *history) checkInvariants() {
	if err := h.store.checkInvariants(); err != nil {
		h.Fatal(err)
	}
	for _, id := range h.model.ids() {
		h.compareReservation(id, h.store.reservations[id].At(h.now))
	}
	if got, want := slices.Sorted(maps.Keys(h.store.reservations)), h.model.ids(); !slices.Equal(got, want) {
		h.Fatalf("reservations are %v, want %v", got, want)
	}
	changes := maps.Clone(h.model.levelVersions)
	for _, e := range h.store.ledger {
		switch e.Reason {
		case stock.ReasonHeld, stock.ReasonAmended, stock.ReasonCommitted, stock.ReasonReleased, stock.ReasonReturned, stock.ReasonExpired:
			changes[stock.Key{Location: e.Location, SKU: e.SKU}]++
		}
	}
	overdue := map[stock.Key]int64{} // reserved by due holds
	for _, held := range h.store.reservations {
		if held.State != held.At(h.now).State {
			for _, l := range held.Lines {
				overdue[l.Key()] += l.Quantity
			}
		}
	}
	names := map[stock.Key]string{}
	for k, l := range h.store.levels {
		names[k] = l.Name
		onHand, reserved := h.model.level(k, h.now)
		if l.OnHand != onHand || l.Reserved != reserved+overdue[k] {
			h.Fatalf("level %v is %+v, want %d on hand and %d reserved, and %d overdue", k, l, onHand, reserved, overdue[k])
		}
		if l.Version != changes[k] {
			h.Fatalf("level %v has version %d after %d changes", k, l.Version, changes[k])
		}
	}
	if !reflect.DeepEqual(names, h.model.names) {
		h.Fatalf("levels are %v, want %v", names, h.model.names)
	}
}

func increasing[E any](s []E, less func(a, b E) bool) bool {
	for i := 1; i < len(s); i++ {
		if !less(s[i-1], s[i]) {
			return false
		}
	}
	return true
}

func id() *rapid.Generator[string] { return rapid.SampledFrom([]string{"r1", "r2", "r3"}) }

func keys() *rapid.Generator[stock.Key] {
	return rapid.SampledFrom([]stock.Key{
		{Location: "main", SKU: "a"}, {Location: "main", SKU: "b"}, {Location: "east", SKU: "a"}, {Location: "main", SKU: "rare"},
	})
}

// put is mostly a new request under the next seq. Sometimes it repeats a request,
// skips a seq, or uses an old one.
func (h *history) put() stock.Put {
	if len(h.puts) > 0 && rapid.IntRange(0, 3).Draw(h.T, "resend") == 0 {
		sent := rapid.SampledFrom(h.puts).Draw(h.T, "sent")
		slices.Reverse(sent.Lines) // the same demand in another order
		return sent
	}
	p := stock.Put{ID: id().Draw(h.T, "id"), State: rapid.SampledFrom([]stock.State{stock.Held, stock.Held, stock.Held, stock.Committed, stock.Released}).Draw(h.T, "state")}
	last := h.model.reservation(p.ID, h.now).seq
	p.Seq = max(1, last+rapid.SampledFrom([]int64{1, 1, 1, 1, 2, 0, -1, -2}).Draw(h.T, "seq"))
	if p.State == stock.Held {
		p.HoldSeconds = rapid.Int64Range(1, 6).Draw(h.T, "hold_seconds")
		for range rapid.IntRange(1, 4).Draw(h.T, "lines") {
			k := keys().Draw(h.T, "key")
			p.Lines = append(p.Lines, stock.Line{SKU: k.SKU, Location: k.Location, Quantity: rapid.Int64Range(1, 4).Draw(h.T, "quantity")})
		}
	}
	sent := p
	sent.Lines = slices.Clone(p.Lines)
	h.puts = append(h.puts, sent)
	return p
}

func (h *history) adjust() stock.Adjust {
	if len(h.adjustments) > 0 && rapid.IntRange(0, 3).Draw(h.T, "resend") == 0 {
		return rapid.SampledFrom(h.adjustments).Draw(h.T, "asked")
	}
	k := keys().Draw(h.T, "key")
	a := stock.Adjust{
		ID: fmt.Sprint("adj-", rapid.IntRange(1, 12).Draw(h.T, "adjustment")), SKU: k.SKU, Location: k.Location,
		Reason: rapid.SampledFrom(stock.AdjustmentReasons()).Draw(h.T, "reason"),
	}
	if rapid.Bool().Draw(h.T, "by delta") {
		delta := rapid.Int64Range(-4, 4).Filter(func(d int64) bool { return d != 0 }).Draw(h.T, "delta")
		a.Delta = &delta
	} else {
		a.OnHand = new(rapid.Int64Range(0, 8).Draw(h.T, "on_hand"))
	}
	if rapid.IntRange(0, 3).Draw(h.T, "expecting") == 0 {
		a.ExpectedOnHand = new(rapid.Int64Range(0, 4).Draw(h.T, "expected"))
	}
	h.adjustments = append(h.adjustments, a)
	return a
}

// importRow is a row of an import with an id of its own.
func (h *history) importRow() stock.ImportRow {
	h.imports++
	k := rapid.SampledFrom([]stock.Key{{Location: "main", SKU: "a"}, {Location: "main", SKU: "b"}, {Location: "east", SKU: "a"}}).Draw(h.T, "key")
	return stock.ImportRow{
		ImportID: fmt.Sprint("import-", h.imports), Row: 1, SKU: k.SKU, Location: k.Location,
		Name: rapid.SampledFrom([]string{"", "apple"}).Draw(h.T, "name"), OnHand: rapid.Int64Range(0, 12).Draw(h.T, "on_hand"),
	}
}
