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

	"roundtrip/test/support/caller"
)

func TestConcurrentIdenticalPutsCreateOneOrder(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		sys := startSystem(t, on, product)
		sys.stock("A", 10)
		callConcurrently(sys, func() response { return sys.place("one", "A", 3) })
		if onHand, reserved := sys.level("A"); onHand != 10 || reserved != 3 {
			t.Errorf("level %d, %d", onHand, reserved)
		}
		sys.audit()
	})
}

func TestConcurrentPostsWithOneKeyCreateOneOrder(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		sys := startSystem(t, on, product)
		sys.stock("A", 10)
		callConcurrently(sys, func() response {
			return sys.orders.Call(sys.Context(), "POST", "/v1/orders", `{"customer":"c","currency":"GBP","lines":[{"sku":"A","quantity":3,"unit_price":100}]}`,
				"Idempotency-Key", "the-key")
		})
		if r := sys.orders.Call(sys.Context(), "GET", "/v1/orders", ""); len(r.Orders) != 1 {
			t.Errorf("%d orders", len(r.Orders))
		}
		sys.audit()
	})
}

// callConcurrently sends the same request 50 times at once and retries each until it
// is done. At most one response may be 201, and all must have the same body.
func callConcurrently(sys *system, call func() response) {
	sys.Helper()
	var retries atomic.Int64
	replies := concurrently(50, func(int) (r response) {
		for range 20 {
			if r = call(); r.Done() {
				break
			}
			retries.Add(1)
		}
		return r
	})
	created := 0
	for _, r := range replies {
		if !r.Done() || r.Text != replies[0].Text {
			sys.Errorf("got %d %s %v, another got %s", r.Status, r.Text, r.Err, replies[0].Text)
		}
		if r.Status == http.StatusCreated {
			created++
		}
	}
	if created > 1 || created == 0 && retries.Load() == 0 {
		sys.Errorf("%d responses were 201", created)
	}
}

func TestConcurrentOrdersForLastTwentyUnits(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		sys := startSystem(t, on, product, "--give-up-after=10m")
		sys.stock("A", 20)
		count := map[string]int{}
		for _, r := range concurrently(200, func(i int) response { return sys.place(fmt.Sprint("order-", i), "A", 1) }) {
			count[fmt.Sprint(r.Status, " ", r.Code)]++
		}
		// On a slow machine some responses are 202.
		for i := range 200 {
			sys.settled(fmt.Sprint("order-", i))
		}
		placed, short := 0, 0
		for _, r := range concurrently(200, func(i int) response { return sys.place(fmt.Sprint("order-", i), "A", 1) }) {
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
			t.Errorf("%d placed, %d short; the first responses were %v", placed, short, count)
		}
		if count["201 "] > 20 || count["201 "]+count["409 insufficient-stock"]+count["202 "] != 200 {
			t.Errorf("the first responses were %v", count)
		}
		sys.audit()
	})
}

func TestInventoryOutage(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		sys := startSystem(t, on, product)
		sys.stock("A", 10)
		sys.placed("one", "A", 1)
		sys.placed("two", "A", 2)
		sys.inventory.kill()

		if r := sys.confirm("one"); r.Status != http.StatusAccepted || r.Intent == nil || r.Header.Get("Retry-After") == "" {
			t.Errorf("confirm: %d %s", r.Status, r.Text)
		}
		if r := sys.place("three", "A", 3); r.Status != http.StatusAccepted {
			t.Errorf("place before the breaker opens: %d %s", r.Status, r.Text)
		}
		sys.wait("the breaker refuses new places", func() bool {
			r := sys.place(fmt.Sprint("new-", time.Now().UnixNano()), "A", 1)
			return r.Status == http.StatusServiceUnavailable
		})
		if r := sys.amend("one", "A", 2); r.Status != http.StatusConflict || r.Code != "operation-pending" {
			t.Errorf("amend behind a pending confirm: %d %s", r.Status, r.Text)
		}
		if r := sys.cancel("two"); r.Status != http.StatusAccepted {
			t.Errorf("cancel: %d %s", r.Status, r.Text)
		}
		if r := sys.get("one"); r.Status != http.StatusOK || r.State != "placed" {
			t.Errorf("get: %d %s", r.Status, r.Text)
		}
		if r := sys.orders.Call(sys.Context(), "GET", "/v1/orders", ""); r.Status != http.StatusOK || len(r.Orders) < 3 {
			t.Errorf("list: %d %s", r.Status, r.Text)
		}
		for _, path := range []string{"/v1/orders/one/reservation", "/v1/availability?sku=A"} {
			if r := sys.orders.Call(sys.Context(), "GET", path, ""); r.Status != http.StatusServiceUnavailable {
				t.Errorf("%s: %d %s", path, r.Status, r.Text)
			}
		}
		sys.restart(sys.inventory)
		for id, want := range map[string]string{"one": "confirmed", "two": "cancelled", "three": "placed"} {
			if r := sys.settled(id); r.State != want {
				t.Errorf("%s is %s, want %s", id, r.State, want)
			}
		}
		sys.audit()
	})
}

func TestBlockedExchangeHoldsNoConnection(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		sys := startSystem(t, on, product, "--database-connections=1")
		sys.stock("A", 10)
		ids := []string{"one", "two", "three", "four"}
		for _, id := range ids {
			sys.placed(id, "A", 1)
		}
		sys.inventory.signal(syscall.SIGSTOP)

		// One at each replica.
		blocked := make(chan response, 2)
		for _, id := range ids[:2] {
			go func() { blocked <- sys.confirm(id) }()
			sys.wait("the intent is recorded", func() bool { return sys.get(id).Intent != nil })
		}
		// The only write connection is free: the intents of other orders are recorded
		// while the first exchange is still blocked.
		for _, id := range ids[2:] {
			if r := sys.cancel(id, "Request-Timeout-Ms", "300"); r.Status != http.StatusAccepted {
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
		sys.inventory.signal(syscall.SIGCONT)
		for i, id := range ids {
			want := "confirmed"
			if i >= 2 {
				want = "cancelled"
			}
			if r := sys.settled(id); r.State != want {
				t.Errorf("%s is %s, want %s", id, r.State, want)
			}
		}
		sys.audit()
	})
}

func TestSIGTERMUnderLoad(t *testing.T) {
	onBothStores(t, func(t *testing.T, on store) {
		for _, victim := range []string{"orders", "inventory"} {
			t.Run(victim, func(t *testing.T) {
				t.Parallel()
				sys := startSystem(t, on, product)
				sys.stock("A", 1_000_000)
				stop := make(chan struct{})
				var load sync.WaitGroup
				var mu sync.Mutex
				responses, refused := map[string]response{}, []string{}
				for n := range caller.Callers {
					load.Go(func() {
						for i := 0; ; i++ {
							select {
							case <-stop:
								return
							case <-time.After(caller.Pace / 10):
							}
							id := fmt.Sprintf("order-%d-%d", n, i)
							r := sys.place(id, "A", 1)
							mu.Lock()
							if r.Err != nil {
								refused = append(refused, id)
							} else {
								responses[id] = r
							}
							mu.Unlock()
						}
					})
				}
				enough := func() bool { mu.Lock(); defer mu.Unlock(); return len(responses) >= 100 }
				sys.wait("orders are placed", enough)
				s := sys.orders
				if victim == "inventory" {
					s = sys.inventory
				}
				process := s.replicas[0]
				process.Signal(syscall.SIGTERM)
				if err := process.ExitError(); err != nil {
					t.Errorf("exit: %v\n%s", err, process.Log())
				}
				close(stop)
				load.Wait()
				sys.restart(s)
				for id, r := range responses {
					switch {
					case r.Status == http.StatusCreated:
						if now := sys.get(id); now.State != "placed" {
							t.Errorf("%s was placed, now: %d %s", id, now.Status, now.Text)
						}
					case r.Status == http.StatusAccepted || r.Status == http.StatusServiceUnavailable || r.Status == http.StatusGatewayTimeout:
						sys.settled(id)
					default:
						t.Errorf("%s: %d %s", id, r.Status, r.Text)
					}
				}
				for _, id := range refused {
					if r := sys.get(id); r.Status != http.StatusNotFound {
						t.Errorf("%s was refused, but exists: %d %s", id, r.Status, r.Text)
					}
				}
				sys.audit()
			})
		}
	})
}

func TestSecondSIGTERMExitsAtOnce(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, sqlite, product, "--drain-timeout=60s")
	process := sys.orders.replicas[0]
	sys.stock("A", 10)
	sys.inventory.signal(syscall.SIGSTOP)
	blocked := make(chan response, 1)
	go func() { blocked <- sys.place("one", "A", 1) }()
	sys.wait("the intent is recorded", func() bool { return sys.get("one").Intent != nil })
	process.Signal(syscall.SIGTERM)
	sys.wait("orders is not ready", func() bool {
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
		t.Errorf("the request completed: %d %s", r.Status, r.Text)
	}
	sys.inventory.signal(syscall.SIGCONT)
	sys.restart(sys.orders)
	if r := sys.settled("one"); r.State != "placed" {
		t.Errorf("after a restart: %s", r.Text)
	}
	sys.audit()
}

func TestCommandExitStatusAndMessage(t *testing.T) {
	t.Parallel()
	sys := startSystem(t, sqlite, product)
	sys.stock("A", 10)
	rows := filepath.Join(sys.folder, "stock.csv")
	if err := os.WriteFile(rows, []byte("sku,name,location,on_hand\nB,a thing,main,5\nC,,main,-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := strings.TrimPrefix(sys.orders.replicas[0].AdminURL, "http://")
	for _, c := range []struct {
		command []string
		exit    int
		output  string
	}{
		{[]string{"orders", "healthcheck", "--admin-addr=" + admin}, 0, ""},
		{[]string{"orders", "healthcheck", "--admin-addr=127.0.0.1:1"}, 1, "not healthy"},
		{[]string{"orders", "version"}, 0, "orders "},
		{[]string{"orders", "serve", "--help"}, 0, "$ORDERS_DATABASE"},
		{[]string{"orders", "serve", "--inventory-wire=pigeon"}, 2, "must be one of"},
		{[]string{"orders", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--inventory-url=nowhere", "--database=sqlite:unused.db"}, 2, "must look like"},
		{[]string{"orders", "serve", "--http-addr=" + sys.orders.replicas[0].Addr()}, 2, "address already in use"},
		{[]string{"orders", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--database=sqlite:" + filepath.Join(sys.folder, "orders.db")}, 2, "another process has this database open"},
		{[]string{"orders", "audit", "--database=sqlite:" + filepath.Join(sys.folder, "none.db")}, 2, "no such file"},
		{[]string{"orders", "audit", "--database=mysql:x"}, 2, "looks like sqlite:PATH"},
		{[]string{"inventory", "import", rows, "--url=" + sys.inventory.URL}, 1, "row 2 (C at main) was rejected"},
		{[]string{"inventory", "audit", "--database=sqlite:" + filepath.Join(sys.folder, "inventory.db")}, 0, "agree"},
	} {
		command := exec.CommandContext(t.Context(), filepath.Join(product, c.command[0]), c.command[1:]...)
		command.Dir = sys.folder
		out, err := command.CombinedOutput()
		exit := command.ProcessState.ExitCode()
		if exit != c.exit || !strings.Contains(string(out), c.output) {
			t.Errorf("%v: exit %d (%v), want %d and %q:\n%s", c.command, exit, err, c.exit, c.output, out)
		}
	}
	if onHand, _ := sys.level("B"); onHand != 5 {
		t.Errorf("imported %d", onHand)
	}
}
