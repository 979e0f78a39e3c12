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

// run is one random history: the real rules on a memory, the model beside them,
// and what callers have been told so far.
type run struct {
	*rapid.T
	memory  *memory
	model   *model
	now     time.Time
	puts    []stock.Put
	asked   []stock.Adjust
	imports int64
	// told is the first answer to each seq that was an outcome, by "id seq".
	told map[string]error
}

// Any sequence of requests, repeats, delays, reused seqs, counts, expiries and
// rolled back transactions gives what the model gives, and keeps the
// invariants after every step.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := &run{T: t, memory: newMemory(), model: newModel(), now: start, told: map[string]error{}}
		t.Repeat(map[string]func(*rapid.T){
			"":        func(t *rapid.T) { r.T = t; r.check() },
			"batch":   func(t *rapid.T) { r.T = t; r.step(rapid.IntRange(1, 5).Draw(t, "commands")) },
			"one":     func(t *rapid.T) { r.T = t; r.step(1) },
			"sweep":   func(t *rapid.T) { r.T = t; r.sweep() },
			"time":    func(t *rapid.T) { r.T = t; r.pass() },
			"restock": func(t *rapid.T) { r.T = t; r.transact([]stock.Command{r.importRow()}) },
		})
	})
}

func (r *run) pass() {
	r.now = r.now.Add(time.Duration(rapid.SampledFrom([]int{1, 500, 999, 1000, 2000, 5000}).Draw(r.T, "ms")) * time.Millisecond)
}

func (r *run) step(n int) {
	commands := make([]stock.Command, n)
	for i := range commands {
		switch rapid.IntRange(0, 9).Draw(r.T, "kind") {
		case 0:
			commands[i] = r.adjust()
		case 1:
			commands[i] = r.importRow()
		case 2:
			commands[i] = stock.Expire{ID: id().Draw(r.T, "expire")}
		default:
			commands[i] = r.put()
		}
	}
	r.transact(commands)
}

// sweep expires every hold that is due, as the sweeper does.
func (r *run) sweep() {
	var commands []stock.Command
	for _, k := range slices.Sorted(maps.Keys(r.memory.reservations)) {
		if held := r.memory.reservations[k]; held.State == stock.Held && !held.ExpiresAt.After(r.now) {
			commands = append(commands, stock.Expire{ID: k})
		}
	}
	if len(commands) == 0 {
		return
	}
	r.commit(commands)
	for _, held := range r.memory.reservations {
		if held.State != held.At(r.now).State {
			r.Fatalf("after a sweep %s is still stored as %s", held.ID, held.State)
		}
	}
}

// transact decides commands in one transaction; now and then that is rolled
// back, and each is decided again alone, or not at all.
func (r *run) transact(commands []stock.Command) {
	needs := stock.NeedsOf(commands)
	for what, sorted := range map[string]bool{
		"reservations": increasing(needs.Reservations, func(a, b string) bool { return a < b }),
		"levels":       increasing(needs.Levels, func(a, b stock.Key) bool { return a.Compare(b) < 0 }),
		"adjustments":  increasing(needs.Adjustments, func(a, b string) bool { return a < b }),
	} {
		if !sorted {
			r.Fatalf("needed %s are not sorted or have repeats: %+v", what, needs)
		}
	}
	switch rapid.SampledFrom([]string{"commit", "commit", "commit", "commit", "again alone", "lost"}).Draw(r.T, "transaction") {
	case "lost":
		if _, _, err := r.memory.decide(r.now, commands); err != nil {
			r.Fatal(err)
		}
		return
	case "again alone":
		if _, _, err := r.memory.decide(r.now, commands); err != nil {
			r.Fatal(err)
		}
		for _, c := range commands {
			r.commit([]stock.Command{c})
		}
		return
	}
	r.commit(commands)
}

func (r *run) commit(commands []stock.Command) {
	results, err := r.memory.do(r.now, commands...)
	if err != nil {
		r.Fatal(err)
	}
	for i, c := range commands {
		switch c := c.(type) {
		case stock.Put:
			r.comparePut(c, results[i])
		case stock.Adjust:
			code, onHand := r.model.adjust(c, r.now)
			r.wantCode(c, results[i].Err, code)
			if code != problem.KeyReused && results[i].Adjustment.Level.OnHand != onHand {
				r.Fatalf("%+v: the level is %+v, want %d on hand", c, results[i].Adjustment.Level, onHand)
			}
		case stock.ImportRow:
			code, changed := r.model.importRow(c, r.now)
			r.wantCode(c, results[i].Err, code)
			if results[i].Changed != changed {
				r.Fatalf("%+v: changed is %v, want %v", c, results[i].Changed, changed)
			}
		case stock.Expire:
			r.compareReservation(c.ID, results[i].Reservation)
		}
	}
}

func (r *run) comparePut(p stock.Put, got stock.Result) {
	code, shortages := r.model.put(p, r.now)
	r.wantCode(p, got.Err, code)
	now := r.model.read(p.ID, r.now)
	if got.Err != nil {
		answer := problem.From(got.Err)
		if !slices.Equal(answer.Shortages, shortages) {
			r.Fatalf("%+v: shortages are %+v, want %+v", p, answer.Shortages, shortages)
		}
		want := problem.Current{ID: p.ID, Seq: now.seq, State: string(now.state)}
		if answer.Current == nil || *answer.Current != want {
			r.Fatalf("%+v: current is %+v, want %+v", p, answer.Current, want)
		}
	}
	if code == problem.StaleSeq || code == problem.SeqReused {
		return
	}
	r.compareReservation(p.ID, got.Reservation)

	// What a caller was told of a seq stays so, word for word (invariant 6).
	at := fmt.Sprint(p.ID, " ", p.Seq)
	first, ok := r.told[at]
	if !ok {
		r.told[at] = got.Err
		return
	}
	if problem.CodeOf(first) != problem.CodeOf(got.Err) || first != nil && first.Error() != got.Err.Error() {
		r.Fatalf("%s was answered %v, and is now %v", at, first, got.Err)
	}
}

func (r *run) compareReservation(id string, got stock.Reservation) {
	want := r.model.read(id, r.now)
	lines := map[stock.Key]int64{}
	for _, l := range got.Lines {
		lines[l.Key()] += l.Quantity
	}
	if got.ID != id || got.Seq != want.seq || got.State != want.state || !maps.Equal(lines, want.lines) ||
		len(got.Lines) != len(lines) || !got.ExpiresAt.Equal(want.expires) {
		r.Fatalf("reservation %s is\n%+v, want\n%+v", id, got, want)
	}
	if !increasing(got.Lines, func(a, b stock.Line) bool { return a.Key().Compare(b.Key()) < 0 }) {
		r.Fatalf("reservation %s has lines that are not sorted: %v", id, got.Lines)
	}
}

func (r *run) wantCode(c stock.Command, err error, want problem.Code) {
	if got := problem.CodeOf(err); got != want {
		r.Fatalf("%+v is answered %q (%v), want %q", c, got, err, want)
	}
}

// check holds everything stored against itself and against the model.
func (r *run) check() {
	if err := r.memory.audit(); err != nil {
		r.Fatal(err)
	}
	for _, id := range r.model.ids() {
		r.compareReservation(id, r.memory.reservations[id].At(r.now))
	}
	if got, want := slices.Sorted(maps.Keys(r.memory.reservations)), r.model.ids(); !slices.Equal(got, want) {
		r.Fatalf("reservations are %v, want %v", got, want)
	}
	changes := maps.Clone(r.model.counting)
	for _, e := range r.memory.ledger {
		switch e.Reason {
		case stock.ReasonHeld, stock.ReasonAmended, stock.ReasonCommitted, stock.ReasonReleased, stock.ReasonReturned, stock.ReasonExpired:
			changes[stock.Key{Location: e.Location, SKU: e.SKU}]++
		}
	}
	overdue := map[stock.Key]int64{} // reserved by holds that have run out and are not marked yet
	for _, held := range r.memory.reservations {
		if held.State != held.At(r.now).State {
			for _, l := range held.Lines {
				overdue[l.Key()] += l.Quantity
			}
		}
	}
	names := map[stock.Key]string{}
	for k, l := range r.memory.levels {
		names[k] = l.Name
		onHand, reserved := r.model.level(k, r.now)
		if l.OnHand != onHand || l.Reserved != reserved+overdue[k] {
			r.Fatalf("level %v is %+v, want %d on hand and %d reserved, and %d overdue", k, l, onHand, reserved, overdue[k])
		}
		if l.Version != changes[k] {
			r.Fatalf("level %v has version %d after %d changes", k, l.Version, changes[k])
		}
	}
	if !reflect.DeepEqual(names, r.model.names) {
		r.Fatalf("levels are %v, want %v", names, r.model.names)
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

// put is a new request under the next seq, mostly; or one that repeats, comes
// late, skips ahead, or reuses a seq.
func (r *run) put() stock.Put {
	if len(r.puts) > 0 && rapid.IntRange(0, 3).Draw(r.T, "resend") == 0 {
		sent := rapid.SampledFrom(r.puts).Draw(r.T, "sent")
		slices.Reverse(sent.Lines) // the same demand, written otherwise
		return sent
	}
	p := stock.Put{ID: id().Draw(r.T, "id"), State: rapid.SampledFrom([]stock.State{stock.Held, stock.Held, stock.Held, stock.Committed, stock.Released}).Draw(r.T, "state")}
	last := r.model.read(p.ID, r.now).seq
	p.Seq = max(1, last+rapid.SampledFrom([]int64{1, 1, 1, 1, 2, 0, -1, -2}).Draw(r.T, "seq"))
	if p.State == stock.Held {
		p.HoldSeconds = rapid.Int64Range(1, 6).Draw(r.T, "hold_seconds")
		for range rapid.IntRange(1, 4).Draw(r.T, "lines") {
			k := keys().Draw(r.T, "key")
			p.Lines = append(p.Lines, stock.Line{SKU: k.SKU, Location: k.Location, Quantity: rapid.Int64Range(1, 4).Draw(r.T, "quantity")})
		}
	}
	sent := p
	sent.Lines = slices.Clone(p.Lines)
	r.puts = append(r.puts, sent)
	return p
}

func (r *run) adjust() stock.Adjust {
	if len(r.asked) > 0 && rapid.IntRange(0, 3).Draw(r.T, "resend") == 0 {
		return rapid.SampledFrom(r.asked).Draw(r.T, "asked")
	}
	k := keys().Draw(r.T, "key")
	a := stock.Adjust{
		ID: fmt.Sprint("adj-", rapid.IntRange(1, 12).Draw(r.T, "adjustment")), SKU: k.SKU, Location: k.Location,
		Reason: rapid.SampledFrom(stock.AdjustmentReasons()).Draw(r.T, "reason"),
	}
	if rapid.Bool().Draw(r.T, "by delta") {
		delta := rapid.Int64Range(-4, 4).Filter(func(d int64) bool { return d != 0 }).Draw(r.T, "delta")
		a.Delta = &delta
	} else {
		a.OnHand = new(rapid.Int64Range(0, 8).Draw(r.T, "on_hand"))
	}
	if rapid.IntRange(0, 3).Draw(r.T, "expecting") == 0 {
		a.ExpectedOnHand = new(rapid.Int64Range(0, 4).Draw(r.T, "expected"))
	}
	r.asked = append(r.asked, a)
	return a
}

// importRow is a row of an import of its own: an import's id is never used again.
func (r *run) importRow() stock.ImportRow {
	r.imports++
	k := rapid.SampledFrom([]stock.Key{{Location: "main", SKU: "a"}, {Location: "main", SKU: "b"}, {Location: "east", SKU: "a"}}).Draw(r.T, "key")
	return stock.ImportRow{
		ImportID: fmt.Sprint("import-", r.imports), Row: 1, SKU: k.SKU, Location: k.Location,
		Name: rapid.SampledFrom([]string{"", "apple"}).Draw(r.T, "name"), OnHand: rapid.Int64Range(0, 12).Draw(r.T, "on_hand"),
	}
}
