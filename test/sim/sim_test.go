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

func (s *System) do(method, url, body string, into any) int {
	s.t.Helper()
	request, err := http.NewRequestWithContext(s.t.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		s.t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := s.Client.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if into != nil {
		if err := json.Unmarshal(content, into); err != nil {
			s.t.Fatalf("%s %s: %d %s: %v", method, url, response.StatusCode, content, err)
		}
	}
	return response.StatusCode
}

func (s *System) stock(sku string, onHand int) {
	s.t.Helper()
	body := fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand)
	if status := s.do("PUT", "http://inventory:80/v1/adjustments/first-"+sku, body, nil); status != 200 {
		s.t.Fatalf("adjust: %d", status)
	}
}

func (s *System) place(id, sku string, quantity int) int {
	s.t.Helper()
	return s.do("PUT", "http://orders:80/v1/orders/"+id,
		fmt.Sprintf(`{"customer":"c","currency":"GBP","lines":[{"sku":%q,"quantity":%d,"unit_price":100}]}`, sku, quantity), nil)
}

func (s *System) order(id string) (o orderView) {
	s.t.Helper()
	s.do("GET", "http://orders:80/v1/orders/"+id, "", &o)
	return o
}

func (s *System) level(sku string) levelView {
	s.t.Helper()
	var body struct {
		Levels []struct {
			OnHand   int64 `json:"on_hand"`
			Reserved int64 `json:"reserved"`
		}
	}
	s.do("GET", "http://inventory:80/v1/stock/"+sku, "", &body)
	return levelView(body.Levels[0])
}

// bubble runs a test in virtual time. The folder is made outside the bubble,
// because its removal takes real time.
func bubble(t *testing.T, test func(s *System)) {
	t.Helper()
	folder := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := Start(t, folder)
		defer s.Stop()
		test(s)
	})
}

func TestHoldExpiresAfterFifteenMinutes(t *testing.T) {
	t.Parallel()
	start := time.Now()
	bubble(t, func(s *System) {
		s.stock("A", 10)
		if status := s.place("one", "A", 6); status != http.StatusCreated {
			s.t.Fatalf("place: %d", status)
		}
		time.Sleep(15*time.Minute - time.Second)
		if o, l := s.order("one"), s.level("A"); o.State != "placed" || l != (levelView{10, 6}) {
			s.t.Errorf("a second before: %+v, %+v", o, l)
		}
		time.Sleep(6 * time.Second)
		if o, l := s.order("one"), s.level("A"); o.State != "expired" || l != (levelView{10, 0}) {
			s.t.Errorf("five seconds after: %+v, %+v", o, l)
		}
		if status := s.do("POST", "http://orders:80/v1/orders/one/confirm", "", nil); status != http.StatusConflict {
			s.t.Errorf("confirm an expired order: %d", status)
		}
	})
	t.Logf("15 virtual minutes took %s", time.Since(start).Round(time.Millisecond))
}

func TestIntentsSettleAfterInventoryOutage(t *testing.T) {
	t.Parallel()
	bubble(t, func(s *System) {
		s.stock("A", 10)
		s.place("one", "A", 1)
		s.place("two", "A", 2)
		s.stopInventory()

		// A confirm is recorded as an intent. Reads still work.
		if status := s.do("POST", "http://orders:80/v1/orders/one/confirm", "", nil); status != http.StatusAccepted {
			s.t.Errorf("confirm: %d", status)
		}
		if o := s.order("one"); o.State != "placed" || o.Intent == nil || o.Intent.Operation != "confirm" {
			s.t.Errorf("during the outage: %+v", o)
		}
		// While the breaker is closed a place is recorded. It is given up after 30 s.
		if status := s.place("three", "A", 3); status != http.StatusAccepted {
			s.t.Errorf("place: %d", status)
		}
		for range 5 {
			s.do("POST", "http://orders:80/v1/orders/two/confirm", "", nil)
		}
		// The breaker is open now: a new place is refused before it is recorded.
		if status := s.place("four", "A", 4); status != http.StatusServiceUnavailable {
			s.t.Errorf("place while the breaker is open: %d", status)
		}
		if status := s.do("GET", "http://orders:80/v1/orders/four", "", nil); status != http.StatusNotFound {
			s.t.Errorf("the refused place was recorded: %d", status)
		}
		time.Sleep(time.Minute)
		s.StartInventory()
		time.Sleep(30 * time.Second)

		for id, want := range map[string]string{"one": "confirmed", "two": "confirmed", "three": "rejected"} {
			if o := s.order(id); o.State != want || o.Intent != nil {
				s.t.Errorf("%s: %+v, want %s", id, o, want)
			}
		}
		var givenUp orderView
		status := s.do("PUT", "http://orders:80/v1/orders/three",
			`{"customer":"c","currency":"GBP","lines":[{"sku":"A","quantity":3,"unit_price":100}]}`, &givenUp)
		if status != http.StatusConflict || givenUp.Code != "given-up" {
			s.t.Errorf("PUT of a place that was given up: %d %+v", status, givenUp)
		}
		if l := s.level("A"); l != (levelView{7, 0}) {
			s.t.Errorf("level: %+v", l)
		}
	})
}

func TestOrdersSettlesIntentAfterRestart(t *testing.T) {
	t.Parallel()
	bubble(t, func(s *System) {
		s.stock("A", 10)
		s.Network.Cut("inventory:80")
		if status := s.place("one", "A", 1); status != http.StatusAccepted {
			s.t.Errorf("place: %d", status)
		}
		ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
		defer cancel()
		if err := s.Orders.Stop(ctx); err != nil {
			s.t.Fatal(err)
		}
		s.Network.Restore("inventory:80")
		s.StartOrders()
		s.Client.CloseIdleConnections()
		time.Sleep(10 * time.Second)
		if o := s.order("one"); o.State != "placed" {
			s.t.Errorf("after a restart: %+v", o)
		}
	})
}

func (s *System) stopInventory() {
	s.t.Helper()
	s.Client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := s.Inventory.Stop(ctx); err != nil {
		s.t.Fatal(err)
	}
}
