package httpapi

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"roundtrip/services/orders/internal/order"
)

// An order that a repair recreated matches the contract, and its id cannot be used
// for another.
func TestRecreatedOrderMatchesTheContract(t *testing.T) {
	t.Parallel()
	s := start(t)
	lines := []order.Demand{{SKU: "a", Location: "main", Quantity: 2 * order.MaxQuantity}, {SKU: "b", Location: "north", Quantity: 1}}
	until := time.Now().Add(time.Hour)
	for i, c := range []struct {
		reservation order.Reservation
		state       string
		lines       int
	}{
		{order.Reservation{State: order.ReservationHeld, Lines: lines, ExpiresAt: until}, "placed", 3},
		{order.Reservation{State: order.ReservationCommitted, Lines: lines}, "confirmed", 3},
		{order.Reservation{State: order.ReservationReleased, Lines: lines}, "cancelled", 3},
		{order.Reservation{State: order.ReservationReleased}, "cancelled", 0}, // a tombstone
		{order.Reservation{State: order.ReservationExpired, Lines: lines, ExpiresAt: until}, "expired", 3},
		{order.Reservation{State: order.ReservationNone}, "rejected", 0},
	} {
		r := c.reservation
		r.ID, r.Seq = fmt.Sprint("lost-", i), 2
		if made := s.store.Do(t.Context(), []order.Command{order.Repair{ID: r.ID, Reservation: r}})[0]; made.Err != nil {
			t.Fatal(made.Err)
		}
		if got := s.call(t, "GET", "/v1/orders/"+r.ID, ""); got.Status != http.StatusOK || got.order.State != c.state || len(got.order.Lines) != c.lines {
			t.Errorf("the order of %+v is %d %s", r, got.Status, got.Body)
		}
		got := s.call(t, "PUT", "/v1/orders/"+r.ID, `{"customer":"c","currency":"GBP","lines":[{"sku":"a","quantity":1,"unit_price":1}]}`)
		if got.Problem.Code != "key-reused" {
			t.Errorf("%s placed again: %d %s", r.ID, got.Status, got.Body)
		}
	}
	if got := s.call(t, "GET", "/v1/orders", ""); got.Status != http.StatusOK {
		t.Errorf("the list: %d %s", got.Status, got.Body)
	}
}
