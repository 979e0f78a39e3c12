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

	"roundtrip/test/support/shop"
)

// told is what callers may be told while a fault lasts.
type told int

const (
	// either: it is done, or its outcome is not known.
	either told = iota
	// unknown: nobody can know.
	unknown
)

// fault is one that is there while one request of each exchange is made.
type fault struct {
	name, about string
	// whyNot is why it can't occur on a wire.
	whyNot map[string]string
	told   told
	// run breaks something, has the requests made, and mends it.
	run func(p *pair, requests func())
}

// onAll does something to the links by which replicas of orders reach inventory.
func onAll(p *pair, do func(link)) {
	for _, l := range p.links[:len(p.orders.replicas)] {
		do(l)
	}
}

// toxic makes a fault of what Toxiproxy does to a direction of orders' links.
func toxic(name, about, direction, kind string, attributes toxiproxy.Attributes, told told) fault {
	return fault{name: name, about: about, told: told, run: func(p *pair, requests func()) {
		p.diary.during(name, func() {
			onAll(p, func(l link) { p.spoil(l, direction, kind, attributes) })
			requests()
			onAll(p, func(l link) { p.mend(l, direction, kind) })
		})
	}}
}

var theFaults = []fault{
	toxic("latency beyond the deadline", "Every answer takes 4 s more; callers allow 2 s.", back, "latency", milliseconds(4000), unknown),
	toxic("reset before the request", "Every connection is reset as soon as orders sends, and nothing arrives.", there, "reset_peer", toxiproxy.Attributes{"timeout": 0}, unknown),
	toxic("reset in the middle of the request", "Every connection ends after 60 bytes of orders'.", there, "limit_data", toxiproxy.Attributes{"bytes": 60}, unknown),
	toxic("reset after the request", "Every connection is reset as soon as inventory answers.", back, "reset_peer", toxiproxy.Attributes{"timeout": 0}, unknown),
	{
		name: "the reply lost after inventory committed", about: "Replies are held back until inventory is seen to have done what it was asked; then the connections break, and new ones work.",
		run: func(p *pair, requests func()) {
			var asking sync.WaitGroup
			p.diary.during("replies are lost", func() {
				onAll(p, func(l link) { p.spoil(l, back, "timeout", toxiproxy.Attributes{"timeout": 0}) })
				asking.Go(requests)
				for id, state := range map[string]string{"place": "held", "amend": "held", "confirm": "committed", "cancel": "released"} {
					shop.Wait(p, patience, "inventory has done the "+id, nil, func() bool {
						r := p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+id, "")
						return r.State == state && r.Seq == map[bool]int64{true: 1, false: 2}[id == "place"]
					})
				}
				onAll(p, func(l link) { p.mend(l, back, "timeout") })
			})
			asking.Wait()
		},
	},
	toxic("bandwidth throttled", "From orders to inventory goes 1 KB a second.", there, "bandwidth", toxiproxy.Attributes{"rate": 1}, either),
	toxic("requests vanish", "What orders sends is dropped, in silence.", there, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown),
	toxic("replies vanish", "What inventory answers is dropped, in silence.", back, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown),
	{
		name: "disconnected both ways", about: "Inventory's container is taken out of the network, and comes back.", told: unknown,
		run: func(p *pair, requests func()) {
			p.diary.during("disconnected", func() {
				c := p.inventory.replicas[0]
				address, err := c.ContainerIP(p.Context())
				p.check(err)
				_, err = p.engine.NetworkDisconnect(p.Context(), p.network.ID, client.NetworkDisconnectOptions{Container: c.GetContainerID(), Force: true})
				p.check(err)
				requests()
				_, err = p.engine.NetworkConnect(p.Context(), p.network.ID, client.NetworkConnectOptions{
					Container: c.GetContainerID(), EndpointConfig: &network.EndpointSettings{Aliases: []string{p.host("inventory")}, IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr(address)}},
				})
				p.check(err)
			})
			p.route(p.inventory)
		},
	},
	{
		name: "flapping", about: "The connection is cut and joined again every 150 ms.", told: either,
		run: func(p *pair, requests func()) {
			p.diary.during("flapping", func() {
				asked, stopped := make(chan struct{}), make(chan struct{})
				go func() {
					defer close(stopped)
					for done := false; !done; {
						onAll(p, p.cut)
						done = isClosed(asked, 150*time.Millisecond)
						onAll(p, p.join)
						done = isClosed(asked, 150*time.Millisecond) || done
					}
				}()
				requests()
				close(asked)
				<-stopped
			})
		},
	},
	{
		name: "inventory paused", about: "Inventory gets a SIGSTOP, and a SIGCONT after the deadline.", told: unknown,
		run: func(p *pair, requests func()) {
			p.diary.during("inventory is stopped", func() {
				p.check(p.inventory.replicas[0].Signal(p.Context(), "SIGSTOP"))
				requests()
				p.check(p.inventory.replicas[0].Signal(p.Context(), "SIGCONT"))
			})
		},
	},
	hostile("inventory answers garbage", "Every answer is bytes that mean nothing.", garbage),
	hostile("inventory answers an oversized body", "Every answer has more bytes than orders reads.", oversized),
	hostile("inventory answers for another order", "Every answer says that all is done, about another order.", another),
	hostile("inventory answers that it is unavailable", "Every answer is 503, which is no outcome.", unavailable),
}

// isClosed says whether a channel is closed within a time.
func isClosed(c <-chan struct{}, within time.Duration) bool {
	select {
	case <-c:
		return true
	case <-time.After(within):
		return false
	}
}

func TestEachExchangeUnderEachFault(t *testing.T) {
	t.Parallel()
	for _, f := range theFaults {
		for _, wire := range wires {
			r := faults.row(f.name, f.about)
			if why := f.whyNot[wire]; why != "" {
				r.open(t, wire, "postgres", why)
				continue
			}
			t.Run(f.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				opened := r.open(t, wire, "postgres", "", everyExchange...)
				p := startPair(t, setting{wire: wire, store: "postgres", proxied: true})
				p.under(f, opened)
				p.audit()
				p.close(opened)
			})
		}
	}
}

// single are the requests that are made under a fault, each about an order of its
// own, and what both sides have of it in the end.
var single = map[string]struct {
	first   func(p *pair, id, sku string)
	request request
	after   kept
}{
	"place":        {nil, placing(3), placed},
	"amend":        {isPlaced, amending(5), amended},
	"confirm":      {isPlaced, confirming, confirmed},
	"cancel":       {isPlaced, cancelling, cancelled},
	"reservation":  {isPlaced, reservation, placed},
	"availability": {isPlaced, availability("?sku=SKU"), placed},
}

// under makes one request of each exchange while a fault lasts, and holds both sides
// to what they promise.
func (p *pair) under(f fault, cells map[string]*cell) {
	p.Helper()
	for id, s := range single {
		p.stock("sku-" + id)
		if s.first != nil {
			s.first(p, id, "sku-"+id)
		}
	}
	calls := map[string]call{}
	f.run(p, func() {
		var mu sync.Mutex
		var all sync.WaitGroup
		for id, s := range single {
			all.Go(func() {
				c := p.make(id, id, timeout, s.request(p, id, "sku-"+id))
				mu.Lock()
				defer mu.Unlock()
				calls[id] = c
			})
		}
		p.mustRead("amend")
		all.Wait()
	})
	mended := time.Now()
	for id, c := range calls {
		p.judge(cells[id], f.told, c)
	}
	p.settles()
	p.diary.settled = time.Since(mended)
	for id, s := range single {
		// Who was refused asks again.
		if calls[id].refused() && s.after.ledger != nil && id != "reservation" && id != "availability" {
			p.mustBe(id, s.after.state, func() shop.Reply { return s.request(p, id, "sku-"+id)() })
		}
		p.compare(cells[id], id, "sku-"+id, s.after)
	}
}

// mustRead reads an order, which needs no inventory.
func (p *pair) mustRead(id string) {
	p.Helper()
	if r := p.make("read", id, timeout, func(h ...string) shop.Reply { return p.Order(p.Context(), id, h...) }).reply; r.Status != http.StatusOK {
		p.Errorf("to read an order: %d %s %v", r.Status, r.Text, r.Err)
	}
}

// judge holds an answer under a fault to what may be told.
func (p *pair) judge(c *cell, told told, call call) {
	r := call.reply
	read := call.operation == "reservation" || call.operation == "availability"
	var right bool
	switch {
	case read && told == unknown:
		right = call.refused()
	case read:
		right = r.Done() || call.refused()
	case told == unknown:
		// A place that was not recorded yet is refused while inventory can't be connected to.
		right = call.unknown() || call.operation == "place" && r.Status == http.StatusServiceUnavailable
	default:
		right = r.Done() || call.unknown() || call.operation == "place" && r.Status == http.StatusServiceUnavailable
	}
	if !right {
		c.Errorf("it was answered with %d %s %v", r.Status, cmp.Or(r.Code, r.Text), r.Err)
	}
	if r.Err != nil {
		c.Errorf("there was no answer: %v", r.Err)
	}
	if call.unknown() && (r.Intent == nil || r.Header.Get("Retry-After") == "") {
		c.Errorf("202 without its intent or Retry-After: %s", r.Text)
	}
}
