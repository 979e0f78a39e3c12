package process

import (
	"fmt"
	"net"
	"testing"
	"time"

	"roundtrip/test/support/caller"
)

func TestRetriesStayWithinBudget(t *testing.T) {
	t.Parallel()
	for _, down := range []struct {
		name string
		// serve runs in place of inventory.
		serve func(net.Listener)
		// retried says that orders retries. If orders can't connect, it soon stops
		// retrying.
		retried bool
	}{
		{"connection refused", func(l net.Listener) { l.Close() }, false},
		{"connections closed", closeConnections, true},
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
			sys := startSystem(t, sqlite, product, "--inventory-url=http://"+listener.Addr().String())
			const callers, each = 16, 50
			concurrently(callers, func(caller int) (r response) {
				for i := range each {
					r = sys.place(fmt.Sprintf("order-%d-%d", caller, i), "A", 1)
				}
				return r
			})
			// The settler's attempts have another label.
			attempts, err := caller.Metric(t.Context(), sys.orders.replicas[0].AdminURL, "roundtrip_attempts_total", `resend="no"`)
			seconds := time.Since(began).Seconds()
			if limit := 1.10*callers*each + 10*seconds; err != nil || attempts > limit {
				t.Errorf("%v attempts (%v) for %d requests within %.1f s, at most %.0f are allowed", attempts, err, callers*each, seconds, limit)
			}
			if down.retried && attempts <= callers*each {
				t.Errorf("%v attempts for %d requests: no retries", attempts, callers*each)
			}
		})
	}
}

// closeConnections accepts connections and closes them at once.
func closeConnections(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}
