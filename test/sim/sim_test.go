package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

type orderView struct {
	State   string
	Version int64
	Intent  *struct{ Operation string }
	Code    string
}

type levelView struct{ OnHand, Reserved int64 }

func (p *Pair) do(method, url, body string, into any) int {
	p.t.Helper()
	request, err := http.NewRequestWithContext(p.t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		p.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := p.Client.Do(request)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(content, into); err != nil {
			p.t.Fatalf("%s %s: %d %s: %v", method, url, response.StatusCode, content, err)
		}
	}
	return response.StatusCode
}

func (p *Pair) stock(sku string, onHand int) {
	p.t.Helper()
	body := fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand)
	if status := p.do("PUT", "http://inventory:80/v1/adjustments/first-"+sku, body, nil); status != 200 {
		p.t.Fatalf("adjust: %d", status)
	}
}

func (p *Pair) place(id, sku string, quantity int) int {
	p.t.Helper()
	return p.do("PUT", "http://orders:80/v1/orders/"+id,
		fmt.Sprintf(`{"customer":"c","currency":"GBP","lines":[{"sku":%q,"quantity":%d,"unit_price":100}]}`, sku, quantity), nil)
}

func (p *Pair) order(id string) (o orderView) {
	p.t.Helper()
	p.do("GET", "http://orders:80/v1/orders/"+id, "", &o)
	return o
}

func (p *Pair) level(sku string) levelView {
	p.t.Helper()
	var answer struct {
		Levels []struct {
			OnHand   int64 `json:"on_hand"`
			Reserved int64 `json:"reserved"`
		}
	}
	p.do("GET", "http://inventory:80/v1/stock/"+sku, "", &answer)
	return levelView(answer.Levels[0])
}

// bubble runs a test of the pair in virtual time. The folder is made outside:
// removing it is real.
func bubble(t *testing.T, test func(p *Pair)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		p := Start(t, folder)
		defer p.Stop()
		test(p)
	})
}

func TestAHoldExpiresAfterFifteenMinutesAndItsStockIsFree(t *testing.T) {
	t.Parallel()
	began := time.Now()
	bubble(t, func(p *Pair) {
		p.stock("A", 10)
		if status := p.place("one", "A", 6); status != http.StatusCreated {
			p.t.Fatalf("place: %d", status)
		}
		time.Sleep(15*time.Minute - time.Second)
		if o, l := p.order("one"), p.level("A"); o.State != "placed" || l != (levelView{10, 6}) {
			p.t.Errorf("a second before: %+v, %+v", o, l)
		}
		time.Sleep(6 * time.Second)
		if o, l := p.order("one"), p.level("A"); o.State != "expired" || l != (levelView{10, 0}) {
			p.t.Errorf("five seconds after: %+v, %+v", o, l)
		}
		if status := p.do("POST", "http://orders:80/v1/orders/one/confirm", "", nil); status != http.StatusConflict {
			p.t.Errorf("confirm what has expired: %d", status)
		}
	})
	t.Logf("15 virtual minutes took %s", time.Since(began).Round(time.Millisecond))
}

func TestWhatInventoryCouldNotBeAskedSettlesWhenItReturns(t *testing.T) {
	t.Parallel()
	bubble(t, func(p *Pair) {
		p.stock("A", 10)
		p.place("one", "A", 1)
		p.place("two", "A", 2)
		p.stopInventory()

		// A confirm is recorded and its outcome is not known; reads go on.
		if status := p.do("POST", "http://orders:80/v1/orders/one/confirm", "", nil); status != http.StatusAccepted {
			p.t.Errorf("confirm: %d", status)
		}
		if o := p.order("one"); o.State != "placed" || o.Intent == nil || o.Intent.Operation != "confirm" {
			p.t.Errorf("while inventory is away: %+v", o)
		}
		// Before the breaker knows, a place is recorded; it is given up after 30 s.
		if status := p.place("three", "A", 3); status != http.StatusAccepted {
			p.t.Errorf("place: %d", status)
		}
		for range 5 {
			p.do("POST", "http://orders:80/v1/orders/two/confirm", "", nil)
		}
		// Now it knows: a new place is refused before it is recorded.
		if status := p.place("four", "A", 4); status != http.StatusServiceUnavailable {
			p.t.Errorf("place while inventory is away: %d", status)
		}
		if status := p.do("GET", "http://orders:80/v1/orders/four", "", nil); status != http.StatusNotFound {
			p.t.Errorf("a refused place was recorded: %d", status)
		}
		time.Sleep(time.Minute)
		p.StartInventory()
		time.Sleep(30 * time.Second)

		for id, want := range map[string]string{"one": "confirmed", "two": "confirmed", "three": "rejected"} {
			if o := p.order(id); o.State != want || o.Intent != nil {
				p.t.Errorf("%s: %+v, want %s", id, o, want)
			}
		}
		var refused orderView
		status := p.do("PUT", "http://orders:80/v1/orders/three",
			`{"customer":"c","currency":"GBP","lines":[{"sku":"A","quantity":3,"unit_price":100}]}`, &refused)
		if status != http.StatusConflict || refused.Code != "given-up" {
			p.t.Errorf("a place that was given up answers %d %+v", status, refused)
		}
		if l := p.level("A"); l != (levelView{7, 0}) {
			p.t.Errorf("level: %+v", l)
		}
	})
}

func TestACrashOfOrdersLosesNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(p *Pair) {
		p.stock("A", 10)
		p.Network.Cut("inventory:80", true)
		if status := p.place("one", "A", 1); status != http.StatusAccepted {
			p.t.Errorf("place: %d", status)
		}
		ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
		defer cancel()
		if err := p.Orders.Stop(ctx); err != nil {
			p.t.Fatal(err)
		}
		p.Network.Cut("inventory:80", false)
		p.StartOrders()
		p.Client.CloseIdleConnections()
		time.Sleep(10 * time.Second)
		if o := p.order("one"); o.State != "placed" {
			p.t.Errorf("after a restart: %+v", o)
		}
	})
}

func (p *Pair) stopInventory() {
	p.t.Helper()
	p.Client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	if err := p.Inventory.Stop(ctx); err != nil {
		p.t.Fatal(err)
	}
}
