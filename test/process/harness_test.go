// Package process tests the pair as the processes that it is shipped as: killed
// with -9 at every step and at random, stopped under load, paused, and left
// alone by its other half or by its database. On SQLite each service is one
// process; on PostgreSQL, which needs an engine for containers, it is two.
package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/test/containers"
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
	return containers.Main(m)
}

// patience is how long a test waits for what must happen, on a machine however
// busy. Nothing is judged by it but that it happens.
const patience = 3 * time.Minute

// store is where a pair keeps its data, and how many processes share it.
type store struct {
	name     string
	replicas int
	// database makes the database of a service whose binary is in a folder, and
	// returns the flag that names it.
	database func(t *testing.T, bin, folder, service string) string
}

var sqlite = store{"sqlite", 1, func(_ *testing.T, _, folder, service string) string {
	return "--database=sqlite:" + filepath.Join(folder, service+".db")
}}

// postgres takes the server that all tests share.
var postgres = store{"postgres", 2, func(t *testing.T, bin, folder, service string) string {
	return postgresDatabase(t, containers.SharedPostgres(t), bin, folder, service)
}}

func postgresDatabase(t *testing.T, server *containers.Postgres, bin, folder, service string) string {
	return addressFile(t, folder, service, server.Database(t, service, migrate(t, bin, service)))
}

// onBothStores runs a test on SQLite and on PostgreSQL.
func onBothStores(t *testing.T, test func(t *testing.T, on store)) {
	t.Parallel()
	for _, on := range []store{sqlite, postgres} {
		t.Run(on.name, func(t *testing.T) {
			t.Parallel()
			test(t, on)
		})
	}
}

// migrate brings a database to a service's schema, by the service's own command.
func migrate(t *testing.T, bin, service string) func(address string) error {
	return func(address string) error {
		out, err := command(t, bin, service, "migrate", "up", "--database="+address)
		if err != nil {
			return fmt.Errorf("%s migrate up: %w\n%s", service, err, out)
		}
		return nil
	}
}

// command runs one of a service's commands and returns all that it wrote.
func command(t *testing.T, bin, service string, args ...string) (string, error) {
	out, err := exec.CommandContext(t.Context(), filepath.Join(bin, service), args...).CombinedOutput()
	return string(out), err
}

// addressFile writes a database's address to where its service reads it, in one
// step, and returns the flag that says so.
func addressFile(t *testing.T, folder, service, address string) string {
	t.Helper()
	path := addressPath(folder, service)
	if err := errors.Join(os.WriteFile(path+".new", []byte(address), 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
	return "--database-file=" + path
}

func addressPath(folder, service string) string { return filepath.Join(folder, service+".address") }

// harness is a pair, with as many replicas of each service as its store has.
type harness struct {
	*testing.T
	bin, folder       string
	orders, inventory *service
}

// service is all replicas of one, seen from outside.
type service struct {
	name, database string
	// url is where a request reaches one of them.
	url      string
	replicas []*pair.Process
	// front is nil where there is one replica, which is reached directly.
	front  *front
	client *http.Client
}

// startPair starts both services and stops them when the test ends.
func startPair(t *testing.T, on store, bin string, ordersArgs ...string) *harness {
	t.Helper()
	h := &harness{T: t, bin: bin, folder: t.TempDir()}
	h.inventory = h.start(on, "inventory", openapi.Inventory())
	h.orders = h.start(on, "orders", openapi.Orders(), append([]string{"--inventory-url=" + h.inventory.url}, ordersArgs...)...)
	return h
}

func (h *harness) start(on store, name string, contract *openapi.Document, args ...string) *service {
	h.Helper()
	s := &service{name: name, database: on.database(h.T, h.bin, h.folder, name), client: client(h.T, contract)}
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	h.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(h.Context()), patience)
		defer cancel()
		for _, p := range s.replicas {
			if err := p.Stop(ctx); err != nil {
				h.Errorf("%s: %v\n%s", name, err, p.Log())
			}
		}
	})
	for range on.replicas {
		p, err := pair.Start(ctx, pair.Options{
			// What is in flight may take its time on a busy machine.
			Binary: filepath.Join(h.bin, name), Args: append([]string{s.database, "--drain-timeout=60s"}, args...), Env: []string{"FAILPOINTS=" + h.folder},
		})
		if err != nil {
			h.Fatal(err)
		}
		s.replicas = append(s.replicas, p)
	}
	s.url = s.replicas[0].URL
	if on.replicas > 1 {
		s.front = &front{}
		for _, p := range s.replicas {
			s.front.replicas = append(s.front.replicas, p.Addr())
		}
		s.front.open(h.T)
		h.Cleanup(s.front.close)
		s.url = "http://" + s.front.address
	}
	return s
}

// kill kills every replica: nobody listens any more.
func (s *service) kill() {
	for _, p := range s.replicas {
		p.Kill()
	}
	if s.front != nil {
		s.front.close()
	}
}

func (s *service) signal(signal os.Signal) {
	for _, p := range s.replicas {
		p.Signal(signal)
	}
}

// restart starts the replicas that have ended again, where they were.
func (h *harness) restart(s *service) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	for i, p := range s.replicas {
		if !ended(p) {
			continue
		}
		again, err := p.Again(ctx)
		if err != nil {
			h.Fatal(err)
		}
		s.replicas[i] = again
	}
	if s.front != nil {
		s.front.open(h.T)
	}
}

func ended(p *pair.Process) bool {
	select {
	case <-p.Exited():
		return true
	default:
		return false
	}
}

// front passes connections on to a service's replicas in turn, and past one that
// refuses them, as a Kubernetes Service does.
type front struct {
	replicas []string
	// address is where it was opened first.
	address  string
	listener net.Listener
}

// open does nothing where it is open.
func (f *front) open(t *testing.T) {
	t.Helper()
	if f.listener != nil {
		return
	}
	at := f.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	f.listener, f.address = listener, listener.Addr().String()
	go func() {
		for turn := 0; ; turn = (turn + 1) % len(f.replicas) {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(from, append(f.replicas[turn:len(f.replicas):len(f.replicas)], f.replicas[:turn]...))
		}
	}()
}

func (f *front) close() {
	if f.listener != nil {
		f.listener.Close()
		f.listener = nil
	}
}

// pass joins a connection with the first replica that takes it, until either
// side ends it.
func pass(from net.Conn, replicas []string) {
	defer from.Close()
	for _, replica := range replicas {
		to, err := net.Dial("tcp", replica)
		if err != nil {
			continue
		}
		defer to.Close()
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(from, to)
		return
	}
}

// client checks every response, and every request that was accepted, against
// the contract.
func client(t *testing.T, contract *openapi.Document) *http.Client {
	// A connection for each request: one that is kept could be closed by a
	// service that stops at the very moment when the next request goes out. It
	// also takes each request to the next replica.
	transport := &http.Transport{DisableKeepAlives: true}
	return &http.Client{Timeout: 20 * time.Second, Transport: contract.Transport(transport, func(err error) { t.Error(err) })}
}

type reply struct {
	status int
	header http.Header
	text   string
	err    error

	ID       string
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
	Orders []struct {
		ID, State string
		Lines     []struct{ Quantity int64 }
	}
	NextCursor string `json:"next_cursor"`
}

func (h *harness) call(s *service, method, path, body string, headers ...string) (r reply) {
	request, err := http.NewRequestWithContext(h.Context(), method, s.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		return reply{err: err}
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	// The most that there is: a test is not about how fast the machine is.
	request.Header.Set("Request-Timeout-Ms", "5000")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := s.client.Do(request)
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
	body := fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand)
	h.wait("there is stock of "+sku, func() bool {
		return h.call(h.inventory, "PUT", "/v1/adjustments/first-"+sku, body).status == http.StatusOK
	})
}

func lines(sku string, quantity int) string {
	return fmt.Sprintf(`"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]`, sku, quantity)
}

func (h *harness) place(id, sku string, quantity int, headers ...string) reply {
	return h.call(h.orders, "PUT", "/v1/orders/"+id, `{"customer":"c","currency":"GBP",`+lines(sku, quantity)+`}`, headers...)
}

// placed places an order, however often that has to be tried.
func (h *harness) placed(id, sku string, quantity int) {
	h.Helper()
	h.wait(id+" is placed", func() bool { return done(h.place(id, sku, quantity)) })
}

func done(r reply) bool { return r.status == http.StatusOK || r.status == http.StatusCreated }

func (h *harness) amend(id, sku string, quantity int) reply {
	return h.call(h.orders, "PUT", "/v1/orders/"+id+"/lines", `{`+lines(sku, quantity)+`}`)
}

func (h *harness) post(id, operation string, headers ...string) reply {
	return h.call(h.orders, "POST", "/v1/orders/"+id+"/"+operation, "", headers...)
}

func (h *harness) get(id string) reply {
	return h.call(h.orders, "GET", "/v1/orders/"+id, "")
}

func (h *harness) level(sku string) (onHand, reserved int64) {
	h.Helper()
	r := h.call(h.inventory, "GET", "/v1/stock/"+sku, "")
	if len(r.Levels) != 1 {
		h.Fatalf("level of %s: %+v", sku, r)
	}
	return r.Levels[0].OnHand, r.Levels[0].Reserved
}

// wait waits for a condition.
func (h *harness) wait(what string, condition func() bool) {
	h.Helper()
	h.within(patience, what, condition)
}

func (h *harness) within(patience time.Duration, what string, condition func() bool) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), patience)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			h.Fatalf("it never came to be that %s%s", what, h.logs())
		}
	}
}

// logs is what every replica wrote.
func (h *harness) logs() string {
	var all strings.Builder
	for _, s := range []*service{h.orders, h.inventory} {
		if s == nil { // it was not started
			continue
		}
		for _, p := range s.replicas {
			fmt.Fprintf(&all, "\n--- %s %d\n%s", s.name, p.PID(), p.Log())
		}
	}
	return all.String()
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

// metric adds up a replica's metric over the label sets that hold every label;
// false where there is none.
func (h *harness) metric(p *pair.Process, name string, labels ...string) (sum float64, ok bool) {
	response, err := http.Get(p.AdminURL + "/metrics")
	if err != nil {
		return 0, false
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if series != name && !strings.HasPrefix(series, name+"{") ||
			slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(series, l) }) {
			continue
		}
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			h.Errorf("%s: %v", lines.Text(), err)
		}
		sum, ok = sum+n, true
	}
	return sum, ok
}

// audit runs both services' own audits; every difference fails the test.
func (h *harness) audit() {
	h.Helper()
	for _, audit := range [][]string{
		{"inventory", "audit", h.inventory.database},
		{"orders", "audit", h.orders.database, "--inventory-url=" + h.inventory.url},
	} {
		var out string
		var err error
		h.wait(audit[0]+" can be audited", func() bool {
			out, err = command(h.T, h.bin, audit[0], audit[1:]...)
			return err == nil || exitCode(err) == 1
		})
		if err != nil {
			h.Errorf("%s audit: %v\n%s", audit[0], err, out)
		}
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
