package process

import (
	"fmt"
	"net"
	"testing"
	"time"

	"roundtrip/test/support/shop"
)

func TestWithInventoryDownRetriesStayWithinTheirBudget(t *testing.T) {
	t.Parallel()
	for _, down := range []struct {
		name string
		// serve is what stands where inventory was.
		serve func(net.Listener)
		// retried says that orders tries again: where it can't connect at all it
		// soon stops trying.
		retried bool
	}{
		{"nobody listens", func(l net.Listener) { l.Close() }, false},
		{"connections are cut", cut, true},
	} {
		t.Run(down.name, func(t *testing.T) {
			t.Parallel()
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer listener.Close()
			go down.serve(listener)
			began := time.Now()
			h := startPair(t, sqlite, product, "--inventory-url=http://"+listener.Addr().String())
			const callers, each = 16, 50
			at(callers, func(caller int) (r reply) {
				for i := range each {
					r = h.place(fmt.Sprintf("order-%d-%d", caller, i), "A", 1)
				}
				return r
			})
			// The settler's re-sends are counted apart.
			attempts, err := shop.Metric(h.orders.replicas[0].AdminURL, "roundtrip_attempts_total", `resend="no"`)
			seconds := time.Since(began).Seconds()
			if limit := 1.10*callers*each + 10*seconds; err != nil || attempts > limit {
				t.Errorf("%v attempts (%v) for %d requests within %.1f s, at most %.0f are allowed", attempts, err, callers*each, seconds, limit)
			}
			if down.retried && attempts <= callers*each {
				t.Errorf("%v attempts for %d requests: nothing was retried", attempts, callers*each)
			}
		})
	}
}

// cut takes connections and ends them at once.
func cut(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}
