package process

import (
	"time"

	"roundtrip/test/support/shop"
)

// load is a shop's load on a pair; not too much of it, for all that was ever
// ordered is compared after each fault.
type load struct {
	*harness
	*shop.Load
}

func newLoad(h *harness, seed uint64) *load {
	return &load{h, shop.NewLoad(h, h.shop(), seed)}
}

// flows waits for n answers from now on.
func (l *load) flows(n int64) {
	l.Helper()
	l.Flows(n, l.logs)
}

// settleWithin is how long after a fault's end everything is settled.
const settleWithin = 30 * time.Second

// check holds what is there against what callers were told, once all is settled:
// without their help, and in time. Both audits find nothing.
func (l *load) check() {
	l.Helper()
	l.within(settleWithin, "everything is settled", func() bool {
		unsettled, err := shop.Metric(l.orders.replicas[0].AdminURL, "orders_intents_unsettled")
		return err == nil && unsettled == 0
	})
	l.audit()
	l.Load.Check(l.logs)
}
