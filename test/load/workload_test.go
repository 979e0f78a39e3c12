package main

import (
	"strings"
	"sync"
	"testing"
)

func TestMixedWorkloadChangesEachOrderSerially(t *testing.T) {
	t.Parallel()
	m := newMixed()
	var mu sync.Mutex
	state := map[string]string{}
	changing := map[string]bool{}
	operations := map[string]int{}
	var callers sync.WaitGroup
	const each = 2000
	for caller := range 8 {
		callers.Go(func() {
			for i := range each {
				r := m.next(caller*each + i)
				id := strings.Split(r.path, "/")[3]
				mu.Lock()
				operations[r.operation]++
				allowed := map[string]string{"place": "", "amend": "placed", "confirm": "placed", "cancel": "placed or confirmed", "get": "any"}[r.operation]
				if r.operation != "get" {
					if changing[id] || state[id] == "" && allowed != "" || !strings.Contains(allowed, state[id]) {
						t.Errorf("%s of an order that is %q, being changed: %v", r.operation, state[id], changing[id])
					}
					changing[id] = true
				}
				// Every tenth request is not done. No other request may use its order.
				did := i%10 != 0
				switch {
				case r.operation == "get":
				case !did:
					state[id] = "not known"
				case r.operation == "confirm":
					state[id] = "confirmed"
				case r.operation == "cancel":
					state[id] = "cancelled"
				default:
					state[id] = "placed"
				}
				if r.operation != "get" && did {
					changing[id] = false
				}
				mu.Unlock()
				if r.answered != nil {
					r.answered(did)
				}
			}
		})
	}
	callers.Wait()
	for _, operation := range []string{"place", "amend", "confirm", "cancel", "get"} {
		if n := operations[operation]; n < each/4 {
			t.Errorf("%d of %s in %v", n, operation, operations)
		}
	}
}

func TestWorkloadStockCoversItsOrders(t *testing.T) {
	t.Parallel()
	invoices := invoicing{
		{"1", "a", []line{{"x", 6, 1}, {"x", 2, 1}, {"y", 1, 1}}},
		{"2", "b", []line{{"x", 1, 1}}},
	}
	for name, test := range map[string]struct {
		workload workload
		requests int
		skus     int
	}{
		"uniform": {newPlacing(allSKUs), 50_000, allSKUs}, "hot": {newPlacing(1), 1000, 1}, "invoices": {invoices, 2, 2},
	} {
		left := test.workload.stock()
		asked, ids := map[string]bool{}, map[string]bool{}
		for i := range test.requests {
			r := test.workload.next(i)
			ids[r.path] = true
			for _, l := range r.body.(placeBody).Lines {
				asked[l.SKU] = true
				if left[l.SKU] -= l.Quantity; left[l.SKU] < 0 {
					t.Fatalf("%s: not enough %s", name, l.SKU)
				}
			}
		}
		// 50,000 requests miss about 67 of 10,000 SKUs.
		if len(asked) < test.skus*98/100 || len(asked) > test.skus || len(ids) != test.requests {
			t.Errorf("%s: %d requests for %d SKUs under %d ids", name, test.requests, len(asked), len(ids))
		}
	}
}
