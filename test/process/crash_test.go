package process

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"roundtrip/test/support/processes"
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
	{"confirm", "committed", "placed", "confirmed", 7, 0, func(h *harness) reply { return h.confirm("one") }},
	{"cancel", "released", "placed", "cancelled", 10, 0, func(h *harness) reply { return h.cancel("one") }},
}

func TestACrashAtAnyStepLosesNothingAndDoublesNothing(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		for _, operation := range operations {
			for _, crash := range crashes {
				t.Run(fmt.Sprintf("%s/%s/%s", operation.name, crash.service, crash.point), func(t *testing.T) {
					t.Parallel()
					h := startPair(t, on, crashing)
					h.stock("A", 10)
					if operation.before != "" {
						h.placed("one", "A", 3)
					}
					// Orders knows the operation; inventory, and the answer from it, only
					// what was asked.
					name, victim := operation.name, h.orders
					if crash.service == "inventory" || crash.point == "exchange-answered" {
						name = operation.asks
					}
					if crash.service == "inventory" {
						victim = h.inventory
					}
					h.arm(crash.point + ":" + name)

					var first reply
					h.wait("it is taken", func() bool {
						first = operation.do(h)
						return first.Err != nil || first.Status < 500
					})
					if crash.service == "orders" && first.Err == nil && first.Status != http.StatusAccepted {
						t.Errorf("orders answered: %d %s", first.Status, first.Text)
					}
					// Orders' own retry reaches the other inventory where there is one.
					if crash.service == "inventory" && first.Status != http.StatusAccepted && (on.replicas == 1 || !first.Done()) {
						t.Errorf("orders answered %d %s %v", first.Status, first.Text, first.Err)
					}
					h.crashed(victim)
					if on.replicas == 1 {
						h.restart(victim)
					}

					r := h.settled("one")
					onHand, reserved := h.level("A")
					took := r.State == operation.after && onHand == operation.onHand && reserved == operation.reserved
					wasBefore := int64(0)
					if operation.before != "" {
						wasBefore = 3
					}
					nothing := r.State == operation.before && onHand == 10 && reserved == wasBefore
					if crash.recorded && !took || !crash.recorded && !nothing {
						t.Errorf("%s; %d on hand, %d reserved", r.Text, onHand, reserved)
					}
					// The caller repeats what it got no answer to, and it takes effect, once.
					var again reply
					h.wait("it is answered for good", func() bool {
						again = operation.do(h)
						return again.Err == nil && again.Status < 500 && again.Status != http.StatusAccepted
					})
					if !again.Done() || again.State != operation.after {
						t.Errorf("repeated: %d %s %v", again.Status, again.Text, again.Err)
					}
					onHand, reserved = h.level("A")
					if onHand != operation.onHand || reserved != operation.reserved {
						t.Errorf("after a repeat: %d on hand, %d reserved", onHand, reserved)
					}
					h.restart(victim)
					h.audit()
				})
			}
		}
	})
}

// arm sets a failpoint: the first replica to reach it dies there.
func (h *harness) arm(failpoint string) {
	h.Helper()
	if err := os.WriteFile(filepath.Join(h.folder, failpoint), nil, 0o600); err != nil {
		h.Fatal(err)
	}
}

// crashed waits until a replica was killed by the failpoint.
func (h *harness) crashed(s *service) {
	h.Helper()
	var victim *processes.Process
	h.wait("a replica reaches the failpoint", func() bool {
		i := slices.IndexFunc(s.replicas, ended)
		if i >= 0 {
			victim = s.replicas[i]
		}
		return i >= 0
	})
	exit, ok := victim.ExitError().(*exec.ExitError)
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		h.Errorf("it ended by itself: %v\n%s", victim.ExitError(), victim.Log())
	}
}

// The product has no failpoints.
func TestTheProductIgnoresFailpoints(t *testing.T) {
	t.Parallel()
	h := startPair(t, sqlite, product)
	h.stock("A", 10)
	h.arm("intent-committed:place")
	if r := h.place("one", "A", 1); r.Status != http.StatusCreated {
		t.Errorf("place: %d %s %v", r.Status, r.Text, r.Err)
	}
}
