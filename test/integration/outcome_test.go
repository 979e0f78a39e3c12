package integration

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"roundtrip/internal/exchange"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/wait"
)

// finalState is the state of an order in both services after an exchange.
type finalState struct {
	// state and quantity are those of the order. If there is no order, they are zero.
	state    string
	quantity int64
	// reservation is the reservation's state, or "" if there is none.
	reservation string
	// onHand and reserved are those of the level. onHand starts at initialStock.
	onHand, reserved int64
	// ledger has the reasons of the entries, the oldest first.
	ledger []string
}

// initialStock is the stock on hand of every SKU.
const initialStock = 10

// The final states of an order for 3.
var (
	nothing   = finalState{onHand: initialStock}
	rejected  = finalState{"rejected", 99, "none", initialStock, 0, nil}
	placed    = finalState{"placed", 3, "held", initialStock, 3, []string{"held"}}
	amended   = finalState{"placed", 5, "held", initialStock, 5, []string{"held", "amended"}}
	confirmed = finalState{"confirmed", 3, "committed", initialStock - 3, 0, []string{"held", "committed"}}
	cancelled = finalState{"cancelled", 3, "released", initialStock, 0, []string{"held", "released"}}
	returned  = finalState{"cancelled", 3, "released", initialStock, 0, []string{"held", "committed", "returned"}}
	expired   = finalState{"expired", 3, "expired", initialStock, 0, []string{"held", "expired"}}
)

// outcome is an exchange and its expected response and final state.
type outcome struct {
	exchange string
	// first prepares the order, and request is the exchange. Each outcome has its own
	// order and SKU.
	first   func(sys *system, id, sku string)
	request request
	status  int
	code    string
	after   finalState
	// attempts is the number of attempts at inventory: 0 or 1.
	attempts int
}

// request makes a function that sends a request for an order and a SKU.
type request func(sys *system, id, sku string) func(headers ...string) caller.Response

func placing(quantity int64) request {
	return func(sys *system, id, sku string) func(...string) caller.Response {
		return func(h ...string) caller.Response { return sys.Place(sys.Context(), id, sku, quantity, h...) }
	}
}

// placingFor places with a hold of some seconds.
func placingFor(seconds int) request {
	return func(sys *system, id, sku string) func(...string) caller.Response {
		body := fmt.Sprintf(`{"customer":"c","currency":"GBP","hold_seconds":%d,"lines":[{"sku":%q,"quantity":3,"unit_price":100}]}`, seconds, sku)
		return func(h ...string) caller.Response {
			return sys.Services.Orders.Call(sys.Context(), "PUT", "/v1/orders/"+id, body, h...)
		}
	}
}

func amending(quantity int64) request {
	return func(sys *system, id, sku string) func(...string) caller.Response {
		return func(h ...string) caller.Response { return sys.Amend(sys.Context(), id, sku, quantity, h...) }
	}
}

func confirming(sys *system, id, _ string) func(...string) caller.Response {
	return func(h ...string) caller.Response { return sys.Confirm(sys.Context(), id, h...) }
}

func cancelling(sys *system, id, _ string) func(...string) caller.Response {
	return func(h ...string) caller.Response { return sys.Cancel(sys.Context(), id, h...) }
}

func reservation(sys *system, id, _ string) func(...string) caller.Response {
	return func(h ...string) caller.Response {
		return sys.Services.Orders.Call(sys.Context(), "GET", "/v1/orders/"+id+"/reservation", "", h...)
	}
}

func availability(query string) request {
	return func(sys *system, _, sku string) func(...string) caller.Response {
		return func(h ...string) caller.Response {
			return sys.Services.Orders.Call(sys.Context(), "GET", "/v1/availability"+strings.ReplaceAll(query, "SKU", sku), "", h...)
		}
	}
}

// with adds headers to a request.
func with(r request, more ...string) request {
	return func(sys *system, id, sku string) func(...string) caller.Response {
		return func(h ...string) caller.Response { return r(sys, id, sku)(append(slices.Clone(h), more...)...) }
	}
}

// withTinyTimeout leaves no time for the request.
func withTinyTimeout(r request) request { return with(r, exchange.TimeoutHeader, "5") }

// invalid sends a request with an invalid id.
func invalid(method, path string) request {
	return func(sys *system, _, _ string) func(...string) caller.Response {
		return func(h ...string) caller.Response {
			return sys.Services.Orders.Call(sys.Context(), method, "/v1/orders/no%20id"+path, "", h...)
		}
	}
}

// The following functions prepare an order.

func isPlaced(sys *system, id, sku string) {
	sys.Helper()
	sys.doUntil(id, "placed", func() caller.Response { return sys.Place(sys.Context(), id, sku, 3) })
}

func isPlacedFor(seconds int) func(*system, string, string) {
	return func(sys *system, id, sku string) {
		sys.Helper()
		sys.doUntil(id, "placed", func() caller.Response { return placingFor(seconds)(sys, id, sku)() })
	}
}

func isConfirmed(sys *system, id, sku string) {
	sys.Helper()
	isPlaced(sys, id, sku)
	sys.doUntil(id, "confirmed", func() caller.Response { return sys.Confirm(sys.Context(), id) })
}

func isCancelled(sys *system, id, sku string) {
	sys.Helper()
	isPlaced(sys, id, sku)
	sys.doUntil(id, "cancelled", func() caller.Response { return sys.Cancel(sys.Context(), id) })
}

func isExpired(sys *system, id, sku string) {
	sys.Helper()
	isPlacedFor(1)(sys, id, sku)
	sys.waitForState(id, "expired")
	sys.waitForRelease(sku)
}

// releaseWithin is how long after a hold expires its stock may take to be released on
// a busy machine. The rule is 5 s.
const releaseWithin = 30 * time.Second

func (sys *system) waitForRelease(sku string) {
	sys.Helper()
	wait.Until(sys, releaseWithin, "the stock of "+sku+" is released", nil, func() bool {
		level, err := sys.Level(sys.Context(), sku)
		return err == nil && level.Reserved == 0
	})
}

func isRejected(sys *system, id, sku string) {
	sys.Helper()
	if r := sys.Place(sys.Context(), id, sku, 99); r.Code != "insufficient-stock" {
		sys.Fatalf("place %s: %d %s %v", id, r.Status, r.Text, r.Err)
	}
}

// otherHoldExpired places another order for all stock and waits until its hold
// expires, but not until inventory's sweeper releases it.
func otherHoldExpired(sys *system, id, sku string) {
	sys.Helper()
	other := id + "-other"
	body := fmt.Sprintf(`{"customer":"c","currency":"GBP","hold_seconds":1,"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]}`, sku, initialStock)
	sys.doUntil(other, "placed", func() caller.Response {
		return sys.Services.Orders.Call(sys.Context(), "PUT", "/v1/orders/"+other, body)
	})
	held := sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+other, "")
	at, err := time.Parse(time.RFC3339Nano, held.ExpiresAt)
	sys.check(err)
	select {
	case <-time.After(time.Until(at) + 10*time.Millisecond):
	case <-sys.Context().Done():
	}
}

// doUntil repeats a request until it is done. Then its order must be in the state.
func (sys *system) doUntil(id, state string, request func() caller.Response) {
	sys.Helper()
	var r caller.Response
	wait.Until(sys, limit, id+" is "+state, func() string { return fmt.Sprint(": ", r.Status, " ", r.Text, " ", r.Err) }, func() bool {
		r = request()
		return r.Done()
	})
	if r.State != state {
		sys.Fatalf("%s: want state %s, got %d %s", id, state, r.Status, r.Text)
	}
}

// waitForState waits until an order is in a state.
func (sys *system) waitForState(id, state string) {
	sys.Helper()
	wait.Until(sys, limit, id+" is "+state, nil, func() bool { return sys.Order(sys.Context(), id).State == state })
}

// outcomeGroups are the outcomes of every exchange, by row of the report.
var outcomeGroups = []struct {
	name, about, whyNot string
	of                  []outcome
}{
	{"done", "", "", []outcome{
		{"place", nil, placing(3), 201, "", placed, 1},
		{"amend", isPlaced, amending(5), 200, "", amended, 1},
		{"confirm", isPlaced, confirming, 200, "", confirmed, 1},
		{"cancel", isPlaced, cancelling, 200, "", cancelled, 1},
		{"reservation", isPlaced, reservation, 200, "", placed, 1},
		{"availability", isPlaced, availability("?sku=SKU"), 200, "", placed, 1},
	}},
	{"repeated", "The operation was done before.", "An amend with the same lines is a new operation. A read has no repeat.", []outcome{
		{"place", isPlaced, placing(3), 200, "", placed, 0},
		{"confirm", isConfirmed, confirming, 200, "", confirmed, 0},
		{"cancel", isCancelled, cancelling, 200, "", cancelled, 0},
	}},
	{"insufficient-stock", "99 are requested, 10 are on hand.", "It takes nothing from stock.", []outcome{
		{"place", nil, placing(99), 409, "insufficient-stock", rejected, 1},
		{"amend", isPlaced, amending(99), 409, "insufficient-stock", placed, 1},
	}},
	{"rejection repeated", "The place was rejected before and gets the same response again.", "A rejection settles the operation, not the order.", []outcome{
		{"place", isRejected, placing(99), 409, "insufficient-stock", rejected, 0},
	}},
	{"on stock of an expired hold", "Another order's hold on all stock has just expired.", "It takes nothing from stock.", []outcome{
		{"place", otherHoldExpired, placing(3), 201, "", placed, 1},
	}},
	{"wrong-state", "The order is cancelled; for a cancel, rejected.", "It is allowed in every state.", []outcome{
		{"amend", isCancelled, amending(5), 409, "wrong-state", cancelled, 0},
		{"confirm", isCancelled, confirming, 409, "wrong-state", cancelled, 0},
		{"cancel", isRejected, cancelling, 409, "wrong-state", rejected, 0},
	}},
	{"reservation-expired", "The order's hold expired.", "It needs no hold.", []outcome{
		{"amend", isExpired, amending(5), 409, "reservation-expired", expired, 0},
		{"confirm", isExpired, confirming, 409, "reservation-expired", expired, 0},
	}},
	{"of a confirmed order", "", "Another row tests it.", []outcome{
		{"cancel", isConfirmed, cancelling, 200, "", returned, 1},
		{"reservation", isConfirmed, reservation, 200, "", confirmed, 1},
		{"availability", isConfirmed, availability("?sku=SKU"), 200, "", confirmed, 1},
	}},
	{"of a cancelled order", "", "Another row tests it.", []outcome{
		{"reservation", isCancelled, reservation, 200, "", cancelled, 1},
		{"availability", isCancelled, availability("?sku=SKU"), 200, "", cancelled, 1},
	}},
	{"of an expired order", "", "Another row tests it.", []outcome{
		{"reservation", isExpired, reservation, 200, "", expired, 1},
		{"availability", isExpired, availability("?sku=SKU"), 200, "", expired, 1},
	}},
	{"key-reused", "The id was used with other content.", "Only a place creates an order under an id.", []outcome{
		{"place", isPlaced, placing(4), 422, "key-reused", placed, 0},
	}},
	{"precondition-failed", "If-Match has another version than the order.", "It takes no If-Match.", []outcome{
		{"amend", isPlaced, with(amending(5), "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
		{"confirm", isPlaced, with(confirming, "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
		{"cancel", isPlaced, with(cancelling, "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
	}},
	{"not-found", "There is no such order. An unknown SKU has nothing available.", "A place creates the order.", []outcome{
		{"amend", nil, amending(5), 404, "not-found", nothing, 0},
		{"confirm", nil, confirming, 404, "not-found", nothing, 0},
		{"cancel", nil, cancelling, 404, "not-found", nothing, 0},
		{"reservation", nil, reservation, 404, "not-found", nothing, 0},
		{"availability", nil, availability("?sku=unknown"), 200, "", nothing, 1},
	}},
	{"invalid", "A quantity below 1, no SKU, or an invalid id.", "", []outcome{
		{"place", nil, placing(-1), 400, "invalid", nothing, 0},
		{"amend", isPlaced, amending(0), 400, "invalid", placed, 0},
		{"confirm", isPlaced, invalid("POST", "/confirm"), 400, "invalid", placed, 0},
		{"cancel", isPlaced, invalid("POST", "/cancel"), 400, "invalid", placed, 0},
		{"reservation", isPlaced, invalid("GET", "/reservation"), 400, "invalid", placed, 0},
		{"availability", nil, availability(""), 400, "invalid", nothing, 0},
	}},
	{"deadline-exceeded", "The timeout is 5 ms.", "", []outcome{
		{"place", nil, withTinyTimeout(placing(3)), 504, "deadline-exceeded", nothing, 0},
		{"amend", isPlaced, withTinyTimeout(amending(5)), 504, "deadline-exceeded", placed, 0},
		{"confirm", isPlaced, withTinyTimeout(confirming), 504, "deadline-exceeded", placed, 0},
		{"cancel", isPlaced, withTinyTimeout(cancelling), 504, "deadline-exceeded", placed, 0},
		{"reservation", isPlaced, withTinyTimeout(reservation), 504, "deadline-exceeded", placed, 0},
		{"availability", isPlaced, withTinyTimeout(availability("?sku=SKU")), 504, "deadline-exceeded", placed, 0},
	}},
}

func TestEachExchangeToEachOutcome(t *testing.T) {
	t.Parallel()
	for _, wire := range wires {
		for _, store := range stores {
			t.Run(wire+"/"+store, func(t *testing.T) {
				t.Parallel()
				sys := startSystem(t, setting{wire: wire, store: store})
				sys.runOutcomes(outcomes)
				sys.audit()
			})
		}
	}
}

// runOutcomes runs all outcomes, eight at a time.
func (sys *system) runOutcomes(s *section) {
	sys.Helper()
	var cells []map[string]*cell
	var work errgroup.Group
	work.SetLimit(8)
	for i := range outcomeGroups {
		group := &outcomeGroups[i]
		var made []string
		for _, o := range group.of {
			made = append(made, o.exchange)
		}
		opened := s.row(group.name, group.about).open(sys, sys.wire, sys.store, group.whyNot, made...)
		cells = append(cells, opened)
		for _, o := range group.of {
			c := opened[o.exchange]
			c.order = fmt.Sprintf("%s-%d", o.exchange, i)
			work.Go(func() error {
				sys.runOutcome(o, c, fmt.Sprintf("sku-%s-%d", o.exchange, i))
				return nil
			})
		}
	}
	sys.check(work.Wait())
	sys.checkLogs(cells)
	for _, opened := range cells {
		sys.close(opened)
	}
}

// checkLogs checks that both services logged every request. A line may be written
// after the response is sent.
func (sys *system) checkLogs(cells []map[string]*cell) {
	sys.Helper()
	missing := map[*cell]string{}
	ctx, cancel := context.WithTimeout(sys.Context(), logsWithin)
	defer cancel()
	_ = poll(ctx, func() error { // missing lines are reported below
		clear(missing)
		b := sys.readLogs()
		for i, opened := range cells {
			for _, o := range outcomeGroups[i].of {
				c := opened[o.exchange]
				for _, call := range sys.recorder.of(o.exchange, c.order) {
					attempts, received := b.attempts(call.requestID), len(b.received(call.requestID))
					if len(b.orders[call.requestID]) == 0 || attempts != o.attempts || received != o.attempts {
						missing[c] = fmt.Sprintf("orders logged %d lines for request %s, with %d attempts, and inventory logged %d; want %d attempts",
							len(b.orders[call.requestID]), call.requestID, attempts, received, o.attempts)
					}
				}
			}
		}
		if len(missing) > 0 {
			return errors.New("lines are missing")
		}
		return nil
	})
	for c, what := range missing {
		c.Errorf("%s", what)
	}
}

// logsWithin is how long a line may take to appear in a container's log.
const logsWithin = 10 * time.Second

// runOutcome runs one outcome and checks the response and the final state.
func (sys *system) runOutcome(o outcome, c *cell, sku string) {
	sys.stock(sku)
	if o.first != nil {
		o.first(sys, c.order, sku)
	}
	call := sys.call(o.exchange, c.order, timeout, o.request(sys, c.order, sku))
	if r := call.response; r.Status != o.status || r.Code != o.code {
		c.Errorf("got %d %s %v, want %d %s", r.Status, r.Text, r.Err, o.status, o.code)
	}
	sys.compare(c, c.order, sku, o.after)
}

// stock sets the initial stock of a SKU.
func (sys *system) stock(sku string) {
	wait.Until(sys, limit, "there is stock of "+sku, nil, func() bool { return sys.Count(sys.Context(), sku, initialStock).Done() })
}

// compare checks the state of an order in both services.
func (sys *system) compare(c *cell, id, sku string, want finalState) {
	order := sys.Order(sys.Context(), id)
	has := finalState{state: order.State}
	if len(order.Lines) == 1 {
		has.quantity = order.Lines[0].Quantity
	}
	reservation := sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+id, "")
	if has.reservation = reservation.State; reservation.Status == http.StatusNotFound {
		has.reservation = ""
	}
	level, err := sys.Level(sys.Context(), sku)
	if err != nil {
		c.Errorf("%v", err)
	}
	has.onHand, has.reserved = level.OnHand, level.Reserved
	ledger := sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/ledger?ref="+id, "")
	for _, e := range slices.Backward(ledger.Entries) {
		has.ledger = append(has.ledger, e.Reason)
	}
	if !reflect.DeepEqual(has, want) {
		c.Errorf("%s: got %+v, want %+v\norders: %s\ninventory: %s", id, has, want, order.Text, reservation.Text)
	}
	if order.Intent != nil {
		c.Errorf("%s is not settled: %s", id, order.Text)
	}
	if order.Last != nil && reservation.Seq != order.Last.Seq {
		c.Errorf("%s: orders' last operation has seq %d, the reservation %d", id, order.Last.Seq, reservation.Seq)
	}
}
