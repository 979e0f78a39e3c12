package stock_test

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
)

// transitionTable is the table of docs/protocol.md, "What inventory does": a line
// for each state and each request.
//
// Stock is 10 of a, 10 of b and no c. A reservation that is held, expired,
// committed or released has the lines a:4 and b:1. The requests are:
//
//	held         10 of a; for an amend that is enough only with the 4 it holds
//	held, short  2 of a, 11 of b and 1 of c
//	committed
//	released
//
// "level a" and "level b" are on hand/reserved after the answer. The ledger column
// lists the new entries, each with its changes of on hand/reserved.
const transitionTable = `
	| state     | asked       | answer              | state after | lines   | level a | level b | ledger                               |
	|-----------|-------------|---------------------|-------------|---------|---------|---------|--------------------------------------|
	| none      | held        | ok                  | held        | a:10    | 10/10   | 10/0    | held a +0/+10                        |
	| none      | held, short | insufficient-stock  | none        |         | 10/0    | 10/0    |                                      |
	| none      | committed   | wrong-state         | none        |         | 10/0    | 10/0    |                                      |
	| none      | released    | ok                  | released    |         | 10/0    | 10/0    |                                      |
	| held      | held        | ok                  | held        | a:10    | 10/10   | 10/0    | amended a +0/+6, amended b +0/-1     |
	| held      | held, short | insufficient-stock  | held        | a:4 b:1 | 10/4    | 10/1    |                                      |
	| held      | committed   | ok                  | committed   | a:4 b:1 | 6/0     | 9/0     | committed a -4/-4, committed b -1/-1 |
	| held      | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    | released a +0/-4, released b +0/-1   |
	| expired   | held        | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    |                                      |
	| expired   | held, short | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    |                                      |
	| expired   | committed   | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    |                                      |
	| expired   | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| committed | held        | wrong-state         | committed   | a:4 b:1 | 6/0     | 9/0     |                                      |
	| committed | held, short | wrong-state         | committed   | a:4 b:1 | 6/0     | 9/0     |                                      |
	| committed | committed   | ok                  | committed   | a:4 b:1 | 6/0     | 9/0     |                                      |
	| committed | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    | returned a +4/+0, returned b +1/+0   |
	| released  | held        | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released  | held, short | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released  | committed   | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released  | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    |                                      |`

// otherWaysTable has the same states, reached in other ways. "due" is a due hold: the
// decision writes its expiry.
const otherWaysTable = `
	| state                 | asked       | answer              | state after | lines   | level a | level b | ledger                               |
	|-----------------------|-------------|---------------------|-------------|---------|---------|---------|--------------------------------------|
	| none, 2 rejections    | held        | ok                  | held        | a:10    | 10/10   | 10/0    | held a +0/+10                        |
	| none, 2 rejections    | held, short | insufficient-stock  | none        |         | 10/0    | 10/0    |                                      |
	| none, 2 rejections    | committed   | wrong-state         | none        |         | 10/0    | 10/0    |                                      |
	| none, 2 rejections    | released    | ok                  | released    |         | 10/0    | 10/0    |                                      |
	| held, amend rejected  | held        | ok                  | held        | a:10    | 10/10   | 10/0    | amended a +0/+6, amended b +0/-1     |
	| held, amend rejected  | held, short | insufficient-stock  | held        | a:4 b:1 | 10/4    | 10/1    |                                      |
	| held, amend rejected  | committed   | ok                  | committed   | a:4 b:1 | 6/0     | 9/0     | committed a -4/-4, committed b -1/-1 |
	| held, amend rejected  | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    | released a +0/-4, released b +0/-1   |
	| due                   | held        | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    | expired a +0/-4, expired b +0/-1     |
	| due                   | held, short | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    | expired a +0/-4, expired b +0/-1     |
	| due                   | committed   | reservation-expired | expired     | a:4 b:1 | 10/0    | 10/0    | expired a +0/-4, expired b +0/-1     |
	| due                   | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    | expired a +0/-4, expired b +0/-1     |
	| released, goods back  | held        | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released, goods back  | held, short | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released, goods back  | committed   | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released, goods back  | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released when due     | held        | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released when due     | held, short | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released when due     | committed   | wrong-state         | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released when due     | released    | ok                  | released    | a:4 b:1 | 10/0    | 10/0    |                                      |
	| released, a tombstone | held        | wrong-state         | released    |         | 10/0    | 10/0    |                                      |
	| released, a tombstone | held, short | wrong-state         | released    |         | 10/0    | 10/0    |                                      |
	| released, a tombstone | committed   | wrong-state         | released    |         | 10/0    | 10/0    |                                      |
	| released, a tombstone | released    | ok                  | released    |         | 10/0    | 10/0    |                                      |`

func TestTransitions(t *testing.T) {
	t.Parallel()
	checkTransitions(t, transitionTable, map[string]func(*harness){
		"none": func(*harness) {},
		"held": func(h *harness) { h.must(hold(cellID, 1, heldLines...)) },
		"expired": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.now = holdEnd
			h.must(stock.Expire{ID: cellID})
		},
		"committed": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.must(commit(cellID, 2))
		},
		"released": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.must(release(cellID, 2))
		},
	})
}

func TestTransitionsFromStatesReachedInOtherWays(t *testing.T) {
	t.Parallel()
	checkTransitions(t, otherWaysTable, map[string]func(*harness){
		"none, 2 rejections": func(h *harness) {
			h.send(hold(cellID, 1, line("a", 11)))
			h.send(commit(cellID, 2))
		},
		"held, amend rejected": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.send(hold(cellID, 2, line("a", 11)))
		},
		"due": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.now = holdEnd
		},
		"released, goods back": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.must(commit(cellID, 2))
			h.must(release(cellID, 3))
		},
		"released when due": func(h *harness) {
			h.must(hold(cellID, 1, heldLines...))
			h.now = holdEnd
			h.must(release(cellID, 2))
		},
		"released, a tombstone": func(h *harness) { h.must(release(cellID, 1)) },
	})
}

func TestAmendToTheSameLinesChangesNoLevel(t *testing.T) {
	t.Parallel()
	h := newHarness(t, map[string]int64{"a": 10, "b": 10, "c": 0})
	h.must(hold(cellID, 1, heldLines...))
	checkTransition(h, hold(cellID, cellSeq, heldLines...), []string{"held", "held", "ok", "held", "a:4 b:1", "10/4", "10/1", ""})
}

const (
	cellID  = "order-1"
	cellSeq = 10
)

var (
	heldLines = []stock.Line{line("a", 4), line("b", 1)}
	holdEnd   = start.Add(stock.DefaultHold * time.Second)
)

// requests are what each state is asked for, in the order of the tables.
var requests = []struct {
	name string
	put  stock.Put
}{
	{"held", hold(cellID, cellSeq, line("a", 10))},
	{"held, short", hold(cellID, cellSeq, line("b", 11), line("a", 2), line("c", 1))},
	{"committed", commit(cellID, cellSeq)},
	{"released", release(cellID, cellSeq)},
}

// checkTransitions runs a table's cells. Every state and every request must meet
// exactly once.
func checkTransitions(t *testing.T, table string, states map[string]func(*harness)) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(table), "\n")[2:]
	seen := map[[2]string]int{}
	for _, l := range lines {
		cells := strings.Split(strings.Trim(strings.TrimSpace(l), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		state, asked := cells[0], cells[1]
		seen[[2]string{state, asked}]++
		for _, r := range requests {
			if prepare, ok := states[state]; ok && r.name == asked {
				t.Run(state+" asked to be "+asked, func(t *testing.T) {
					t.Parallel()
					h := newHarness(t, map[string]int64{"a": 10, "b": 10, "c": 0})
					prepare(h)
					checkTransition(h, r.put, cells)
				})
			}
		}
	}
	if len(seen) != len(states)*len(requests) {
		t.Errorf("the table has %d different cells, want %d states x %d requests", len(seen), len(states), len(requests))
	}
	for state := range states {
		for _, r := range requests {
			if n := seen[[2]string{state, r.name}]; n != 1 {
				t.Errorf("%s asked to be %s is in the table %d times, want once", state, r.name, n)
			}
		}
	}
}

// checkTransition sends a request and compares everything with the cells of one
// line. Then it sends the request again, a stale one and one that reuses the seq:
// none of them may change anything.
func checkTransition(h *harness, asked stock.Put, cells []string) {
	t := h.t
	stateBefore, answer, stateAfter, lines, levelA, levelB, ledger := cells[0], cells[2], stock.State(cells[3]), cells[4], cells[5], cells[6], cells[7]
	var code problem.Code
	if answer != "ok" {
		code = problem.Code(answer)
	}
	entriesBefore := len(h.ledger)

	want := stock.Reservation{ID: cellID, Seq: cellSeq, State: stateAfter, Lines: parseLines(lines), CreatedAt: start}
	if stateAfter == stock.Held || stateAfter == stock.Expired {
		want.ExpiresAt = holdEnd
	}
	if stateBefore == "none" || stateBefore == "released, a tombstone" {
		want.CreatedAt = h.now
	}
	decided := h.send(asked)
	wantAnswer(t, decided, code, want)
	h.wantLevels(map[string]string{"a": levelA, "b": levelB, "c": "0/0"})

	var entries []string
	for _, e := range h.ledger[entriesBefore:] {
		entries = append(entries, fmt.Sprintf("%s %s %+d/%+d", e.Reason, e.SKU, e.OnHandDelta, e.ReservedDelta))
		if e.Ref != cellID || e.Reason != stock.ReasonExpired && e.Seq != cellSeq || !e.At.Equal(h.now) {
			t.Errorf("the entry is %+v, want %s, seq %d and the time %v", e, cellID, cellSeq, h.now)
		}
	}
	if got := strings.Join(entries, ", "); got != ledger {
		t.Errorf("the new ledger entries are %q, want %q", got, ledger)
	}

	outcome, ok := h.outcomes[fmt.Sprint(cellID, " ", cellSeq)]
	if !ok {
		t.Fatal("no outcome is stored")
	}
	if problem.CodeOf(decided.Err) == "" && outcome.Problem != nil ||
		outcome.Problem != nil && outcome.Problem.Code != code ||
		outcome.Asked != asked.State || !outcome.At.Equal(h.now) || outcome.Fingerprint == "" {
		t.Errorf("the stored outcome is %+v (%v)", outcome, outcome.Problem)
	}
	if outcome.Problem != nil && outcome.Problem.Current != nil {
		t.Error("the stored outcome has a current state; only an answer has one")
	}

	h.now = h.now.Add(time.Second)
	again := h.send(asked)
	wantAnswer(t, again, code, want)
	if decided.Err != nil && !reflect.DeepEqual(stored(problem.From(decided.Err)), stored(problem.From(again.Err))) {
		t.Errorf("the repeat is answered %#v, want %#v", again.Err, decided.Err)
	}
	stale := h.send(hold(cellID, cellSeq-1, line("b", 1)))
	wantCode(t, stale.Err, problem.StaleSeq)
	wantCurrent(t, stale.Err, cellID, cellSeq, stateAfter)
	reused := h.send(hold(cellID, cellSeq, line("b", 7)))
	wantCode(t, reused.Err, problem.SeqReused)
	wantCurrent(t, reused.Err, cellID, cellSeq, stateAfter)
	for _, c := range h.writes[len(h.writes)-3:] {
		if !c.Empty() {
			t.Errorf("a repeated, stale or reused seq wrote %+v", c)
		}
	}
}

// parseLines reads lines written as "a:4 b:1".
func parseLines(text string) (lines []stock.Line) {
	for f := range strings.FieldsSeq(text) {
		sku, quantity, _ := strings.Cut(f, ":")
		n, err := strconv.ParseInt(quantity, 10, 64)
		if err != nil {
			panic(err)
		}
		lines = append(lines, line(sku, n))
	}
	return lines
}
