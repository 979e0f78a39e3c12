package integration

import (
	"cmp"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"

	"roundtrip/test/support/caller"
	"roundtrip/test/support/wait"
)

// expectation says which responses a caller may get during a fault.
type expectation int

const (
	// doneOrUnknown: the operation is done, or its outcome is unknown.
	doneOrUnknown expectation = iota
	// unknown: the outcome is unknown.
	unknown
)

// fault is a fault during which one request of each exchange is sent.
type fault struct {
	name, about string
	// whyNot says why the fault can't occur, by wire.
	whyNot      map[string]string
	expectation expectation
	// run injects the fault, sends the requests, and ends the fault.
	run func(sys *system, requests func())
}

// forAllProxies calls do for the proxies between orders' replicas and inventory.
func forAllProxies(sys *system, do func(proxy)) {
	for _, l := range sys.proxies[:len(sys.orders.replicas)] {
		do(l)
	}
}

// toxic makes a fault from a toxic on orders' proxies.
func toxic(name, about, direction, kind string, attributes toxiproxy.Attributes, expectation expectation) fault {
	return fault{name: name, about: about, expectation: expectation, run: func(sys *system, requests func()) {
		sys.recorder.during(name, func() {
			forAllProxies(sys, func(l proxy) { sys.addToxic(l, direction, kind, attributes) })
			requests()
			forAllProxies(sys, func(l proxy) { sys.removeToxic(l, direction, kind) })
		})
	}}
}

var faultList = []fault{
	toxic("latency beyond the deadline", "Every response takes 4 s longer. The timeout is 2 s.", toOrders, "latency", milliseconds(4000), unknown),
	toxic("reset before the request", "Every connection is reset as soon as orders sends. Nothing arrives.", toInventory, "reset_peer", toxiproxy.Attributes{"timeout": 0}, unknown),
	toxic("reset in the middle of the request", "Every connection ends after 60 bytes from orders.", toInventory, "limit_data", toxiproxy.Attributes{"bytes": 60}, unknown),
	toxic("reset after the request", "Every connection is reset as soon as inventory responds.", toOrders, "reset_peer", toxiproxy.Attributes{"timeout": 0}, unknown),
	{
		name: "the response lost after inventory committed", about: "Responses are held back until inventory has committed. Then the connections break, and new ones work.",
		run: func(sys *system, requests func()) {
			var sending sync.WaitGroup
			sys.recorder.during("responses are lost", func() {
				forAllProxies(sys, func(l proxy) { sys.addToxic(l, toOrders, "timeout", toxiproxy.Attributes{"timeout": 0}) })
				sending.Go(requests)
				for id, state := range map[string]string{"place": "held", "amend": "held", "confirm": "committed", "cancel": "released"} {
					wait.Until(sys, limit, "inventory has done the "+id, nil, func() bool {
						r := sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+id, "")
						return r.State == state && r.Seq == map[bool]int64{true: 1, false: 2}[id == "place"]
					})
				}
				forAllProxies(sys, func(l proxy) { sys.removeToxic(l, toOrders, "timeout") })
			})
			sending.Wait()
		},
	},
	toxic("bandwidth throttled", "Orders sends 1 KB a second to inventory.", toInventory, "bandwidth", toxiproxy.Attributes{"rate": 1}, doneOrUnknown),
	toxic("requests lost", "Bytes from orders are dropped silently.", toInventory, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown),
	toxic("responses lost", "Bytes from inventory are dropped silently.", toOrders, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown),
	{
		name: "disconnected both ways", about: "Inventory's container is disconnected from the network, and reconnected later.", expectation: unknown,
		run: func(sys *system, requests func()) {
			sys.recorder.during("disconnected", func() {
				c := sys.inventory.replicas[0]
				address, err := c.ContainerIP(sys.Context())
				sys.check(err)
				_, err = sys.engine.NetworkDisconnect(sys.Context(), sys.network.ID, client.NetworkDisconnectOptions{Container: c.GetContainerID(), Force: true})
				sys.check(err)
				requests()
				_, err = sys.engine.NetworkConnect(sys.Context(), sys.network.ID, client.NetworkConnectOptions{
					Container: c.GetContainerID(), EndpointConfig: &network.EndpointSettings{Aliases: []string{sys.host("inventory")}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(address)}},
				})
				sys.check(err)
			})
			sys.route(sys.inventory)
		},
	},
	{
		name: "flapping", about: "The connection is broken and restored every 150 ms.", expectation: doneOrUnknown,
		run: func(sys *system, requests func()) {
			sys.recorder.during("flapping", func() {
				attemptsOf, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for done := false; !done; {
						forAllProxies(sys, sys.disable)
						done = closedWithin(attemptsOf, 150*time.Millisecond)
						forAllProxies(sys, sys.enable)
						done = closedWithin(attemptsOf, 150*time.Millisecond) || done
					}
				}()
				requests()
				close(attemptsOf)
				<-stopped
			})
		},
	},
	{
		name: "inventory paused", about: "Inventory gets SIGSTOP, and SIGCONT after the deadline.", expectation: unknown,
		run: func(sys *system, requests func()) {
			sys.recorder.during("inventory is paused", func() {
				sys.check(sys.inventory.replicas[0].Signal(sys.Context(), "SIGSTOP"))
				requests()
				sys.check(sys.inventory.replicas[0].Signal(sys.Context(), "SIGCONT"))
			})
		},
	},
	fakeInventory("inventory answers garbage", "Every response is meaningless bytes.", garbageResponse),
	fakeInventory("inventory answers an oversized body", "Every response is larger than orders reads.", oversizedResponse),
	fakeInventory("inventory answers for another order", "Every response is about another order.", otherOrderResponse),
	fakeInventory("inventory answers that it is unavailable", "Every response is 503, which is not an outcome.", unavailableResponse),
}

// closedWithin waits until a channel is closed, for a limited time.
func closedWithin(c <-chan struct{}, within time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(within):
		return false
	}
}

func TestEachExchangeUnderEachFault(t *testing.T) {
	t.Parallel()
	for _, f := range faultList {
		for _, wire := range wires {
			r := faults.row(f.name, f.about)
			if why := f.whyNot[wire]; why != "" {
				r.open(t, wire, "postgres", why)
				continue
			}
			t.Run(f.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				opened := r.open(t, wire, "postgres", "", allExchanges...)
				sys := startSystem(t, setting{wire: wire, store: "postgres", proxied: true})
				sys.runUnder(f, opened)
				sys.audit()
				sys.close(opened)
			})
		}
	}
}

// singleRequests are the requests that are sent under a fault, each for its own
// order, and the final state of that order.
var singleRequests = map[string]struct {
	first   func(sys *system, id, sku string)
	request request
	after   finalState
}{
	"place":        {nil, placing(3), placed},
	"amend":        {isPlaced, amending(5), amended},
	"confirm":      {isPlaced, confirming, confirmed},
	"cancel":       {isPlaced, cancelling, cancelled},
	"reservation":  {isPlaced, reservation, placed},
	"availability": {isPlaced, availability("?sku=SKU"), placed},
}

// runUnder sends one request of each exchange under a fault. It checks the
// responses, and the state of both services afterwards.
func (sys *system) runUnder(f fault, cells map[string]*cell) {
	sys.Helper()
	for id, s := range singleRequests {
		sys.stock("sku-" + id)
		if s.first != nil {
			s.first(sys, id, "sku-"+id)
		}
	}
	calls := map[string]call{}
	f.run(sys, func() {
		var mu sync.Mutex
		var all sync.WaitGroup
		for id, s := range singleRequests {
			all.Go(func() {
				c := sys.call(id, id, timeout, s.request(sys, id, "sku-"+id))
				mu.Lock()
				defer mu.Unlock()
				calls[id] = c
			})
		}
		sys.checkRead("amend")
		all.Wait()
	})
	faultEnd := time.Now()
	for id, c := range calls {
		sys.checkResponse(cells[id], f.expectation, c)
	}
	sys.waitSettled()
	sys.recorder.settled = time.Since(faultEnd)
	for id, s := range singleRequests {
		// A refused caller retries.
		if calls[id].refused() && s.after.ledger != nil && id != "reservation" && id != "availability" {
			sys.doUntil(id, s.after.state, func() caller.Response { return s.request(sys, id, "sku-"+id)() })
		}
		sys.compare(cells[id], id, "sku-"+id, s.after)
	}
}

// checkRead reads an order, which needs no inventory.
func (sys *system) checkRead(id string) {
	sys.Helper()
	if r := sys.call("read", id, timeout, func(h ...string) caller.Response { return sys.Order(sys.Context(), id, h...) }).response; r.Status != http.StatusOK {
		sys.Errorf("read an order: %d %s %v", r.Status, r.Text, r.Err)
	}
}

// checkResponse checks the response to a call under a fault.
func (sys *system) checkResponse(c *cell, expectation expectation, call call) {
	r := call.response
	read := call.operation == "reservation" || call.operation == "availability"
	var right bool
	switch {
	case read && expectation == unknown:
		right = call.refused()
	case read:
		right = r.Done() || call.refused()
	case expectation == unknown:
		// A place that is not recorded yet is refused while orders can't connect to inventory.
		right = call.unknown() || call.operation == "place" && r.Status == http.StatusServiceUnavailable
	default:
		right = r.Done() || call.unknown() || call.operation == "place" && r.Status == http.StatusServiceUnavailable
	}
	if !right {
		c.Errorf("unexpected response %d %s %v", r.Status, cmp.Or(r.Code, r.Text), r.Err)
	}
	if r.Err != nil {
		c.Errorf("no response: %v", r.Err)
	}
	if call.unknown() && (r.Intent == nil || r.Header.Get("Retry-After") == "") {
		c.Errorf("202 without an intent or Retry-After: %s", r.Text)
	}
}
