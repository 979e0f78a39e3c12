package process

import (
	"time"

	"roundtrip/test/support/caller"
)

// load is a load on a system.
type load struct {
	*system
	*caller.Load
}

func newLoad(sys *system, seed uint64) *load {
	return &load{sys, caller.NewLoad(sys, sys.services(), seed)}
}

// waitFor waits for n more final responses.
func (l *load) waitFor(n int64) {
	l.Helper()
	l.WaitFor(n, l.logs)
}

// settleWithin is the limit of the protocol from a fault's end until all intents are
// settled.
const settleWithin = 30 * time.Second

// check waits until all intents are settled. That must happen within settleWithin,
// without requests from callers. Then both audits must find nothing, and the orders
// must agree with the responses that their callers got.
func (l *load) check() {
	l.Helper()
	l.within(settleWithin, "all intents are settled", func() bool {
		unsettled, err := caller.Metric(l.Context(), l.orders.replicas[0].AdminURL, "orders_intents_unsettled")
		return err == nil && unsettled == 0
	})
	l.audit()
	l.Load.Check(l.logs)
}
