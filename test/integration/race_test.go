package integration

import (
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/wait"
)

// at returns the system with a client that sends requests to one replica of orders.
func (sys *system) at(replica int) *system {
	sys.Helper()
	endpoint, err := sys.orders.replicas[replica].Endpoint(sys.Context(), httpPort)
	sys.check(err)
	one := *sys
	one.Services.Orders = caller.NewClient("http://"+endpoint, openapi.Orders(), func(err error) { sys.Error(err) })
	return &one
}

// onAllWires runs a race on every wire, on PostgreSQL, which allows two replicas.
func onAllWires(t *testing.T, r *row, whyNot string, s setting, exchanges []string, race func(sys *system, cells map[string]*cell)) {
	t.Parallel()
	for _, wire := range wires {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			opened := r.open(t, wire, "postgres", whyNot, exchanges...)
			s.wire, s.store = wire, "postgres"
			sys := startSystem(t, s)
			race(sys, opened)
			sys.audit()
			sys.close(opened)
		})
	}
}

// late is the delay of the overtaken message.
const late = 2 * time.Second

func TestCancelOvertakesRequest(t *testing.T) {
	r := races.row("cancel overtakes a request", "Requests of one replica of orders reach inventory 2 s late. Meanwhile the order is cancelled through the other. Then the request arrives and is stale.")
	cancelOvertakes(t, r, toInventory, map[string]finalState{
		"place":   {"cancelled", 3, "released", initialStock, 0, nil},
		"amend":   cancelled,
		"confirm": cancelled,
	})
}

func TestCancelOvertakesResponse(t *testing.T) {
	r := races.row("cancel overtakes a response", "Inventory does the operation. Its response reaches one replica of orders 2 s late. Meanwhile the order is cancelled through the other.")
	cancelOvertakes(t, r, toOrders, map[string]finalState{
		"place":   cancelled,
		"amend":   {"cancelled", 3, "released", initialStock, 0, []string{"held", "amended", "released"}},
		"confirm": returned,
	})
}

// cancelOvertakes delays the messages of one replica of orders in one direction and
// cancels the orders through the other.
func cancelOvertakes(t *testing.T, r *row, direction string, after map[string]finalState) {
	whyNot := "A cancel overtakes other operations, and a read changes nothing."
	onAllWires(t, r, whyNot, setting{proxied: true, ordersReplicas: 2}, []string{"place", "amend", "confirm"}, func(sys *system, cells map[string]*cell) {
		slow, quick := sys.at(0), sys.at(1)
		for id := range after {
			sys.stock("sku-" + id)
			if first := singleRequests[id].first; first != nil {
				first(quick, id, "sku-"+id)
			}
		}
		sys.recorder.during("one replica is slow", func() {
			sys.addToxic(sys.proxies[0], direction, "latency", toxiproxy.Attributes{"latency": late.Milliseconds()})
			var all sync.WaitGroup
			for id := range after {
				all.Go(func() { sys.call(id, id, 5*time.Second, singleRequests[id].request(slow, id, "sku-"+id)) })
				all.Go(func() {
					wait.Until(sys, limit, id+" is recorded", nil, func() bool { return quick.Order(sys.Context(), id).Intent != nil })
					if direction == toOrders {
						seq := map[bool]int64{true: 1, false: 2}[id == "place"]
						wait.Until(sys, limit, id+" is done", nil, func() bool {
							return sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+id, "").Seq == seq
						})
					}
					c := sys.call("cancel", id, timeout, cancelling(quick, id, ""))
					if !c.response.Done() || c.response.State != "cancelled" {
						cells[id].Errorf("cancel: %d %s", c.response.Status, c.response.Text)
					}
				})
			}
			all.Wait()
			sys.removeToxic(sys.proxies[0], direction, "latency")
		})
		sys.recorder.settled = sys.waitSettled()
		if direction == toInventory {
			for id := range after {
				requestID := sys.recorder.of(id, id)[0].requestID
				wait.Until(sys, limit, "the late "+id+" has arrived", nil, func() bool { return len(sys.readLogs().received(requestID)) > 0 })
				for _, l := range sys.readLogs().received(requestID) {
					if l.Outcome != "stale-seq" {
						cells[id].Errorf("the late request got %s, want stale-seq", l.Outcome)
					}
				}
			}
		}
		for id, want := range after {
			sys.compare(cells[id], id, "sku-"+id, want)
		}
	})
}

func TestHoldExpiresAfterLostResponse(t *testing.T) {
	r := races.row("hold expires after a lost response", "Inventory's stored outcome of the request is held. The reservation has expired since.")
	s := setting{proxied: true, ordersArgs: []string{"--settle-interval=1h"}}
	onAllWires(t, r, "It starts no hold.", s, []string{"place", "amend"}, func(sys *system, cells map[string]*cell) {
		const hold = 3 // seconds
		for id := range cells {
			sys.stock("sku-" + id)
		}
		isPlacedFor(hold)(sys, "amend", "sku-amend")
		requests := map[string]request{"place": placingFor(hold), "amend": amending(5)}
		sys.recorder.during("responses lost", func() {
			sys.addToxic(sys.proxies[0], toOrders, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for id, send := range requests {
				all.Go(func() { sys.call(id, id, timeout, send(sys, id, "sku-"+id)) })
			}
			all.Wait()
			for id := range cells {
				wait.Until(sys, limit, "the hold of "+id+" has expired", nil, func() bool {
					return sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+id, "").State == "expired"
				})
			}
			sys.removeToxic(sys.proxies[0], toOrders, "timeout")
		})
		// The caller retries, which settles the intent.
		for id, send := range requests {
			sys.doUntil(id, "expired", func() caller.Response { return sys.call(id, id, timeout, send(sys, id, "sku-"+id)).response })
		}
		sys.recorder.settled = sys.waitSettled()
		for id, ledger := range map[string][]string{"place": {"held", "expired"}, "amend": {"held", "amended", "expired"}} {
			sys.waitForRelease("sku-" + id)
			sys.compare(cells[id], id, "sku-"+id, finalState{"expired", map[string]int64{"place": 3, "amend": 5}[id], "expired", initialStock, 0, ledger})
		}
	})
}

func TestPlaceRetryRacesGiveUp(t *testing.T) {
	r := races.row("place retried while it is given up", "The settler of one replica has taken old places to give them up, and hangs. The caller retries them through the other replica, which responds that they are placed. They stay placed.")
	const orders, giveUpAfter = 24, 7 * time.Second
	s := setting{
		proxied: true, ordersReplicas: 2, ordersArgs: []string{"--give-up-after=" + giveUpAfter.String()},
		ordersArgsOf: map[int][]string{0: {"--settle-interval=100ms"}, 1: {"--settle-interval=1h"}},
	}
	onAllWires(t, r, "Only a place is given up.", s, []string{"place"}, func(sys *system, cells map[string]*cell) {
		stuck, free := sys.at(0), sys.at(1)
		sys.check(statusError(sys.Count(sys.Context(), "sku", 3*orders)))
		id := func(i int) string { return fmt.Sprintf("place-%d", i) }
		placedNow := map[int]bool{}
		sys.recorder.during("one replica gets no responses", func() {
			sys.addToxic(sys.proxies[0], toOrders, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for i := range orders {
				all.Go(func() { sys.call("place", id(i), time.Second, placing(3)(stuck, id(i), "sku")) })
			}
			all.Wait()
			wait.Until(sys, limit, "the settler has started", nil, func() bool { return len(sys.readLogs().settlerRequests) > 0 })
			var mu sync.Mutex
			for i := range orders {
				all.Go(func() {
					c := sys.call("place", id(i), timeout, placing(3)(free, id(i), "sku"))
					mu.Lock()
					defer mu.Unlock()
					placedNow[i] = c.response.Done()
				})
			}
			all.Wait()
			wait.Until(sys, limit, "the settler has taken all intents", nil, func() bool {
				n, err := sys.metric(sys.orders.replicas[0], "orders_oldest_intent_age_seconds")
				return err == nil && n == 0
			})
			// A worker of the settler ends with its exchange, within the deadline.
			wait.Until(sys, limit, "its workers have ended", nil, func() bool {
				last := time.Time{}
				for _, lines := range sys.readLogs().orders {
					for _, l := range lines {
						if l.Resend && l.Time.After(last) {
							last = l.Time
						}
					}
				}
				return time.Since(last) > 3*time.Second
			})
			sys.removeToxic(sys.proxies[0], toOrders, "timeout")
		})
		sys.recorder.settled = sys.waitSettled()
		n := 0
		for i := range orders {
			o := sys.Order(sys.Context(), id(i))
			if placedNow[i] {
				n++
				if o.State != "placed" {
					cells["place"].Errorf("the retry's response was that %s is placed; now it is %s", id(i), o.Text)
				}
			}
		}
		if n == 0 {
			cells["place"].Errorf("none of %d places was done by the retry", orders)
		}
	})
}

func TestConcurrentOrdersForLastUnits(t *testing.T) {
	r := races.row("concurrent orders for the last units", "40 concurrent places of one unit, with 10 on hand. Then 10 amends by one unit, with 5 on hand. Two replicas of each service.")
	s := setting{ordersReplicas: 2, inventoryReplicas: 2}
	onAllWires(t, r, "It takes nothing from stock.", s, []string{"place", "amend"}, func(sys *system, cells map[string]*cell) {
		for round := range 4 {
			sku := fmt.Sprintf("sku-%d", round)
			sys.stock(sku)
			var ids []string
			for i := range 4 * initialStock {
				ids = append(ids, fmt.Sprintf("order-%d-%d", round, i))
			}
			// each sends the same request for many orders at once. It returns the orders for
			// which it was done.
			each := func(exchange string, ids []string, send request, want int) (done []string) {
				var mu sync.Mutex
				var all sync.WaitGroup
				for _, id := range ids {
					all.Go(func() {
						var r caller.Response
						// A transaction that conflicts with another gets unavailable and is retried.
						for final := false; !final && sys.Context().Err() == nil; final = r.Done() || r.Code == "insufficient-stock" {
							r = sys.call(exchange, id, 5*time.Second, send(sys, id, sku)).response
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
					cells[exchange].Errorf("%d %ss of %s were done, want %d", len(done), exchange, sku, want)
				}
				return done
			}
			held := each("place", ids, placing(1), initialStock)
			level, err := sys.Level(sys.Context(), sku)
			if err != nil || level.OnHand != initialStock || level.Reserved != initialStock {
				cells["place"].Errorf("the level is %+v, %v", level, err)
			}
			sys.check(statusError(sys.Services.Inventory.Call(sys.Context(), "PUT", "/v1/adjustments/more-"+sku, fmt.Sprintf(`{"sku":%q,"delta":5,"reason":"received"}`, sku))))
			amends := each("amend", held, amending(2), 5)
			if level, err = sys.Level(sys.Context(), sku); err != nil || level.Reserved != initialStock+int64(len(amends)) {
				cells["amend"].Errorf("after %d amends the level is %+v, %v", len(amends), level, err)
			}
		}
		sys.recorder.settled = sys.waitSettled()
	})
}

func TestOrdersKilledWhileWaitingForResponse(t *testing.T) {
	r := races.row("orders killed while it waits for the response", "Inventory has done the operation. Orders is killed with -9 before the response arrives.")
	onAllWires(t, r, "It leaves no intent.", setting{proxied: true}, []string{"place", "amend", "confirm", "cancel"}, func(sys *system, cells map[string]*cell) {
		for id := range cells {
			sys.stock("sku-" + id)
			if first := singleRequests[id].first; first != nil {
				first(sys, id, "sku-"+id)
			}
		}
		sys.recorder.during("responses held back; orders killed", func() {
			sys.addToxic(sys.proxies[0], toOrders, "timeout", toxiproxy.Attributes{"timeout": 0})
			var all sync.WaitGroup
			for id := range cells {
				all.Go(func() { sys.call(id, id, 5*time.Second, singleRequests[id].request(sys, id, "sku-"+id)) })
				seq := map[bool]int64{true: 1, false: 2}[id == "place"]
				wait.Until(sys, limit, id+" is done", nil, func() bool {
					return sys.Services.Inventory.Call(sys.Context(), "GET", "/v1/reservations/"+id, "").Seq == seq
				})
			}
			sys.kill(sys.orders)
			all.Wait()
			sys.removeToxic(sys.proxies[0], toOrders, "timeout")
		})
		sys.restart(sys.orders)
		sys.recorder.settled = sys.waitSettled()
		for id, c := range cells {
			sys.compare(c, id, "sku-"+id, singleRequests[id].after)
		}
	})
}

// statusError is the error of a response other than 200.
func statusError(r caller.Response) error {
	if r.Err != nil || r.Status != http.StatusOK {
		return fmt.Errorf("%d %s: %w", r.Status, r.Text, r.Err)
	}
	return nil
}
