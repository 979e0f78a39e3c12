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
	"roundtrip/test/support/shop"
)

// kept is what both sides have of an order after an exchange.
type kept struct {
	// state and quantity are the order's; an order that is not there has none.
	state    string
	quantity int64
	// reservation is inventory's state, "" where it has never heard of the order.
	reservation string
	// onHand and reserved are the level's, of which there were stocked at first.
	onHand, reserved int64
	// ledger are the reasons of its entries, the oldest first.
	ledger []string
}

// stocked is on hand of every SKU of a case.
const stocked = 10

// What an order for 3 and its reservation are.
var (
	nothing   = kept{onHand: stocked}
	rejected  = kept{"rejected", 99, "none", stocked, 0, nil}
	placed    = kept{"placed", 3, "held", stocked, 3, []string{"held"}}
	amended   = kept{"placed", 5, "held", stocked, 5, []string{"held", "amended"}}
	confirmed = kept{"confirmed", 3, "committed", stocked - 3, 0, []string{"held", "committed"}}
	cancelled = kept{"cancelled", 3, "released", stocked, 0, []string{"held", "released"}}
	returned  = kept{"cancelled", 3, "released", stocked, 0, []string{"held", "committed", "returned"}}
	expired   = kept{"expired", 3, "expired", stocked, 0, []string{"held", "expired"}}
)

// outcome is one that can be brought about from outside.
type outcome struct {
	exchange string
	// first is done before, and request is the exchange itself, about an order and a
	// SKU of its own.
	first   func(p *pair, id, sku string)
	request request
	status  int
	code    string
	after   kept
	// attempts is how often inventory is asked: once, or not at all.
	attempts int
}

// request makes an exchange about an order and a SKU; it takes headers.
type request func(p *pair, id, sku string) func(headers ...string) shop.Reply

// The requests.
func placing(quantity int64) request {
	return func(p *pair, id, sku string) func(...string) shop.Reply {
		return func(h ...string) shop.Reply { return p.Place(p.Context(), id, sku, quantity, h...) }
	}
}

// placingFor holds for so many seconds.
func placingFor(seconds int) request {
	return func(p *pair, id, sku string) func(...string) shop.Reply {
		body := fmt.Sprintf(`{"customer":"c","currency":"GBP","hold_seconds":%d,"lines":[{"sku":%q,"quantity":3,"unit_price":100}]}`, seconds, sku)
		return func(h ...string) shop.Reply {
			return p.Shop.Orders.Call(p.Context(), "PUT", "/v1/orders/"+id, body, h...)
		}
	}
}

func amending(quantity int64) request {
	return func(p *pair, id, sku string) func(...string) shop.Reply {
		return func(h ...string) shop.Reply { return p.Amend(p.Context(), id, sku, quantity, h...) }
	}
}

func confirming(p *pair, id, _ string) func(...string) shop.Reply {
	return func(h ...string) shop.Reply { return p.Confirm(p.Context(), id, h...) }
}

func cancelling(p *pair, id, _ string) func(...string) shop.Reply {
	return func(h ...string) shop.Reply { return p.Cancel(p.Context(), id, h...) }
}

func reservation(p *pair, id, _ string) func(...string) shop.Reply {
	return func(h ...string) shop.Reply {
		return p.Shop.Orders.Call(p.Context(), "GET", "/v1/orders/"+id+"/reservation", "", h...)
	}
}

func availability(query string) request {
	return func(p *pair, _, sku string) func(...string) shop.Reply {
		return func(h ...string) shop.Reply {
			return p.Shop.Orders.Call(p.Context(), "GET", "/v1/availability"+strings.ReplaceAll(query, "SKU", sku), "", h...)
		}
	}
}

// with adds headers to a request.
func with(r request, more ...string) request {
	return func(p *pair, id, sku string) func(...string) shop.Reply {
		return func(h ...string) shop.Reply { return r(p, id, sku)(append(slices.Clone(h), more...)...) }
	}
}

// hurried allows no time.
func hurried(r request) request { return with(r, exchange.TimeoutHeader, "5") }

// invalid asks about an id that can't be one.
func invalid(method, path string) request {
	return func(p *pair, _, _ string) func(...string) shop.Reply {
		return func(h ...string) shop.Reply {
			return p.Shop.Orders.Call(p.Context(), method, "/v1/orders/no%20id"+path, "", h...)
		}
	}
}

// What was done before.
func isPlaced(p *pair, id, sku string) {
	p.Helper()
	p.mustBe(id, "placed", func() shop.Reply { return p.Place(p.Context(), id, sku, 3) })
}

func isPlacedFor(seconds int) func(*pair, string, string) {
	return func(p *pair, id, sku string) {
		p.Helper()
		p.mustBe(id, "placed", func() shop.Reply { return placingFor(seconds)(p, id, sku)() })
	}
}

func isConfirmed(p *pair, id, sku string) {
	p.Helper()
	isPlaced(p, id, sku)
	p.mustBe(id, "confirmed", func() shop.Reply { return p.Confirm(p.Context(), id) })
}

func isCancelled(p *pair, id, sku string) {
	p.Helper()
	isPlaced(p, id, sku)
	p.mustBe(id, "cancelled", func() shop.Reply { return p.Cancel(p.Context(), id) })
}

func isExpired(p *pair, id, sku string) {
	p.Helper()
	isPlacedFor(1)(p, id, sku)
	p.becomes(id, "expired")
	p.isFreed(sku)
}

// freedWithin is how long after its hold ran out stock is given back, on a machine
// however busy; the rule is 5 s.
const freedWithin = 30 * time.Second

func (p *pair) isFreed(sku string) {
	p.Helper()
	shop.Wait(p, freedWithin, "the stock of "+sku+" is given back", nil, func() bool {
		level, err := p.Level(p.Context(), sku)
		return err == nil && level.Reserved == 0
	})
}

func isRejected(p *pair, id, sku string) {
	p.Helper()
	if r := p.Place(p.Context(), id, sku, 99); r.Code != "insufficient-stock" {
		p.Fatalf("place %s: %d %s %v", id, r.Status, r.Text, r.Err)
	}
}

// ranOut makes another order's hold on everything run out, and does not wait for
// anybody to notice.
func ranOut(p *pair, id, sku string) {
	p.Helper()
	other := id + "-other"
	body := fmt.Sprintf(`{"customer":"c","currency":"GBP","hold_seconds":1,"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]}`, sku, stocked)
	p.mustBe(other, "placed", func() shop.Reply { return p.Shop.Orders.Call(p.Context(), "PUT", "/v1/orders/"+other, body) })
	held := p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+other, "")
	at, err := time.Parse(time.RFC3339Nano, held.ExpiresAt)
	p.check(err)
	select {
	case <-time.After(time.Until(at) + 10*time.Millisecond):
	case <-p.Context().Done():
	}
}

// mustBe makes a request until it is done, which makes of its order what is named.
func (p *pair) mustBe(id, state string, request func() shop.Reply) {
	p.Helper()
	var r shop.Reply
	shop.Wait(p, patience, id+" is "+state, func() string { return fmt.Sprint(": ", r.Status, " ", r.Text, " ", r.Err) }, func() bool {
		r = request()
		return r.Done()
	})
	if r.State != state {
		p.Fatalf("%s was to be %s: %d %s", id, state, r.Status, r.Text)
	}
}

// becomes waits until an order is in a state by itself.
func (p *pair) becomes(id, state string) {
	p.Helper()
	shop.Wait(p, patience, id+" is "+state, nil, func() bool { return p.Order(p.Context(), id).State == state })
}

// theOutcomes are those of every exchange, by the report's rows.
var theOutcomes = []struct {
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
	{"repeated", "It was done already.", "An amend with the same lines is a new one; to ask twice is to ask.", []outcome{
		{"place", isPlaced, placing(3), 200, "", placed, 0},
		{"confirm", isConfirmed, confirming, 200, "", confirmed, 0},
		{"cancel", isCancelled, cancelling, 200, "", cancelled, 0},
	}},
	{"insufficient-stock", "99 are asked for, of 10.", "It takes nothing from stock.", []outcome{
		{"place", nil, placing(99), 409, "insufficient-stock", rejected, 1},
		{"amend", isPlaced, amending(99), 409, "insufficient-stock", placed, 1},
	}},
	{"a rejection, repeated", "It was rejected before, and is again, with the same answer.", "Its rejection settles an operation, and not the order.", []outcome{
		{"place", isRejected, placing(99), 409, "insufficient-stock", rejected, 0},
	}},
	{"on stock whose hold ran out", "Another order's hold on all of it has just ended.", "It takes nothing from stock that another has held.", []outcome{
		{"place", ranOut, placing(3), 201, "", placed, 1},
	}},
	{"wrong-state", "The order was cancelled; for a cancel, rejected.", "It is allowed in every state.", []outcome{
		{"amend", isCancelled, amending(5), 409, "wrong-state", cancelled, 0},
		{"confirm", isCancelled, confirming, 409, "wrong-state", cancelled, 0},
		{"cancel", isRejected, cancelling, 409, "wrong-state", rejected, 0},
	}},
	{"reservation-expired", "The order's hold ran out.", "It needs no hold.", []outcome{
		{"amend", isExpired, amending(5), 409, "reservation-expired", expired, 0},
		{"confirm", isExpired, confirming, 409, "reservation-expired", expired, 0},
	}},
	{"of what is confirmed", "", "There is another row for it.", []outcome{
		{"cancel", isConfirmed, cancelling, 200, "", returned, 1},
		{"reservation", isConfirmed, reservation, 200, "", confirmed, 1},
		{"availability", isConfirmed, availability("?sku=SKU"), 200, "", confirmed, 1},
	}},
	{"of what is cancelled", "", "There is another row for it.", []outcome{
		{"reservation", isCancelled, reservation, 200, "", cancelled, 1},
		{"availability", isCancelled, availability("?sku=SKU"), 200, "", cancelled, 1},
	}},
	{"of what has expired", "", "There is another row for it.", []outcome{
		{"reservation", isExpired, reservation, 200, "", expired, 1},
		{"availability", isExpired, availability("?sku=SKU"), 200, "", expired, 1},
	}},
	{"key-reused", "The id was used for another content.", "Only a place makes an order under an id.", []outcome{
		{"place", isPlaced, placing(4), 422, "key-reused", placed, 0},
	}},
	{"precondition-failed", "If-Match names a version that is not the order's.", "It takes no If-Match.", []outcome{
		{"amend", isPlaced, with(amending(5), "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
		{"confirm", isPlaced, with(confirming, "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
		{"cancel", isPlaced, with(cancelling, "If-Match", `"99"`), 412, "precondition-failed", placed, 0},
	}},
	{"not-found", "There is no such order. Of a SKU that nobody knows nothing is available.", "A place makes the order.", []outcome{
		{"amend", nil, amending(5), 404, "not-found", nothing, 0},
		{"confirm", nil, confirming, 404, "not-found", nothing, 0},
		{"cancel", nil, cancelling, 404, "not-found", nothing, 0},
		{"reservation", nil, reservation, 404, "not-found", nothing, 0},
		{"availability", nil, availability("?sku=unknown"), 200, "", nothing, 1},
	}},
	{"invalid", "A quantity below 1; no SKU to ask about; a body or an id that can't be one.", "", []outcome{
		{"place", nil, placing(-1), 400, "invalid", nothing, 0},
		{"amend", isPlaced, amending(0), 400, "invalid", placed, 0},
		{"confirm", isPlaced, invalid("POST", "/confirm"), 400, "invalid", placed, 0},
		{"cancel", isPlaced, invalid("POST", "/cancel"), 400, "invalid", placed, 0},
		{"reservation", isPlaced, invalid("GET", "/reservation"), 400, "invalid", placed, 0},
		{"availability", nil, availability(""), 400, "invalid", nothing, 0},
	}},
	{"deadline-exceeded", "The caller allows 5 ms.", "", []outcome{
		{"place", nil, hurried(placing(3)), 504, "deadline-exceeded", nothing, 0},
		{"amend", isPlaced, hurried(amending(5)), 504, "deadline-exceeded", placed, 0},
		{"confirm", isPlaced, hurried(confirming), 504, "deadline-exceeded", placed, 0},
		{"cancel", isPlaced, hurried(cancelling), 504, "deadline-exceeded", placed, 0},
		{"reservation", isPlaced, hurried(reservation), 504, "deadline-exceeded", placed, 0},
		{"availability", isPlaced, hurried(availability("?sku=SKU")), 504, "deadline-exceeded", placed, 0},
	}},
}

func TestEachExchangeToEachOutcome(t *testing.T) {
	t.Parallel()
	for _, wire := range wires {
		for _, store := range stores {
			t.Run(wire+"/"+store, func(t *testing.T) {
				t.Parallel()
				p := startPair(t, setting{wire: wire, store: store})
				p.makesEach(outcomes)
				p.audit()
			})
		}
	}
}

// makesEach brings every outcome about, many at the same time.
func (p *pair) makesEach(s *section) {
	p.Helper()
	var cells []map[string]*cell
	var work errgroup.Group
	work.SetLimit(8)
	for i := range theOutcomes {
		group := &theOutcomes[i]
		var made []string
		for _, o := range group.of {
			made = append(made, o.exchange)
		}
		opened := s.row(group.name, group.about).open(p, p.wire, p.store, group.whyNot, made...)
		cells = append(cells, opened)
		for _, o := range group.of {
			c := opened[o.exchange]
			c.order = fmt.Sprintf("%s-%d", o.exchange, i)
			work.Go(func() error {
				p.makes(o, c, fmt.Sprintf("sku-%s-%d", o.exchange, i))
				return nil
			})
		}
	}
	p.check(work.Wait())
	p.bothLogged(cells)
	for _, opened := range cells {
		p.close(opened)
	}
}

// bothLogged looks for every request in both services' logs. A line is written once
// the answer is on its way, so that it may come after it.
func (p *pair) bothLogged(cells []map[string]*cell) {
	p.Helper()
	missing := map[*cell]string{}
	ctx, cancel := context.WithTimeout(p.Context(), logsWithin)
	defer cancel()
	_ = poll(ctx, func() error { // what is missing then is told below
		clear(missing)
		b := p.read()
		for i, opened := range cells {
			for _, o := range theOutcomes[i].of {
				c := opened[o.exchange]
				for _, call := range p.diary.of(o.exchange, c.order) {
					asked, arrived := b.attempts(call.requestID), len(b.arrived(call.requestID))
					if len(b.orders[call.requestID]) == 0 || asked != o.attempts || arrived != o.attempts {
						missing[c] = fmt.Sprintf("orders has %d lines about request %s, with %d attempts, and inventory has answered %d; %d were wanted",
							len(b.orders[call.requestID]), call.requestID, asked, arrived, o.attempts)
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

// logsWithin is how soon a line is in a container's log.
const logsWithin = 10 * time.Second

// makes brings one outcome about and looks at both ends.
func (p *pair) makes(o outcome, c *cell, sku string) {
	p.stock(sku)
	if o.first != nil {
		o.first(p, c.order, sku)
	}
	call := p.make(o.exchange, c.order, timeout, o.request(p, c.order, sku))
	if r := call.reply; r.Status != o.status || r.Code != o.code {
		c.Errorf("it was answered with %d %s %v, not with %d %s", r.Status, r.Text, r.Err, o.status, o.code)
	}
	p.compare(c, c.order, sku, o.after)
}

// stock puts what is stocked of a SKU on hand.
func (p *pair) stock(sku string) {
	shop.Wait(p, patience, "there is stock of "+sku, nil, func() bool { return p.Count(p.Context(), sku, stocked).Done() })
}

// compare holds both sides' idea of an order to what it has to be.
func (p *pair) compare(c *cell, id, sku string, want kept) {
	order := p.Order(p.Context(), id)
	has := kept{state: order.State}
	if len(order.Lines) == 1 {
		has.quantity = order.Lines[0].Quantity
	}
	reservation := p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+id, "")
	if has.reservation = reservation.State; reservation.Status == http.StatusNotFound {
		has.reservation = ""
	}
	level, err := p.Level(p.Context(), sku)
	if err != nil {
		c.Errorf("%v", err)
	}
	has.onHand, has.reserved = level.OnHand, level.Reserved
	ledger := p.Shop.Inventory.Call(p.Context(), "GET", "/v1/ledger?ref="+id, "")
	for _, e := range slices.Backward(ledger.Entries) {
		has.ledger = append(has.ledger, e.Reason)
	}
	if !reflect.DeepEqual(has, want) {
		c.Errorf("of %s both sides have %+v, and should have %+v\norders: %s\ninventory: %s", id, has, want, order.Text, reservation.Text)
	}
	if order.Intent != nil {
		c.Errorf("%s is not settled: %s", id, order.Text)
	}
	if order.Last != nil && reservation.Seq != order.Last.Seq {
		c.Errorf("orders' last operation on %s has seq %d, inventory's reservation %d", id, order.Last.Seq, reservation.Seq)
	}
}
