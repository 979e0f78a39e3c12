package integration

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/shop"
)

// at is the shop in front of one replica of orders.
func (p *pair) at(replica int) *pair {
	p.Helper()
	endpoint, err := p.orders.replicas[replica].Endpoint(p.Context(), httpPort)
	p.check(err)
	one := *p
	one.Shop.Orders = shop.NewClient("http://"+endpoint, openapi.Orders(), func(err error) { p.Error(err) })
	return &one
}

// onAllWires runs a race on every wire, on PostgreSQL: it takes two replicas.
func onAllWires(t *testing.T, r *row, whyNot string, s setting, exchanges []string, race func(p *pair, cells map[string]*cell)) {
	t.Parallel()
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			opened := r.open(t, wire, "postgres", whyNot, exchanges...)
			s.wire, s.store = wire, "postgres"
			p := startPair(t, s)
			race(p, opened)
			p.audit()
			p.close(opened)
		})
	}
}

// late is how long what is overtaken is held up.
const late = 2 * time.Second

func TestARequestIsOvertakenByACancel(t *testing.T) {
	r := races.row("a request that its cancel overtakes", "One replica of orders reaches inventory 2 s late. Meanwhile the order is cancelled by way of the other; then the request arrives, and is stale.")
	overtaken(t, r, there, map[string]kept{
		"place":   {"cancelled", 3, "released", stocked, 0, nil},
		"amend":   cancelled,
		"confirm": cancelled,
	})
}

func TestAnAnswerIsOvertakenByACancel(t *testing.T) {
	r := races.row("an answer that a cancel overtakes", "Inventory does what it is asked, and one replica of orders hears of it 2 s late. Meanwhile the order is cancelled by way of the other.")
	overtaken(t, r, back, map[string]kept{
		"place":   cancelled,
		"amend":   {"cancelled", 3, "released", stocked, 0, []string{"held", "amended", "released"}},
		"confirm": returned,
	})
}

// overtaken holds up what a replica of orders says or hears, and cancels meanwhile.
func overtaken(t *testing.T, r *row, direction string, after map[string]kept) {
	whyNot := "It is the cancel that overtakes, and a read changes nothing."
	onAllWires(t, r, whyNot, setting{proxied: true, ordersReplicas: 2}, []string{"place", "amend", "confirm"}, func(p *pair, cells map[string]*cell) {
		slow, quick := p.at(0), p.at(1)
		for id := range after {
			p.stock("sku-" + id)
			if first := single[id].first; first != nil {
				first(quick, id, "sku-"+id)
			}
		}
		p.diary.during("one replica is slow", func() {
			p.spoil(p.links[0], direction, "latency", toxiproxy.Attributes{"latency": late.Milliseconds()})
			var all sync.WaitGroup
			for id := range after {
				all.Go(func() { p.make(id, id, 5*time.Second, single[id].request(slow, id, "sku-"+id)) })
				all.Go(func() {
					shop.Wait(p, patience, id+" is recorded", nil, func() bool { return quick.Order(p.Context(), id).Intent != nil })
					if direction == back {
						seq := map[bool]int64{true: 1, false: 2}[id == "place"]
						shop.Wait(p, patience, id+" is done", nil, func() bool {
							return p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+id, "").Seq == seq
						})
					}
					c := p.make("cancel", id, timeout, cancelling(quick, id, ""))
					if !c.reply.Done() || c.reply.State != "cancelled" {
						cells[id].Errorf("the cancel was answered with %d %s", c.reply.Status, c.reply.Text)
					}
				})
			}
			all.Wait()
			p.mend(p.links[0], direction, "latency")
		})
		p.diary.settled = p.settles()
		if direction == there {
			for id := range after {
				requestID := p.diary.of(id, id)[0].requestID
				shop.Wait(p, patience, "the late "+id+" has arrived", nil, func() bool { return len(p.read().arrived(requestID)) > 0 })
				for _, l := range p.read().arrived(requestID) {
					if l.Outcome != "stale-seq" {
						cells[id].Errorf("what came late was answered with %s", l.Outcome)
					}
				}
			}
		}
		for id, want := range after {
			p.compare(cells[id], id, "sku-"+id, want)
		}
	})
}

func TestAReplyIsLostAndTheHoldRunsOut(t *testing.T) {
	r := races.row("the reply lost, and the hold runs out before anybody asks again", "What inventory has stored for the request says held; what the reservation is, is expired.")
	s := setting{proxied: true, ordersArgs: []string{"--settle-interval=1h"}}
	onAllWires(t, r, "It starts no hold.", s, []string{"place", "amend"}, func(p *pair, cells map[string]*cell) {
		const hold = 3
		for id := range cells {
			p.stock("sku-" + id)
		}
		isPlacedFor(hold)(p, "amend", "sku-amend")
		asks := map[string]request{"place": placingFor(hold), "amend": amending(5)}
		p.diary.during("replies vanish", func() {
			p.spoil(p.links[0], back, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for id, ask := range asks {
				all.Go(func() { p.make(id, id, timeout, ask(p, id, "sku-"+id)) })
			}
			all.Wait()
			for id := range cells {
				shop.Wait(p, patience, "the hold of "+id+" has run out", nil, func() bool {
					return p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+id, "").State == "expired"
				})
			}
			p.mend(p.links[0], back, "timeout")
		})
		// The caller asks again, which settles it.
		for id, ask := range asks {
			p.mustBe(id, "expired", func() shop.Reply { return p.make(id, id, timeout, ask(p, id, "sku-"+id)).reply })
		}
		p.diary.settled = p.settles()
		for id, ledger := range map[string][]string{"place": {"held", "expired"}, "amend": {"held", "amended", "expired"}} {
			p.isFreed("sku-" + id)
			p.compare(cells[id], id, "sku-"+id, kept{"expired", map[string]int64{"place": 3, "amend": 5}[id], "expired", stocked, 0, ledger})
		}
	})
}

func TestAPlaceIsRepeatedWhileItIsGivenUp(t *testing.T) {
	r := races.row("a place repeated while it is being given up", "The settler of one replica has taken old places to give them up, and hangs; their caller repeats them by way of the other, and is told that they are placed. They stay so.")
	const orders, giveUpAfter = 24, 7 * time.Second
	s := setting{
		proxied: true, ordersReplicas: 2, ordersArgs: []string{"--give-up-after=" + giveUpAfter.String()},
		ordersArgsOf: map[int][]string{0: {"--settle-interval=100ms"}, 1: {"--settle-interval=1h"}},
	}
	onAllWires(t, r, "Only a place is given up.", s, []string{"place"}, func(p *pair, cells map[string]*cell) {
		stuck, free := p.at(0), p.at(1)
		p.check(statusError(p.Count(p.Context(), "sku", 3*orders)))
		id := func(i int) string { return fmt.Sprintf("place-%d", i) }
		placedNow := map[int]bool{}
		p.diary.during("one replica hears nothing", func() {
			p.spoil(p.links[0], back, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for i := range orders {
				all.Go(func() { p.make("place", id(i), time.Second, placing(3)(stuck, id(i), "sku")) })
			}
			all.Wait()
			shop.Wait(p, patience, "the settler has begun", nil, func() bool { return len(p.read().again) > 0 })
			var mu sync.Mutex
			for i := range orders {
				all.Go(func() {
					c := p.make("place", id(i), timeout, placing(3)(free, id(i), "sku"))
					mu.Lock()
					defer mu.Unlock()
					placedNow[i] = c.reply.Done()
				})
			}
			all.Wait()
			shop.Wait(p, patience, "the settler has seen all", nil, func() bool {
				n, err := p.metric(p.orders.replicas[0], "orders_oldest_intent_age_seconds")
				return err == nil && n == 0
			})
			// Its workers end with their exchanges, each within its deadline.
			shop.Wait(p, patience, "its workers have ended", nil, func() bool {
				last := time.Time{}
				for _, lines := range p.read().orders {
					for _, l := range lines {
						if l.Resend && l.Time.After(last) {
							last = l.Time
						}
					}
				}
				return time.Since(last) > 3*time.Second
			})
			p.mend(p.links[0], back, "timeout")
		})
		p.diary.settled = p.settles()
		n := 0
		for i := range orders {
			o := p.Order(p.Context(), id(i))
			if placedNow[i] {
				n++
				if o.State != "placed" {
					cells["place"].Errorf("its caller was told that %s is placed, and it is %s", id(i), o.Text)
				}
			}
		}
		if n == 0 {
			cells["place"].Errorf("none of %d was placed by the repeat", orders)
		}
	})
}

func TestEverybodyWantsTheLast(t *testing.T) {
	r := races.row("everybody wants the last one", "40 places of one unit at once, of 10; then 10 amends by one more, of 5: by way of two replicas of each service.")
	s := setting{ordersReplicas: 2, inventoryReplicas: 2}
	onAllWires(t, r, "It takes nothing that is scarce.", s, []string{"place", "amend"}, func(p *pair, cells map[string]*cell) {
		for round := range 4 {
			sku := fmt.Sprintf("sku-%d", round)
			p.stock(sku)
			var ids []string
			for i := range 4 * stocked {
				ids = append(ids, fmt.Sprintf("order-%d-%d", round, i))
			}
			// each asks for the same of many orders at once, and says for which it was done.
			each := func(exchange string, ids []string, ask request, want int) (done []string) {
				var mu sync.Mutex
				var all sync.WaitGroup
				for _, id := range ids {
					all.Go(func() {
						var r shop.Reply
						// A batch that fell over another's is answered as unavailable, and asked again.
						for answered := false; !answered && p.Context().Err() == nil; answered = r.Done() || r.Code == "insufficient-stock" {
							r = p.make(exchange, id, 5*time.Second, ask(p, id, sku)).reply
						}
						if r.Done() {
							mu.Lock()
							defer mu.Unlock()
							done = append(done, id)
						}
					})
				}
				all.Wait()
				if len(done) != want {
					cells[exchange].Errorf("%d %ss of %s were done, %d can be", len(done), exchange, sku, want)
				}
				return done
			}
			held := each("place", ids, placing(1), stocked)
			level, err := p.Level(p.Context(), sku)
			if err != nil || level.OnHand != stocked || level.Reserved != stocked {
				cells["place"].Errorf("the level is %+v, %v", level, err)
			}
			p.check(statusError(p.Shop.Inventory.Call(p.Context(), "PUT", "/v1/adjustments/more-"+sku, fmt.Sprintf(`{"sku":%q,"delta":5,"reason":"received"}`, sku))))
			amends := each("amend", held, amending(2), 5)
			if level, err = p.Level(p.Context(), sku); err != nil || level.Reserved != stocked+int64(len(amends)) {
				cells["amend"].Errorf("after %d amends the level is %+v, %v", len(amends), level, err)
			}
		}
		p.diary.settled = p.settles()
	})
}

func TestOrdersIsKilledWhileItWaits(t *testing.T) {
	r := races.row("orders killed while it waits for the reply", "Inventory has done what it was asked, and orders is killed with -9 before it hears of it.")
	onAllWires(t, r, "It leaves nothing to repair.", setting{proxied: true}, []string{"place", "amend", "confirm", "cancel"}, func(p *pair, cells map[string]*cell) {
		for id := range cells {
			p.stock("sku-" + id)
			if first := single[id].first; first != nil {
				first(p, id, "sku-"+id)
			}
		}
		p.diary.during("replies are held back; orders is killed", func() {
			p.spoil(p.links[0], back, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for id := range cells {
				all.Go(func() { p.make(id, id, 5*time.Second, single[id].request(p, id, "sku-"+id)) })
				seq := map[bool]int64{true: 1, false: 2}[id == "place"]
				shop.Wait(p, patience, id+" is done", nil, func() bool {
					return p.Shop.Inventory.Call(p.Context(), "GET", "/v1/reservations/"+id, "").Seq == seq
				})
			}
			p.kill(p.orders)
			all.Wait()
			p.mend(p.links[0], back, "timeout")
		})
		p.again(p.orders)
		p.diary.settled = p.settles()
		for id, c := range cells {
			p.compare(c, id, "sku-"+id, single[id].after)
		}
	})
}

// statusError is an answer that is not what was asked for.
func statusError(r shop.Reply) error {
	if r.Err != nil || r.Status != http.StatusOK {
		return fmt.Errorf("%d %s: %w", r.Status, r.Text, r.Err)
	}
	return nil
}
