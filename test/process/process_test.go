// Package process tests the pair as the processes that it is shipped as: killed
// with -9 at every step, stopped under load, paused, and left alone by its other
// half. It needs Go and nothing else.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/test/pair"
)

// product and crashing are folders with the services' binaries: as they are
// shipped, and with failpoints.
var product, crashing string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	folder, err := os.MkdirTemp("", "roundtrip-process-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(folder)
	product, crashing = filepath.Join(folder, "product"), filepath.Join(folder, "crashing")
	for path, tags := range map[string][]string{product: nil, crashing: {"failpoints"}} {
		if err := errors.Join(os.Mkdir(path, 0o700), pair.Build(context.Background(), path, tags...)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// patience is how long a test waits for what must happen. Nothing is judged by
// it but that it happens.
const patience = 45 * time.Second

type harness struct {
	*testing.T
	*pair.Pair
	bin, folder       string
	orders, inventory *http.Client
}

// startPair starts both services and stops them, and audits them, when the test
// ends.
func startPair(t *testing.T, bin string, ordersArgs ...string) *harness {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	folder := t.TempDir()
	p, err := pair.StartPair(ctx, folder, pair.Options{Binary: filepath.Join(bin, "inventory")},
		pair.Options{Binary: filepath.Join(bin, "orders"), Args: ordersArgs})
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{T: t, Pair: p, bin: bin, folder: folder, orders: client(t, openapi.Orders()), inventory: client(t, openapi.Inventory())}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}

// client checks every response, and every request that was accepted, against
// the contract.
func client(t *testing.T, contract *openapi.Document) *http.Client {
	// A connection for each request: one that is kept could be closed by a
	// service that stops at the very moment when the next request goes out.
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Timeout: 20 * time.Second, Transport: contract.Transport(transport, func(err error) { t.Error(err) })}
}

type reply struct {
	status int
	header http.Header
	text   string
	err    error

	State    string
	Seq      int64
	Version  int64
	Code     string
	Intent   *struct{ Operation string }
	Lines    []struct{ Quantity int64 }
	OnHand   int64 `json:"on_hand"`
	Reserved int64
	Levels   []struct {
		OnHand   int64 `json:"on_hand"`
		Reserved int64
	}
	Orders []struct{ ID string }
}

func (h *harness) call(c *http.Client, method, url, body string, headers ...string) (r reply) {
	request, err := http.NewRequestWithContext(h.Context(), method, url, bytes.NewReader([]byte(body)))
	if err != nil {
		return reply{err: err}
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.Do(request)
	if err != nil {
		return reply{err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	r.status, r.header, r.text, r.err = response.StatusCode, response.Header, string(text), err
	return r
}

func (h *harness) stock(sku string, onHand int) {
	h.Helper()
	r := h.call(h.inventory, "PUT", h.Inventory.URL+"/v1/adjustments/first-"+sku, fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand))
	if r.status != http.StatusOK {
		h.Fatalf("adjust: %+v", r)
	}
}

func lines(sku string, quantity int) string {
	return fmt.Sprintf(`"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]`, sku, quantity)
}

func (h *harness) place(id, sku string, quantity int, headers ...string) reply {
	return h.call(h.orders, "PUT", h.Orders.URL+"/v1/orders/"+id, `{"customer":"c","currency":"GBP",`+lines(sku, quantity)+`}`, headers...)
}

func (h *harness) amend(id, sku string, quantity int) reply {
	return h.call(h.orders, "PUT", h.Orders.URL+"/v1/orders/"+id+"/lines", `{`+lines(sku, quantity)+`}`)
}

func (h *harness) post(id, operation string, headers ...string) reply {
	return h.call(h.orders, "POST", h.Orders.URL+"/v1/orders/"+id+"/"+operation, "", headers...)
}

func (h *harness) get(id string) reply {
	return h.call(h.orders, "GET", h.Orders.URL+"/v1/orders/"+id, "")
}

func (h *harness) level(sku string) (onHand, reserved int64) {
	h.Helper()
	r := h.call(h.inventory, "GET", h.Inventory.URL+"/v1/stock/"+sku, "")
	if len(r.Levels) != 1 {
		h.Fatalf("level of %s: %+v", sku, r)
	}
	return r.Levels[0].OnHand, r.Levels[0].Reserved
}

// wait waits for a condition.
func (h *harness) wait(what string, condition func() bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			h.Fatalf("it never came to be that %s\n--- orders\n%s\n--- inventory\n%s", what, h.Orders.Log(), h.Inventory.Log())
		}
	}
}

func (h *harness) settled(id string) reply {
	h.Helper()
	var r reply
	h.wait(id+" is settled", func() bool {
		r = h.get(id)
		return r.status == http.StatusNotFound || r.status == http.StatusOK && r.Intent == nil
	})
	return r
}

// audit runs both services' own audits; every difference fails the test.
func (h *harness) audit() {
	h.Helper()
	for _, command := range [][]string{
		{"inventory", "audit", "--database=sqlite:" + filepath.Join(h.folder, "inventory.db")},
		{"orders", "audit", "--database=sqlite:" + filepath.Join(h.folder, "orders.db"), "--inventory-url=" + h.Inventory.URL},
	} {
		out, err := exec.CommandContext(h.Context(), filepath.Join(h.bin, command[0]), command[1:]...).CombinedOutput()
		if err != nil {
			h.Errorf("%s audit: %v\n%s", command[0], err, out)
		}
	}
}

func (h *harness) restart(start func(context.Context, ...string) error, env ...string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	if err := start(ctx, env...); err != nil {
		h.Fatal(err)
	}
}

func TestFiftyIdenticalPutsMakeOneOrder(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	same(h, func() reply { return h.place("one", "A", 3) })
	if onHand, reserved := h.level("A"); onHand != 10 || reserved != 3 {
		t.Errorf("level %d, %d", onHand, reserved)
	}
	h.audit()
}

func TestFiftyPostsWithOneKeyMakeOneOrder(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	same(h, func() reply {
		return h.call(h.orders, "POST", h.Orders.URL+"/v1/orders", `{"customer":"c","currency":"GBP",`+lines("A", 3)+`}`,
			"Idempotency-Key", "the-key")
	})
	if r := h.call(h.orders, "GET", h.Orders.URL+"/v1/orders", ""); len(r.Orders) != 1 {
		t.Errorf("%d orders", len(r.Orders))
	}
	h.audit()
}

// same makes 50 calls at once: one is told that it created the order, and all
// get the same body.
func same(h *harness, call func() reply) {
	h.Helper()
	replies := at(50, func(int) reply { return call() })
	created := 0
	for _, r := range replies {
		if r.err != nil || r.status != http.StatusOK && r.status != http.StatusCreated || r.text != replies[0].text {
			h.Fatalf("got %d %s %v, another got %s", r.status, r.text, r.err, replies[0].text)
		}
		if r.status == http.StatusCreated {
			created++
		}
	}
	if created != 1 {
		h.Errorf("%d were told that they created it", created)
	}
}

// at makes n calls at the same time.
func at(n int, call func(i int) reply) []reply {
	replies := make([]reply, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { replies[i] = call(i) })
	}
	all.Wait()
	return replies
}

func TestTwoHundredOrdersForTheLastTwentyUnits(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 20)
	count := map[string]int{}
	for _, r := range at(200, func(i int) reply { return h.place(fmt.Sprint("order-", i), "A", 1, "Request-Timeout-Ms", "5000") }) {
		count[fmt.Sprint(r.status, " ", r.Code)]++
	}
	// On a slow machine some may be told 202; nobody may be told anything else.
	for i := range 200 {
		h.settled(fmt.Sprint("order-", i))
	}
	placed, short := 0, 0
	for _, r := range at(200, func(i int) reply { return h.place(fmt.Sprint("order-", i), "A", 1) }) {
		switch {
		case r.status == http.StatusOK && r.State == "placed":
			placed++
		case r.status == http.StatusConflict && r.Code == "insufficient-stock":
			short++
		default:
			t.Errorf("got %d %s %v", r.status, r.text, r.err)
		}
	}
	if placed != 20 || short != 180 {
		t.Errorf("%d placed, %d short; the first answers were %v", placed, short, count)
	}
	if count["201 "] > 20 || count["201 "]+count["409 insufficient-stock"]+count["202 "] != 200 {
		t.Errorf("the first answers were %v", count)
	}
	h.audit()
}

func TestWithInventoryGoneOrdersAnswersByTheRulesAndSettlesByItself(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	h.place("one", "A", 1)
	h.place("two", "A", 2)
	h.Inventory.Kill()

	if r := h.post("one", "confirm"); r.status != http.StatusAccepted || r.Intent == nil || r.header.Get("Retry-After") == "" {
		t.Errorf("confirm: %d %s", r.status, r.text)
	}
	if r := h.place("three", "A", 3); r.status != http.StatusAccepted {
		t.Errorf("a place that was recorded: %d %s", r.status, r.text)
	}
	h.wait("the breaker refuses new places", func() bool {
		r := h.place(fmt.Sprint("new-", time.Now().UnixNano()), "A", 1)
		return r.status == http.StatusServiceUnavailable
	})
	if r := h.amend("one", "A", 2); r.status != http.StatusConflict || r.Code != "operation-pending" {
		t.Errorf("amend behind a pending confirm: %d %s", r.status, r.text)
	}
	if r := h.post("two", "cancel"); r.status != http.StatusAccepted {
		t.Errorf("cancel: %d %s", r.status, r.text)
	}
	if r := h.get("one"); r.status != http.StatusOK || r.State != "placed" {
		t.Errorf("get: %d %s", r.status, r.text)
	}
	if r := h.call(h.orders, "GET", h.Orders.URL+"/v1/orders", ""); r.status != http.StatusOK || len(r.Orders) < 3 {
		t.Errorf("list: %d %s", r.status, r.text)
	}
	for _, path := range []string{"/v1/orders/one/reservation", "/v1/availability?sku=A"} {
		if r := h.call(h.orders, "GET", h.Orders.URL+path, ""); r.status != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", path, r.status, r.text)
		}
	}
	h.restart(h.StartInventory)
	for id, want := range map[string]string{"one": "confirmed", "two": "cancelled", "three": "placed"} {
		if r := h.settled(id); r.State != want {
			t.Errorf("%s is %s, want %s", id, r.State, want)
		}
	}
	h.audit()
}

func TestABlockedExchangeHoldsNoTransactionAndNoConnection(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	h.place("one", "A", 1)
	h.place("two", "A", 1)
	h.Inventory.Signal(syscall.SIGSTOP)

	blocked := make(chan reply, 1)
	go func() { blocked <- h.post("one", "confirm", "Request-Timeout-Ms", "5000") }()
	h.wait("the intent is written down", func() bool { r := h.get("one"); return r.Intent != nil })
	// The one connection that writes is free: another order's intent is recorded
	// and answered while the first exchange is still blocked.
	if r := h.post("two", "cancel", "Request-Timeout-Ms", "300"); r.status != http.StatusAccepted {
		t.Errorf("cancel: %d %s", r.status, r.text)
	}
	select {
	case r := <-blocked:
		t.Errorf("the exchange was not blocked: %d %s", r.status, r.text)
	default:
	}
	if r := <-blocked; r.status != http.StatusAccepted {
		t.Errorf("confirm: %d %s", r.status, r.text)
	}
	h.Inventory.Signal(syscall.SIGCONT)
	for id, want := range map[string]string{"one": "confirmed", "two": "cancelled"} {
		if r := h.settled(id); r.State != want {
			t.Errorf("%s is %s, want %s", id, r.State, want)
		}
	}
	h.audit()
}

func TestSIGTERMUnderLoadLosesNothingThatWasAccepted(t *testing.T) {
	t.Parallel()
	for _, victim := range []string{"orders", "inventory"} {
		t.Run(victim, func(t *testing.T) {
			t.Parallel()
			h := startPair(t, product)
			h.stock("A", 1_000_000)
			stop := make(chan struct{})
			var load sync.WaitGroup
			var mu sync.Mutex
			answered, refused := map[string]reply{}, []string{}
			for caller := range 8 {
				load.Go(func() {
					for i := 0; ; i++ {
						select {
						case <-stop:
							return
						default:
						}
						id := fmt.Sprintf("order-%d-%d", caller, i)
						r := h.place(id, "A", 1)
						mu.Lock()
						if r.err != nil {
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
			process, start := h.Orders, h.StartOrders
			if victim == "inventory" {
				process, start = h.Inventory, h.StartInventory
			}
			process.Signal(syscall.SIGTERM)
			if err := process.ExitError(); err != nil {
				t.Errorf("exit: %v\n%s", err, process.Log())
			}
			close(stop)
			load.Wait()
			h.restart(start)
			for id, r := range answered {
				switch {
				case r.status == http.StatusCreated:
					if now := h.get(id); now.State != "placed" {
						t.Errorf("%s was placed and is now %d %s", id, now.status, now.text)
					}
				case r.status == http.StatusAccepted || r.status == http.StatusServiceUnavailable:
					h.settled(id)
				default:
					t.Errorf("%s: %d %s", id, r.status, r.text)
				}
			}
			for _, id := range refused {
				if r := h.get(id); r.status != http.StatusNotFound {
					t.Errorf("%s was refused and is there: %d %s", id, r.status, r.text)
				}
			}
			h.audit()
		})
	}
}

func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	t.Parallel()
	h := startPair(t, product, "--drain-timeout=60s")
	h.stock("A", 10)
	h.Inventory.Signal(syscall.SIGSTOP)
	blocked := make(chan reply, 1)
	go func() { blocked <- h.place("one", "A", 1, "Request-Timeout-Ms", "5000") }()
	h.wait("the intent is written down", func() bool { return h.get("one").Intent != nil })
	h.Orders.Signal(syscall.SIGTERM)
	h.wait("it is not ready", func() bool {
		response, err := http.Get(h.Orders.AdminURL + "/readyz")
		if err != nil {
			return false
		}
		response.Body.Close()
		return response.StatusCode == http.StatusServiceUnavailable
	})
	h.Orders.Signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := h.Orders.ExitError(); !errors.As(err, &exit) || exit.ExitCode() != 128+int(syscall.SIGTERM) {
		t.Errorf("exit: %v", err)
	}
	if r := <-blocked; r.err == nil {
		t.Errorf("it waited for an answer: %d %s", r.status, r.text)
	}
	h.Inventory.Signal(syscall.SIGCONT)
	h.restart(h.StartOrders)
	if r := h.settled("one"); r.State != "placed" {
		t.Errorf("after a restart: %s", r.text)
	}
	h.audit()
}

func TestTheCommandsSayWhatIsTheMatter(t *testing.T) {
	t.Parallel()
	h := startPair(t, product)
	h.stock("A", 10)
	rows := filepath.Join(h.folder, "stock.csv")
	if err := os.WriteFile(rows, []byte("sku,name,location,on_hand\nB,a thing,main,5\nC,,main,-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	admin := strings.TrimPrefix(h.Orders.AdminURL, "http://")
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
		{[]string{"orders", "serve", "--http-addr=" + h.Orders.Addr()}, 2, "address already in use"},
		{[]string{"orders", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--database=sqlite:" + filepath.Join(h.folder, "orders.db")}, 2, "another process has this database open"},
		{[]string{"orders", "audit", "--database=sqlite:" + filepath.Join(h.folder, "none.db")}, 2, "no such file"},
		{[]string{"orders", "audit", "--database=mysql:x"}, 2, "looks like sqlite:PATH"},
		{[]string{"inventory", "import", rows, "--url=" + h.Inventory.URL}, 1, "row 2 (C at main) was rejected"},
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
