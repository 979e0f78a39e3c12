package process

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"roundtrip/test/support/shop"
)

func TestFiftyIdenticalPutsMakeOneOrder(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		h := startPair(t, on, product)
		h.stock("A", 10)
		same(h, func() reply { return h.place("one", "A", 3) })
		if onHand, reserved := h.level("A"); onHand != 10 || reserved != 3 {
			t.Errorf("level %d, %d", onHand, reserved)
		}
		h.audit()
	})
}

func TestFiftyPostsWithOneKeyMakeOneOrder(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		h := startPair(t, on, product)
		h.stock("A", 10)
		same(h, func() reply {
			return h.orders.Call(h.Context(), "POST", "/v1/orders", `{"customer":"c","currency":"GBP","lines":[{"sku":"A","quantity":3,"unit_price":100}]}`,
				"Idempotency-Key", "the-key")
		})
		if r := h.orders.Call(h.Context(), "GET", "/v1/orders", ""); len(r.Orders) != 1 {
			t.Errorf("%d orders", len(r.Orders))
		}
		h.audit()
	})
}

// same makes 50 calls at once, each of them again where its answer was not for
// good: one at most is told that it created the order, and all get the same body.
func same(h *harness, call func() reply) {
	h.Helper()
	var patient atomic.Int64
	replies := at(50, func(int) (r reply) {
		for range 20 {
			if r = call(); r.Done() {
				break
			}
			patient.Add(1)
		}
		return r
	})
	created := 0
	for _, r := range replies {
		if !r.Done() || r.Text != replies[0].Text {
			h.Errorf("got %d %s %v, another got %s", r.Status, r.Text, r.Err, replies[0].Text)
		}
		if r.Status == http.StatusCreated {
			created++
		}
	}
	if created > 1 || created == 0 && patient.Load() == 0 {
		h.Errorf("%d were told that they created it", created)
	}
}

func TestTwoHundredOrdersForTheLastTwentyUnits(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		h := startPair(t, on, product, "--give-up-after=10m")
		h.stock("A", 20)
		count := map[string]int{}
		for _, r := range at(200, func(i int) reply { return h.place(fmt.Sprint("order-", i), "A", 1) }) {
			count[fmt.Sprint(r.Status, " ", r.Code)]++
		}
		// On a slow machine some may be told 202; nobody may be told anything else.
		for i := range 200 {
			h.settled(fmt.Sprint("order-", i))
		}
		placed, short := 0, 0
		for _, r := range at(200, func(i int) reply { return h.place(fmt.Sprint("order-", i), "A", 1) }) {
			switch {
			case r.Status == http.StatusOK && r.State == "placed":
				placed++
			case r.Status == http.StatusConflict && r.Code == "insufficient-stock":
				short++
			default:
				t.Errorf("got %d %s %v", r.Status, r.Text, r.Err)
			}
		}
		if placed != 20 || short != 180 {
			t.Errorf("%d placed, %d short; the first answers were %v", placed, short, count)
		}
		if count["201 "] > 20 || count["201 "]+count["409 insufficient-stock"]+count["202 "] != 200 {
			t.Errorf("the first answers were %v", count)
		}
		h.audit()
	})
}

func TestWithInventoryGoneOrdersAnswersByTheRulesAndSettlesByItself(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		h := startPair(t, on, product)
		h.stock("A", 10)
		h.placed("one", "A", 1)
		h.placed("two", "A", 2)
		h.inventory.kill()

		if r := h.confirm("one"); r.Status != http.StatusAccepted || r.Intent == nil || r.Header.Get("Retry-After") == "" {
			t.Errorf("confirm: %d %s", r.Status, r.Text)
		}
		if r := h.place("three", "A", 3); r.Status != http.StatusAccepted {
			t.Errorf("a place that was recorded: %d %s", r.Status, r.Text)
		}
		h.wait("the breaker refuses new places", func() bool {
			r := h.place(fmt.Sprint("new-", time.Now().UnixNano()), "A", 1)
			return r.Status == http.StatusServiceUnavailable
		})
		if r := h.amend("one", "A", 2); r.Status != http.StatusConflict || r.Code != "operation-pending" {
			t.Errorf("amend behind a pending confirm: %d %s", r.Status, r.Text)
		}
		if r := h.cancel("two"); r.Status != http.StatusAccepted {
			t.Errorf("cancel: %d %s", r.Status, r.Text)
		}
		if r := h.get("one"); r.Status != http.StatusOK || r.State != "placed" {
			t.Errorf("get: %d %s", r.Status, r.Text)
		}
		if r := h.orders.Call(h.Context(), "GET", "/v1/orders", ""); r.Status != http.StatusOK || len(r.Orders) < 3 {
			t.Errorf("list: %d %s", r.Status, r.Text)
		}
		for _, path := range []string{"/v1/orders/one/reservation", "/v1/availability?sku=A"} {
			if r := h.orders.Call(h.Context(), "GET", path, ""); r.Status != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", path, r.Status, r.Text)
			}
		}
		h.restart(h.inventory)
		for id, want := range map[string]string{"one": "confirmed", "two": "cancelled", "three": "placed"} {
			if r := h.settled(id); r.State != want {
				t.Errorf("%s is %s, want %s", id, r.State, want)
			}
		}
		h.audit()
	})
}

func TestABlockedExchangeHoldsNoTransactionAndNoConnection(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		h := startPair(t, on, product, "--database-connections=1")
		h.stock("A", 10)
		ids := []string{"one", "two", "three", "four"}
		for _, id := range ids {
			h.placed(id, "A", 1)
		}
		h.inventory.signal(syscall.SIGSTOP)

		// One at each replica.
		blocked := make(chan reply, 2)
		for _, id := range ids[:2] {
			go func() { blocked <- h.confirm(id) }()
			h.wait("the intent is written down", func() bool { return h.get(id).Intent != nil })
		}
		// The one connection that writes is free: another order's intent is recorded
		// and answered while the first exchange is still blocked.
		for _, id := range ids[2:] {
			if r := h.cancel(id, "Request-Timeout-Ms", "300"); r.Status != http.StatusAccepted {
				t.Errorf("cancel: %d %s", r.Status, r.Text)
			}
		}
		select {
		case r := <-blocked:
			t.Errorf("the exchange was not blocked: %d %s", r.Status, r.Text)
		default:
		}
		for range 2 {
			if r := <-blocked; r.Status != http.StatusAccepted {
				t.Errorf("confirm: %d %s", r.Status, r.Text)
			}
		}
		h.inventory.signal(syscall.SIGCONT)
		for i, id := range ids {
			want := "confirmed"
			if i >= 2 {
				want = "cancelled"
			}
			if r := h.settled(id); r.State != want {
				t.Errorf("%s is %s, want %s", id, r.State, want)
			}
		}
		h.audit()
	})
}

func TestSIGTERMUnderLoadLosesNothingThatWasAccepted(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		for _, victim := range []string{"orders", "inventory"} {
			t.Run(victim, func(t *testing.T) {
				t.Parallel()
				h := startPair(t, on, product)
				h.stock("A", 1_000_000)
				stop := make(chan struct{})
				var load sync.WaitGroup
				var mu sync.Mutex
				answered, refused := map[string]reply{}, []string{}
				for caller := range shop.Callers {
					load.Go(func() {
						for i := 0; ; i++ {
							select {
							case <-stop:
								return
							case <-time.After(shop.Pace / 10):
							}
							id := fmt.Sprintf("order-%d-%d", caller, i)
							r := h.place(id, "A", 1)
							mu.Lock()
							if r.Err != nil {
								refused = append(refused, id)
							} else {
								answered[id] = r
							}
							mu.Unlock()
						}
					})
				}
				enough := func() bool { mu.Lock(); defer mu.Unlock(); return len(answered) >= 100 }
				h.wait("load flows", enough)
				s := h.orders
				if victim == "inventory" {
					s = h.inventory
				}
				process := s.replicas[0]
				process.Signal(syscall.SIGTERM)
				if err := process.ExitError(); err != nil {
					t.Errorf("exit: %v\n%s", err, process.Log())
				}
				close(stop)
				load.Wait()
				h.restart(s)
				for id, r := range answered {
					switch {
					case r.Status == http.StatusCreated:
						if now := h.get(id); now.State != "placed" {
							t.Errorf("%s was placed and is now %d %s", id, now.Status, now.Text)
						}
					case r.Status == http.StatusAccepted || r.Status == http.StatusServiceUnavailable || r.Status == http.StatusGatewayTimeout:
						h.settled(id)
					default:
						t.Errorf("%s: %d %s", id, r.Status, r.Text)
					}
				}
				for _, id := range refused {
					if r := h.get(id); r.Status != http.StatusNotFound {
						t.Errorf("%s was refused and is there: %d %s", id, r.Status, r.Text)
					}
				}
				h.audit()
			})
		}
	})
}

func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	t.Parallel()
	h := startPair(t, sqlite, product, "--drain-timeout=60s")
	process := h.orders.replicas[0]
	h.stock("A", 10)
	h.inventory.signal(syscall.SIGSTOP)
	blocked := make(chan reply, 1)
	go func() { blocked <- h.place("one", "A", 1) }()
	h.wait("the intent is written down", func() bool { return h.get("one").Intent != nil })
	process.Signal(syscall.SIGTERM)
	h.wait("it is not ready", func() bool {
		response, err := http.Get(process.AdminURL + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusServiceUnavailable
	})
	process.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := process.ExitError(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("exit: %v", err)
	}
	if r := <-blocked; r.Err == nil {
		t.Errorf("it waited for an answer: %d %s", r.Status, r.Text)
	}
	h.inventory.signal(syscall.SIGCONT)
	h.restart(h.orders)
	if r := h.settled("one"); r.State != "placed" {
		t.Errorf("after a restart: %s", r.Text)
	}
	h.audit()
}

func TestTheCommandsSayWhatIsTheMatter(t *testing.T) {
	t.Parallel()
	h := startPair(t, sqlite, product)
	h.stock("A", 10)
	rows := filepath.Join(h.folder, "stock.csv")
	if err := os.WriteFile(rows, []byte("sku,name,location,on_hand\nB,a thing,main,5\nC,,main,-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := strings.TrimPrefix(h.orders.replicas[0].AdminURL, "http://")
	for _, c := range []struct {
		command []string
		exit    int
		says    string
	}{
		{[]string{"orders", "healthcheck", "--admin-addr=" + admin}, 0, ""},
		{[]string{"orders", "healthcheck", "--admin-addr=127.0.0.1:1"}, 1, "not healthy"},
		{[]string{"orders", "version"}, 0, "orders "},
		{[]string{"orders", "serve", "--help"}, 0, "$ORDERS_DATABASE"},
		{[]string{"orders", "serve", "--inventory-wire=pigeon"}, 2, "must be one of"},
		{[]string{"orders", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--inventory-url=nowhere", "--database=sqlite:unused.db"}, 2, "must look like"},
		{[]string{"orders", "serve", "--http-addr=" + h.orders.replicas[0].Addr()}, 2, "address already in use"},
		{[]string{"orders", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--database=sqlite:" + filepath.Join(h.folder, "orders.db")}, 2, "another process has this database open"},
		{[]string{"orders", "audit", "--database=sqlite:" + filepath.Join(h.folder, "none.db")}, 2, "no such file"},
		{[]string{"orders", "audit", "--database=mysql:x"}, 2, "looks like sqlite:PATH"},
		{[]string{"inventory", "import", rows, "--url=" + h.inventory.URL}, 1, "row 2 (C at main) was rejected"},
		{[]string{"inventory", "audit", "--database=sqlite:" + filepath.Join(h.folder, "inventory.db")}, 0, "agree"},
	} {
		command := exec.CommandContext(t.Context(), filepath.Join(product, c.command[0]), c.command[1:]...)
		command.Dir = h.folder
		out, err := command.CombinedOutput()
		exit := command.ProcessState.ExitCode()
		if exit != c.exit || !strings.Contains(string(out), c.says) {
			t.Errorf("%v: exit %d (%v), want %d and %q:\n%s", c.command, exit, err, c.exit, c.says, out)
		}
	}
	if onHand, _ := h.level("B"); onHand != 5 {
		t.Errorf("imported %d", onHand)
	}
}
