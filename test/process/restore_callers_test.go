package process

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/caller"
	"roundtrip/test/support/processes"
	"roundtrip/test/support/wait"
)

// callers has both services, and for each order the last state that its caller got
// in a response.
type callers struct {
	*testing.T
	databases
	inventoryURL, ordersAddr string
	process                  *processes.Process
	client                   *http.Client

	mu   sync.Mutex
	told map[string]string
}

func startCallers(t *testing.T, d databases) *callers {
	client := &http.Client{Timeout: 20 * time.Second, Transport: openapi.Orders().Transport(&http.Transport{DisableKeepAlives: true}, func(err error) { t.Error(err) })}
	s := &callers{T: t, databases: d, client: client, ordersAddr: "127.0.0.1:0", told: map[string]string{}}
	s.inventoryURL = s.start("inventory", "127.0.0.1:0", "--database="+d.inventory).URL
	s.startOrders()

	stock := filepath.Join(t.TempDir(), "stock.csv")
	rows := "sku,name,location,on_hand\nscarce,,main,5\n"
	for i := range 50 {
		rows += fmt.Sprintf("sku-%d,,main,1000000\n", i)
	}
	if err := os.WriteFile(stock, []byte(rows), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := command(t, product, "inventory", "import", stock, "--url="+s.inventoryURL); err != nil {
		t.Fatal(out)
	}
	return s
}

func (s *callers) start(service, addr string, args ...string) *processes.Process {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	p, err := processes.Start(ctx, processes.Options{
		Binary: filepath.Join(product, service), Args: append([]string{"--http-addr=" + addr, "--admin-addr=127.0.0.1:0"}, args...),
	})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(p.Kill)
	return p
}

// startOrders starts orders so that it gives up no intent before the repair.
func (s *callers) startOrders() {
	s.Helper()
	s.process = s.start("orders", s.ordersAddr, "--database="+s.orders, "--inventory-url="+s.inventoryURL, "--give-up-after=24h")
	s.ordersAddr = s.process.Addr()
}

func (s *callers) stopOrders() {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), limit)
	defer cancel()
	if err := s.process.Stop(ctx); err != nil {
		s.Errorf("orders: %v\n%s", err, s.process.Log())
	}
}

// do sends one operation and records the state in the response. If the outcome is
// unknown, the order's state counts as unknown from then on.
func (s *callers) do(id, operation string) int {
	n := len(id) + int(id[len(id)-1]) // any quantity
	lines := fmt.Sprintf(`"lines":[{"sku":"sku-%d","quantity":%d,"unit_price":100},{"sku":"sku-7","quantity":2,"unit_price":50}]`, n%50, n)
	method, path, body := "POST", "/"+operation, ""
	switch operation {
	case "place":
		method, path, body = "PUT", "", `{"customer":"c","currency":"GBP","hold_seconds":86400,`+lines+`}`
	case "place-scarce":
		method, path, body = "PUT", "", `{"customer":"c","currency":"GBP","lines":[{"sku":"scarce","quantity":6,"unit_price":1}]}`
	case "amend":
		method, path, body = "PUT", "/lines", `{`+strings.Replace(lines, `"quantity":2`, `"quantity":3`, 1)+`}`
	}
	status, state := 0, ""
	request, err := http.NewRequestWithContext(s.Context(), method, "http://"+s.ordersAddr+"/v1/orders/"+id+path, strings.NewReader(body))
	if err != nil {
		s.Error(err)
		return 0
	}
	request.Header.Set("Request-Timeout-Ms", "5000")
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	if response, err := s.client.Do(request); err == nil {
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		var o struct{ State, Code string }
		if err == nil && json.Unmarshal(text, &o) == nil {
			status = response.StatusCode
			switch {
			case status == http.StatusOK || status == http.StatusCreated:
				state = o.State
			case o.Code == "insufficient-stock":
				state = "rejected"
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told[id] = state
	return status
}

// each calls do for n orders from several callers.
func (s *callers) each(name string, n int, do func(i int, id string)) {
	const callers = 8
	var working sync.WaitGroup
	for caller := range callers {
		working.Go(func() {
			for i := caller; i < n; i += callers {
				do(i, fmt.Sprintf("%s-%d", name, i))
			}
		})
	}
	working.Wait()
}

// load sends operations on new orders until stop is called.
func (s *callers) load(name string) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.each(name, 1<<20, func(i int, id string) {
			if ctx.Err() == nil {
				s.history(i, id)
				time.Sleep(caller.Pace / 10) // leave time for other tests
			}
		})
	}()
	return func() { cancel(); <-ended }
}

// history sends the operations of the i-th order of a load.
func (s *callers) history(i int, id string) {
	for _, operation := range [][]string{
		{"place"}, {"place", "amend"}, {"place", "confirm"}, {"place", "cancel"}, {"place", "amend", "confirm"}, {"place-scarce"},
	}[i%6] {
		s.do(id, operation)
	}
}

// known counts the orders whose state is known.
func (s *callers) known() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.told {
		if state != "" {
			n++
		}
	}
	return n
}

// one returns the id of an order of a load that is in a state.
func (s *callers) one(load, state string) string {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, told := range s.told {
		if strings.HasPrefix(id, load+"-") && told == state {
			return id
		}
	}
	s.Fatalf("no order of load %s is %s", load, state)
	return ""
}

// doUntil repeats an operation until it gets a status. On a busy machine the outcome
// may be unknown at first.
func (s *callers) doUntil(id, operation string, want int) {
	s.Helper()
	s.wait(fmt.Sprintf("%s of %s gets %d", operation, id, want), func() bool {
		status := s.do(id, operation)
		return status == want || status == http.StatusCreated && want == http.StatusOK
	})
}

// wait waits for a condition.
func (s *callers) wait(what string, condition func() bool) {
	s.Helper()
	wait.Until(s, 10*time.Minute, what, func() string { return "\n--- orders\n" + s.process.Log() }, condition)
}

// settled says whether all intents are settled.
func (s *callers) settled() bool {
	unsettled, err := caller.Metric(s.Context(), s.process.AdminURL, "orders_intents_unsettled")
	return err == nil && unsettled == 0
}

// audit runs orders audit, which must exit with a status. It retries an audit that
// failed because inventory was busy.
func (s *callers) audit(want int) string {
	s.Helper()
	var out string
	var status int
	s.wait("the audit completes", func() bool {
		out, status = s.run()
		return status != 2
	})
	if status != want {
		s.Errorf("orders audit: exit %d, want %d\n%s", status, want, tail(out))
	}
	return out
}

// repair runs the repair until no difference is left, and returns its output.
func (s *callers) repair() (said string) {
	s.Helper()
	s.wait("all differences are repaired", func() bool {
		out, status := s.run("--repair")
		said += out
		if status != 0 {
			s.Logf("orders audit --repair: exit %d\n%s", status, tail(out))
		}
		return status == 0
	})
	return said
}

func (s *callers) run(args ...string) (string, int) {
	out, err := command(s.T, product, "orders", append([]string{"audit", "--database=" + s.orders, "--inventory-url=" + s.inventoryURL}, args...)...)
	if err == nil {
		return out, 0
	}
	return out, exitCode(err)
}

func tail(out string) string { return out[max(0, len(out)-4000):] }

// checkStates checks that every order has the last state that its caller got.
func (s *callers) checkStates() {
	s.Helper()
	now := map[string]string{}
	for cursor := ""; ; {
		response, err := s.client.Get("http://" + s.ordersAddr + "/v1/orders?limit=200" + cursor)
		if err != nil {
			s.Fatal(err)
		}
		var page struct {
			Orders []struct{ ID, State string }
			Next   string `json:"next_cursor"`
		}
		err = json.NewDecoder(response.Body).Decode(&page)
		response.Body.Close()
		if err != nil {
			s.Fatal(err)
		}
		for _, o := range page.Orders {
			now[o.ID] = o.State
		}
		if page.Next == "" {
			break
		}
		cursor = "&cursor=" + page.Next
	}
	for id, told := range s.told {
		if told != "" && now[id] != told {
			s.Errorf("%s: the caller was told %s, now it is %q", id, told, now[id])
		}
	}
	if out, err := command(s.T, product, "inventory", "audit", "--database="+s.inventory); err != nil {
		s.Errorf("inventory audit: %v\n%s", err, tail(out))
	}
}
