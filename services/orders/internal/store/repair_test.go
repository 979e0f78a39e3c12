package store

import (
	"reflect"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/stores"
)

// adopt returns a repair. In inventory the order is confirmed, at seq 4.
func adopt(id string, version int64) order.Repair {
	return order.Repair{ID: id, Version: version, Reservation: order.Reservation{
		ID: id, Seq: 4, State: order.ReservationCommitted, Lines: []order.Demand{{SKU: "71053", Location: "main", Quantity: 3}},
	}}
}

func TestRepairedOrderIsReadAsWritten(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		b.do(t, amend("a", 3))
		results := b.Do(t.Context(), []order.Command{adopt("a", 3), adopt("lost", 0)})
		for i, id := range []string{"a", "lost"} {
			if r := results[i]; r.Err != nil || r.Created != (id == "lost") || r.Order.State != order.Confirmed || r.Order.Seq != 5 {
				t.Fatalf("%s: %+v", id, r)
			}
			if stored := b.order(t, id); !reflect.DeepEqual(stored, results[i].Order) {
				t.Errorf("the order was\n%+v, and is stored as\n%+v", results[i].Order, stored)
			}
		}
		if end, err := b.Settlement(t.Context(), "a", 2); err != nil || end.Outcome != order.OutcomeSuperseded {
			t.Errorf("the amend ended %+v, %v", end, err)
		}
		// The next operations take the next seq, also in a batch.
		for _, id := range []string{"a", "lost"} {
			results := b.Do(t.Context(), []order.Command{order.Cancel{ID: id}, settle(id, 6, order.CancelOperation, order.ReservationReleased), adopt(id, 1)})
			if o := results[1].Order; results[0].Seq != 6 || o.State != order.Cancelled {
				t.Errorf("the cancelled order is %+v", o)
			}
			wantCode(t, "a repair that read the order before", results[2].Err, problem.PreconditionFailed)
		}
	})
}

// A repair and a caller change the same order at the same time. The second one sees the
// change of the first.
func TestRepairRacesCaller(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.placed(t, "a")
		results := stores.AtOnce(40, func(i int) order.Result {
			id, c := "a", order.Command(adopt("a", 2))
			if i%4 >= 2 {
				id, c = "lost", adopt("lost", 0)
			}
			if i%2 == 1 {
				if c = (order.Cancel{ID: "a"}); id == "lost" {
					c = place("lost")
				}
			}
			return b.Do(t.Context(), []order.Command{c})[0]
		})
		adopted := map[string]int{}
		for i, r := range results {
			switch code := problem.CodeOf(r.Err); {
			case i%2 == 0 && code == "":
				adopted[r.Order.ID]++
			case i%2 == 0 && code == problem.PreconditionFailed, i%2 == 1 && (code == "" || code == problem.KeyReused):
			default:
				t.Errorf("%d got %+v", i, r)
			}
		}
		for id, n := range adopted {
			if n != 1 {
				t.Errorf("%s was repaired %d times", id, n)
			}
		}
		for _, id := range []string{"a", "lost"} {
			if o := b.order(t, id); (adopted[id] == 1) != (o.Seq >= 5) {
				t.Errorf("%s was repaired %d times and is %+v", id, adopted[id], o)
			}
		}
	})
}
