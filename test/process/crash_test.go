package process

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"syscall"
	"testing"
)

// crash is one place where a process is killed with -9.
type crash struct {
	service, point string
	// recorded says that the intent was written down before, so that the
	// operation must take effect.
	recorded bool
}

var crashes = []crash{
	{"orders", "intent-before", false},
	{"orders", "intent-in-transaction", false},
	{"orders", "intent-committed", true},
	{"orders", "exchange-answered", true},
	{"orders", "outcome-before", true},
	{"orders", "outcome-in-transaction", true},
	{"orders", "outcome-committed", true},
	{"inventory", "reservation-received", true},
	{"inventory", "reservation-decided", true},
	{"inventory", "reservation-written", true},
	{"inventory", "reservation-committed", true},
}

// operations are what is done when the process is killed: to an order for 3 of
// 10 units, amended to 5.
var operations = []struct {
	name, asks    string
	before, after string
	// onHand and reserved are the level's once the operation has taken effect.
	onHand, reserved int64
	do               func(*harness) reply
}{
	{"place", "held", "", "placed", 10, 3, func(h *harness) reply { return h.place("one", "A", 3) }},
	{"amend", "held", "placed", "placed", 10, 5, func(h *harness) reply { return h.amend("one", "A", 5) }},
	{"confirm", "committed", "placed", "confirmed", 7, 0, func(h *harness) reply { return h.post("one", "confirm") }},
	{"cancel", "released", "placed", "cancelled", 10, 0, func(h *harness) reply { return h.post("one", "cancel") }},
}

func TestACrashAtAnyStepLosesNothingAndDoublesNothing(t *testing.T) {
	t.Parallel()
	for _, operation := range operations {
		for _, crash := range crashes {
			t.Run(fmt.Sprintf("%s/%s/%s", operation.name, crash.service, crash.point), func(t *testing.T) {
				t.Parallel()
				h := startPair(t, crashing)
				h.stock("A", 10)
				if operation.before != "" {
					if r := h.place("one", "A", 3); r.State != operation.before {
						t.Fatalf("place: %d %s", r.status, r.text)
					}
				}
				// Orders knows the operation; inventory, and the answer from it, only
				// what was asked.
				name := operation.name
				if crash.service == "inventory" || crash.point == "exchange-answered" {
					name = operation.asks
				}
				victim, start := &h.Orders, h.StartOrders
				if crash.service == "inventory" {
					victim, start = &h.Inventory, h.StartInventory
				}
				(*victim).Kill()
				h.restart(start, "FAILPOINT="+crash.point+":"+name)

				first := operation.do(h)
				if crash.service == "orders" && first.err == nil {
					t.Errorf("orders answered: %d %s", first.status, first.text)
				}
				if crash.service == "inventory" && first.status != http.StatusAccepted {
					t.Errorf("orders answered %d %s %v, want 202", first.status, first.text, first.err)
				}
				died(t, *victim)
				h.restart(start)

				r := h.settled("one")
				onHand, reserved := h.level("A")
				took := r.State == operation.after && onHand == operation.onHand && reserved == operation.reserved
				wasBefore := int64(0)
				if operation.before != "" {
					wasBefore = 3
				}
				nothing := r.State == operation.before && onHand == 10 && reserved == wasBefore
				if crash.recorded && !took || !crash.recorded && !nothing {
					t.Errorf("%s; %d on hand, %d reserved", r.text, onHand, reserved)
				}
				// The caller repeats what it got no answer to, and it takes effect, once.
				again := operation.do(h)
				if !slices.Contains([]int{http.StatusOK, http.StatusCreated}, again.status) || again.State != operation.after {
					t.Errorf("repeated: %d %s %v", again.status, again.text, again.err)
				}
				onHand, reserved = h.level("A")
				if onHand != operation.onHand || reserved != operation.reserved {
					t.Errorf("after a repeat: %d on hand, %d reserved", onHand, reserved)
				}
				h.audit()
			})
		}
	}
}

// died waits until a process was killed by its failpoint.
func died(t *testing.T, process interface{ ExitError() error }) {
	t.Helper()
	exit, ok := process.ExitError().(*exec.ExitError)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the failpoint was not reached: %v", exit)
	}
}

// The product has no failpoints.
func TestTheProductIgnoresFailpoints(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	h.Orders.Kill()
	h.restart(h.StartOrders, "FAILPOINT=intent-committed:place")
	if r := h.place("one", "A", 1); r.status != http.StatusCreated {
		t.Errorf("place: %d %s %v", r.status, r.text, r.err)
	}
}
