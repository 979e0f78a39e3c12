package process

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite" // makes the backup, as the sqlite3 command would

	"roundtrip/contracts/openapi"
	"roundtrip/test/support/containers"
	"roundtrip/test/support/processes"
	"roundtrip/test/support/shop"
)

// databases are those of a pair, and how orders' is backed up and put back, as
// docs/operations.md says.
type databases struct {
	inventory, orders string
	backUp, putBack   func() error
	// shared is that a repair may run beside orders.
	shared bool
}

func sqliteDatabases(t *testing.T) databases {
	folder := t.TempDir()
	path, backup := filepath.Join(folder, "orders.db"), filepath.Join(folder, "orders-backup.db")
	return databases{
		inventory: "sqlite:" + filepath.Join(folder, "inventory.db"), orders: "sqlite:" + path,
		backUp: func() error {
			db, err := sql.Open("sqlite", path)
			if err != nil {
				return err
			}
			_, err = db.ExecContext(t.Context(), "VACUUM INTO ?", backup)
			return errors.Join(err, db.Close())
		},
		putBack: func() error {
			for _, suffix := range []string{"", "-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
			content, err := os.ReadFile(backup)
			if err != nil {
				return err
			}
			return os.WriteFile(path, content, 0o600)
		},
	}
}

func postgresDatabases(t *testing.T) databases {
	server := containers.SharedPostgres(t)
	made := func(service string) (name, address string) {
		name, err := server.NewDatabase(t.Context(), service, migrate(t, product, service))
		if err == nil {
			address, err = server.Address(t.Context(), name)
		}
		if err != nil {
			t.Fatal(err)
		}
		return name, address
	}
	_, inventory := made("inventory")
	name, orders := made("orders")
	inside := func(command string, args ...string) func() error {
		return func() error {
			_, err := server.Run(t.Context(), append([]string{command}, args...)...)
			return err
		}
	}
	return databases{
		inventory: inventory, orders: orders, shared: true,
		backUp: inside("pg_dump", "--format=custom", "--file=/tmp/orders.dump", server.AddressInside(name)),
		putBack: func() error {
			for _, step := range []func() error{
				inside("dropdb", "--maintenance-db="+server.AddressInside("postgres"), name),
				inside("createdb", "--maintenance-db="+server.AddressInside("postgres"), name),
				inside("pg_restore", "--exit-on-error", "--dbname="+server.AddressInside(name), "/tmp/orders.dump"),
			} {
				if err := step(); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// customers are a pair and what its callers were told of each order last.
type customers struct {
	*testing.T
	databases
	inventoryURL, ordersAddr string
	process                  *processes.Process
	client                   *http.Client

	mu   sync.Mutex
	told map[string]string
}

func openShop(t *testing.T, d databases) *customers {
	client := &http.Client{Timeout: 20 * time.Second, Transport: openapi.Orders().Transport(&http.Transport{DisableKeepAlives: true}, func(err error) { t.Error(err) })}
	s := &customers{T: t, databases: d, client: client, ordersAddr: "127.0.0.1:0", told: map[string]string{}}
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

func (s *customers) start(service, addr string, args ...string) *processes.Process {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
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

// startOrders starts orders; what was in flight at a backup is not given up
// before the repair.
func (s *customers) startOrders() {
	s.Helper()
	s.process = s.start("orders", s.ordersAddr, "--database="+s.orders, "--inventory-url="+s.inventoryURL, "--give-up-after=24h")
	s.ordersAddr = s.process.Addr()
}

func (s *customers) stopOrders() {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	if err := s.process.Stop(ctx); err != nil {
		s.Errorf("orders: %v\n%s", err, s.process.Log())
	}
}

// do carries out one operation. What the caller is told is remembered; where it
// is told nothing certain, nothing is known of the order from then on.
func (s *customers) do(id, operation string) int {
	n := len(id) + int(id[len(id)-1]) // some quantity
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

// each lets callers work on n orders.
func (s *customers) each(name string, n int, do func(i int, id string)) {
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

// load lets callers work on new orders until stop is called.
func (s *customers) load(name string) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.each(name, 1<<20, func(i int, id string) {
			if ctx.Err() == nil {
				s.history(i, id)
				time.Sleep(shop.Pace / 10) // leave something to the other tests
			}
		})
	}()
	return func() { cancel(); <-ended }
}

// history is what is done to the i-th order of a load.
func (s *customers) history(i int, id string) {
	for _, operation := range [][]string{
		{"place"}, {"place", "amend"}, {"place", "confirm"}, {"place", "cancel"}, {"place", "amend", "confirm"}, {"place-scarce"},
	}[i%6] {
		s.do(id, operation)
	}
}

// certain counts the orders whose callers were told something certain last.
func (s *customers) certain() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, state := range s.told {
		if state != "" {
			n++
		}
	}
	return n
}

// one is an order of a load that is said to be in a state.
func (s *customers) one(load, state string) string {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, told := range s.told {
		if strings.HasPrefix(id, load+"-") && told == state {
			return id
		}
	}
	s.Fatalf("no order of %s is %s", load, state)
	return ""
}

// insist repeats an operation until it is answered with a status: a machine that
// is busy may first answer that nothing is known.
func (s *customers) insist(id, operation string, want int) {
	s.Helper()
	s.wait(fmt.Sprintf("%s of %s is answered %d", operation, id, want), func() bool {
		status := s.do(id, operation)
		return status == want || status == http.StatusCreated && want == http.StatusOK
	})
}

// wait waits for a condition, for as long as a busy machine may take.
func (s *customers) wait(what string, condition func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 10*time.Minute)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			s.Fatalf("it never came to be that %s\n--- orders\n%s", what, s.process.Log())
		}
	}
}

// settled tells whether nothing is in flight.
func (s *customers) settled() bool {
	unsettled, err := shop.Metric(s.process.AdminURL, "orders_intents_unsettled")
	return err == nil && unsettled == 0
}

// audit runs orders' audit and wants an exit status. One that could not do its
// work because inventory was too busy is run again.
func (s *customers) audit(want int) string {
	s.Helper()
	var out string
	var status int
	s.wait("the audit does its work", func() bool {
		out, status = s.run()
		return status != 2
	})
	if status != want {
		s.Errorf("orders audit: exit %d, want %d\n%s", status, want, tail(out))
	}
	return out
}

// repair runs the repair until nothing remains, and returns all that it said.
func (s *customers) repair() (said string) {
	s.Helper()
	s.wait("all is mended", func() bool {
		out, status := s.run("--repair")
		said += out
		if status != 0 {
			s.Logf("orders audit --repair: exit %d\n%s", status, tail(out))
		}
		return status == 0
	})
	return said
}

func (s *customers) run(args ...string) (string, int) {
	out, err := command(s.T, product, "orders", append([]string{"audit", "--database=" + s.orders, "--inventory-url=" + s.inventoryURL}, args...)...)
	if err == nil {
		return out, 0
	}
	return out, exitCode(err)
}

func tail(out string) string { return out[max(0, len(out)-4000):] }

// keepsItsWord checks that every order is what its callers were told last.
func (s *customers) keepsItsWord() {
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
			s.Errorf("of %s it was said that it is %s, and it is %q", id, told, now[id])
		}
	}
	if out, err := command(s.T, product, "inventory", "audit", "--database="+s.inventory); err != nil {
		s.Errorf("inventory audit: %v\n%s", err, tail(out))
	}
}

// Orders is put back to a backup that thousands of orders have been placed,
// amended, confirmed and cancelled since: the audit tells, the repair mends it,
// and what any caller was told is true again.
func TestOrdersIsPutBackUnderLoad(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) databases{"sqlite": sqliteDatabases, "postgres": postgresDatabases} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openShop(t, open(t))
			const before, since = 200, 1500

			// Orders from before the backup, and some whose backup is made while they
			// are being placed.
			s.each("old", before, func(_ int, id string) { s.insist(id, "place", http.StatusOK) })
			stop := s.load("at-backup")
			s.wait("load flows", func() bool { return s.certain() > before+50 })
			if err := s.backUp(); err != nil {
				t.Fatal(err)
			}
			stop()
			s.each("old", before, func(i int, id string) {
				for _, operation := range [][]string{nil, {"amend"}, {"confirm"}, {"cancel"}, {"amend", "confirm"}}[i%5] {
					s.insist(id, operation, http.StatusOK)
				}
			})
			stop = s.load("lost")
			s.wait("thousands of orders are placed", func() bool { return s.certain() > before+since })
			s.stopOrders()
			stop()
			if err := s.putBack(); err != nil {
				t.Fatal(err)
			}
			s.startOrders()

			said := s.audit(1)
			for _, difference := range []string{
				"old-1: the order's seq is 1, the reservation's is ", "old-2: the order is placed, the reservation is committed",
				"old-3: the order is placed, the reservation is released",
				s.one("lost", "placed") + ": inventory has a reservation, and there is no such order",
				s.one("lost", "rejected") + ": inventory has a reservation, and there is no such order",
			} {
				if !strings.Contains(said, difference) {
					t.Errorf("the audit does not say %q\n%s", difference, tail(said))
				}
			}
			// An operation under a seq that inventory has used for another can't settle.
			for i := 2; i < before; i += 50 {
				id := fmt.Sprint("old-", i)
				s.insist(id, "cancel", http.StatusAccepted)
				s.told[id] = "confirmed"
			}

			stop = func() {}
			if s.shared {
				stop = s.load("during")
			} else {
				if said, status := s.run("--repair"); status != 2 || !strings.Contains(said, "another process has this database open") {
					t.Errorf("beside orders: exit %d, %s", status, said)
				}
				s.stopOrders()
			}
			repaired := s.repair()
			stop()
			for line := range strings.Lines(said) {
				id, _, difference := strings.Cut(line, ": ")
				if difference && !strings.Contains("\n"+repaired, "\n"+id+": ") && id != "orders" {
					t.Errorf("of %s the repair says nothing", id)
				}
			}
			if !s.shared {
				s.startOrders()
			}
			s.wait("all is settled", s.settled)
			if said := s.audit(0); !strings.Contains(said, "0 orders are not settled yet\norders and reservations agree\n") {
				t.Errorf("after the repair: %s", tail(said))
			}
			s.keepsItsWord()

			// Twice is harmless, and everything goes on.
			if !s.shared {
				s.stopOrders()
			}
			if said := s.repair(); !strings.Contains(said, "orders and reservations agree\n") || strings.Contains(said, "mended") {
				t.Errorf("a second repair: %s", tail(said))
			}
			if !s.shared {
				s.startOrders()
			}
			s.each("after", 60, s.history)
			for _, operation := range []string{"amend", "confirm", "cancel"} {
				s.insist(s.one("lost", "placed"), operation, http.StatusOK)
			}
			s.insist(s.one("lost", "confirmed"), "cancel", http.StatusOK)
			s.insist("old-2", "cancel", http.StatusOK)
			s.insist("old-5", "confirm", http.StatusOK)
			s.wait("all is settled", s.settled)
			s.audit(0)
			s.keepsItsWord()
			s.stopOrders()
		})
	}
}

// A wrong path is an error, and not an empty database that lacks every order.
func TestARepairMakesNoDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "orders.db")
	out, err := command(t, product, "orders", "audit", "--repair", "--database=sqlite:"+path)
	if _, missing := os.Stat(path); exitCode(err) != 2 || !strings.Contains(out, "no such file") || missing == nil {
		t.Errorf("exit %v, %v: %s", err, missing, out)
	}
}
