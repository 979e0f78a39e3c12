package process

import (
	"errors"
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

// crashPoint is a failpoint where a process is killed with -9.
type crashPoint struct {
	service, point string
	// recorded says that the intent is recorded before the crash, so that the
	// operation must take effect.
	recorded bool
}

var crashPoints = []crashPoint{
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

// operations are the operations during which a process is killed, on an order for 3
// of 10 units, amended to 5.
var operations = []struct {
	name, state   string
	before, after string
	// onHand and reserved are the level after the operation.
	onHand, reserved int64
	do               func(*system) response
}{
	{"place", "held", "", "placed", 10, 3, func(sys *system) response { return sys.place("one", "A", 3) }},
	{"amend", "held", "placed", "placed", 10, 5, func(sys *system) response { return sys.amend("one", "A", 5) }},
	{"confirm", "committed", "placed", "confirmed", 7, 0, func(sys *system) response { return sys.confirm("one") }},
	{"cancel", "released", "placed", "cancelled", 10, 0, func(sys *system) response { return sys.cancel("one") }},
}

func TestCrashAtEachStep(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		for _, operation := range operations {
			for _, crash := range crashPoints {
				t.Run(fmt.Sprintf("%s/%s/%s", operation.name, crash.service, crash.point), func(t *testing.T) {
					t.Parallel()
					sys := startSystem(t, on, crashing)
					sys.stock("A", 10)
					if operation.before != "" {
						sys.placed("one", "A", 3)
					}
					// Orders' failpoints are named by operation. Failpoints of
					// inventory and of its response are named by the requested
					// state.
					name, victim := operation.name, sys.orders
					if crash.service == "inventory" || crash.point == "exchange-answered" {
						name = operation.state
					}
					if crash.service == "inventory" {
						victim = sys.inventory
					}
					sys.setFailpoint(crash.point + ":" + name)

					var first response
					sys.wait("the request gets a response or breaks", func() bool {
						first = operation.do(sys)
						return first.Err != nil || first.Status < 500
					})
					if crash.service == "orders" && first.Err == nil && first.Status != http.StatusAccepted {
						t.Errorf("orders responded %d %s", first.Status, first.Text)
					}
					// Orders retries at the other replica of inventory, if there is one.
					if crash.service == "inventory" && first.Status != http.StatusAccepted && (on.replicas == 1 || !first.Done()) {
						t.Errorf("orders responded %d %s %v", first.Status, first.Text, first.Err)
					}
					sys.waitForCrash(victim)
					if on.replicas == 1 {
						sys.restart(victim)
					}

					r := sys.settled("one")
					onHand, reserved := sys.level("A")
					applied := r.State == operation.after && onHand == operation.onHand && reserved == operation.reserved
					wasBefore := int64(0)
					if operation.before != "" {
						wasBefore = 3
					}
					unchanged := r.State == operation.before && onHand == 10 && reserved == wasBefore
					if crash.recorded && !applied || !crash.recorded && !unchanged {
						t.Errorf("%s; %d on hand, %d reserved", r.Text, onHand, reserved)
					}
					// The caller retries, and the operation takes effect exactly once.
					var again response
					sys.wait("the retry gets a final response", func() bool {
						again = operation.do(sys)
						return again.Err == nil && again.Status < 500 && again.Status != http.StatusAccepted
					})
					if !again.Done() || again.State != operation.after {
						t.Errorf("retry: %d %s %v", again.Status, again.Text, again.Err)
					}
					onHand, reserved = sys.level("A")
					if onHand != operation.onHand || reserved != operation.reserved {
						t.Errorf("after the retry: %d on hand, %d reserved", onHand, reserved)
					}
					sys.restart(victim)
					sys.audit()
				})
			}
		}
	})
}

// setFailpoint sets a failpoint. The first replica that reaches it is killed.
func (sys *system) setFailpoint(failpoint string) {
	sys.Helper()
	if err := os.WriteFile(filepath.Join(sys.folder, failpoint), nil, 0o600); err != nil {
		sys.Fatal(err)
	}
}

// waitForCrash waits until the failpoint has killed a replica.
func (sys *system) waitForCrash(s *service) {
	sys.Helper()
	var victim *processes.Process
	sys.wait("a replica reaches the failpoint", func() bool {
		i := slices.IndexFunc(s.replicas, exited)
		if i >= 0 {
			victim = s.replicas[i]
		}
		return i >= 0
	})
	exit, ok := errors.AsType[*exec.ExitError](victim.ExitError())
	if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		sys.Errorf("the replica was not killed: %v\n%s", victim.ExitError(), victim.Log())
	}
}

// The release build has no failpoints.
func TestReleaseBuildIgnoresFailpoints(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, sqlite, product)
	sys.stock("A", 10)
	sys.setFailpoint("intent-committed:place")
	if r := sys.place("one", "A", 1); r.Status != http.StatusCreated {
		t.Errorf("place: %d %s %v", r.Status, r.Text, r.Err)
	}
}
