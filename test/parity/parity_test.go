// Package parity holds the wires against each other: whatever inventory answers,
// orders sees the same on each of them.
package parity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

var wires = []string{"http", "grpc", "nats"}

// stage is an inventory on all its wires, and orders' side of each.
type stage struct {
	url   string
	wires map[string]orders.Wire
	// around, where it is set, is what handlers are surrounded with.
	around atomic.Pointer[func(operation string, handle func() error) error]
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startBroker starts a NATS server; port is -1 for any.
func startBroker(t *testing.T, port int) *server.Server {
	t.Helper()
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true, MaxPayload: 8 << 20})
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(func() { stopBroker(broker) })
	if !broker.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server does not answer")
	}
	return broker
}

func stopBroker(broker *server.Server) {
	broker.Shutdown()
	broker.WaitForShutdown()
}

// listeners are where an inventory listens.
type listeners struct{ http, grpc net.Listener }

// startInventory starts an inventory on all its wires.
func startInventory(t *testing.T, broker string, maxInFlight int, around func(string, func() error) error) (_ *inventory.App, grpc string) {
	t.Helper()
	at := listeners{listen(t), listen(t)}
	a := startInventoryAt(t, at, inventory.Options{NATSURL: broker, MaxInFlight: maxInFlight, Around: around, Logger: slog.New(slog.DiscardHandler)})
	return a, "dns:///" + at.grpc.Addr().String()
}

// startInventoryAt starts an inventory, with an empty database, where it is told
// to listen.
func startInventoryAt(t *testing.T, at listeners, o inventory.Options) *inventory.App {
	t.Helper()
	o.HTTP, o.GRPC, o.Admin = at.http, at.grpc, listen(t)
	o.Database = database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "inventory.db"))
	a, err := inventory.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	run(t, a)
	return a
}

// run starts an app, and stops it when the test ends.
func run(t *testing.T, a interface {
	Start(context.Context) error
	Stop(context.Context) error
},
) {
	t.Helper()
	t.Cleanup(func() {
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// newWire makes orders' side of a wire.
func newWire(t *testing.T, o orders.Options) orders.Wire {
	t.Helper()
	o.MaxInFlight, o.Logger = 64, slog.New(slog.DiscardHandler)
	w, err := orders.NewWire(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// newClient is what orders' own callers ask through: with repeats, their budget
// and the breaker.
func newClient(w orders.Wire) orders.Client {
	return orders.NewClient(w, exchange.NewCaller(exchange.Options{MaxInFlight: 64}))
}

// start starts a NATS server, an inventory, and orders' side of its wires.
func start(t *testing.T, maxInFlight int) *stage {
	t.Helper()
	s := &stage{wires: map[string]orders.Wire{}}
	broker := startBroker(t, server.RANDOM_PORT).ClientURL()
	tap(t, broker)
	a, grpc := startInventory(t, broker, maxInFlight, func(operation string, handle func() error) error {
		if around := s.around.Load(); around != nil {
			return (*around)(operation, handle)
		}
		return handle()
	})
	s.url = "http://" + a.Addr().String()
	for wire, url := range map[string]string{"http": s.url, "grpc": grpc, "nats": broker} {
		s.wires[wire] = newWire(t, orders.Options{InventoryWire: wire, InventoryURL: url})
	}
	connected(t, s.wires["nats"])
	return s
}

// connected waits until NATS has both sides. Until then nobody answers there, and
// where a [tap] takes the requests, nobody says so either.
func connected(t *testing.T, w orders.Wire) {
	t.Helper()
	whole := deadline(t)
	for {
		ctx, cancel := context.WithTimeout(whole, time.Second)
		_, err := w.GetReservation(ctx, 1, "nobody")
		cancel()
		if problem.CodeOf(err) == problem.NotFound {
			return
		}
		select {
		case <-whole.Done():
			t.Fatal(err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// row is one answer of inventory's. Its setup and its question have names of
// their own on each wire, so that the wires do not meet.
type row struct {
	operation, name string
	want            problem.Code
	// setup runs over REST, before.
	setup func(t *testing.T, s *stage, id string)
	ask   func(ctx context.Context, w orders.Wire, id string) (any, error)
	// around surrounds the handler meanwhile.
	around func(operation string, handle func() error) error
	// texts tells that the detail is each wire's own.
	texts bool
}

func put(seq int64, state string, lines ...orders.Demand) func(context.Context, orders.Wire, string) (any, error) {
	return func(ctx context.Context, w orders.Wire, id string) (any, error) {
		r := orders.Request{ID: id, Seq: seq, State: orders.ReservationState(state)}
		if state == "held" {
			r.HoldSeconds = 900
		}
		for _, l := range lines {
			l.SKU = id + l.SKU
			r.Lines = append(r.Lines, l)
		}
		return w.PutReservation(ctx, 1, r)
	}
}

func get(ctx context.Context, w orders.Wire, id string) (any, error) {
	return w.GetReservation(ctx, 1, id)
}

func stock(skus ...string) func(context.Context, orders.Wire, string) (any, error) {
	return func(ctx context.Context, w orders.Wire, id string) (any, error) {
		named := make([]string, len(skus))
		for i, sku := range skus {
			named[i] = id + sku
		}
		return w.GetStock(ctx, 1, named)
	}
}

func line(sku string, quantity int64) orders.Demand {
	return orders.Demand{SKU: sku, Location: "main", Quantity: quantity}
}

// does runs setups one after the other.
func does(steps ...func(*testing.T, *stage, string)) func(*testing.T, *stage, string) {
	return func(t *testing.T, s *stage, id string) {
		t.Helper()
		for _, step := range steps {
			step(t, s, id)
		}
	}
}

// has puts stock there.
func has(sku string, onHand int) func(*testing.T, *stage, string) {
	return func(t *testing.T, s *stage, id string) {
		t.Helper()
		s.rest(t, "/v1/adjustments/"+id+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %d, "reason": "counted"}`, id+sku, onHand), 200)
	}
}

// asked makes a request over REST.
func asked(status int, body string) func(*testing.T, *stage, string) {
	return func(t *testing.T, s *stage, id string) {
		t.Helper()
		s.rest(t, "/v1/reservations/"+id, strings.ReplaceAll(body, "ID", id), status)
	}
}

const (
	holdOne   = `{"seq": 1, "state": "held", "hold_seconds": 900, "lines": [{"sku": "ID-a", "location": "main", "quantity": 6}]}`
	commit    = `{"seq": 2, "state": "committed"}`
	release   = `{"seq": 2, "state": "released"}`
	briefHold = `{"seq": 1, "state": "held", "hold_seconds": 1, "lines": [{"sku": "ID-a", "quantity": 6}]}`
)

// held is a reservation of 6 of 10.
var held = does(has("-a", 10), asked(200, holdOne))

// expired is one whose time has passed.
var expired = does(has("-a", 10), asked(200, briefHold), func(t *testing.T, s *stage, id string) {
	t.Helper()
	ctx := deadline(t)
	for {
		r, err := s.wires["http"].GetReservation(ctx, 1, id)
		if err != nil {
			t.Fatal(err)
		}
		if r.State == "expired" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal("it does not expire")
		case <-time.After(20 * time.Millisecond):
		}
	}
})

func (s *stage) rest(t *testing.T, path, body string, want int) {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), http.MethodPut, s.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		t.Fatalf("PUT %s %s: %s %s, %v", path, body, response.Status, answer, err)
	}
}

func fails(with error) func(string, func() error) error {
	return func(string, func() error) error { return with }
}

func panics(string, func() error) error { panic("hunter2") }

func many(n int) []orders.Demand {
	lines := make([]orders.Demand, n)
	for i := range lines {
		lines[i] = line(fmt.Sprintf("-%048d", i), 1)
	}
	return lines
}

func rows() []row {
	hold := put(1, "held", line("-a", 6))
	all := []row{
		{operation: "PutReservation", name: "held", setup: has("-a", 10), ask: hold},
		{operation: "PutReservation", name: "held, two lines as one", setup: has("-a", 10), ask: put(1, "held", line("-a", 4), line("-a", 2))},
		{operation: "PutReservation", name: "repeated", setup: held, ask: hold},
		{operation: "PutReservation", name: "repeated after it expired", setup: expired, ask: func(ctx context.Context, w orders.Wire, id string) (any, error) {
			return w.PutReservation(ctx, 1, orders.Request{ID: id, Seq: 1, State: "held", HoldSeconds: 1, Lines: []orders.Demand{line(id+"-a", 6)}})
		}},
		{operation: "PutReservation", name: "amended", setup: held, ask: put(2, "held", line("-a", 9))},
		{operation: "PutReservation", name: "committed", setup: held, ask: put(2, "committed")},
		{operation: "PutReservation", name: "released", setup: held, ask: put(2, "released")},
		{operation: "PutReservation", name: "a tombstone", ask: put(1, "released")},
		{operation: "PutReservation", name: "stale", setup: does(held, asked(200, commit)), ask: hold, want: problem.StaleSeq},
		{operation: "PutReservation", name: "reused", setup: held, ask: put(1, "held", line("-a", 5)), want: problem.SeqReused},
		{operation: "PutReservation", name: "short of one", setup: has("-a", 5), ask: hold, want: problem.InsufficientStock},
		{operation: "PutReservation", name: "short of all", setup: has("-a", 5), ask: put(1, "held", line("-a", 6), line("-b", 1), line("-c", 1_000_000)), want: problem.InsufficientStock},
		{operation: "PutReservation", name: "short again", setup: does(has("-a", 5), asked(409, holdOne), has("-a2", 1)), ask: hold, want: problem.InsufficientStock},
		{operation: "PutReservation", name: "amended beyond", setup: held, ask: put(2, "held", line("-a", 11)), want: problem.InsufficientStock},
		{operation: "PutReservation", name: "expired", setup: expired, ask: put(2, "committed"), want: problem.ReservationExpired},
		{operation: "PutReservation", name: "held after it expired", setup: expired, ask: put(2, "held", line("-a", 1)), want: problem.ReservationExpired},
		{operation: "PutReservation", name: "committed without a hold", ask: put(1, "committed"), want: problem.WrongState},
		{operation: "PutReservation", name: "held after it was committed", setup: does(held, asked(200, commit)), ask: put(3, "held", line("-a", 1)), want: problem.WrongState},
		{operation: "PutReservation", name: "committed after it was released", setup: does(held, asked(200, release)), ask: put(3, "committed"), want: problem.WrongState},
		{operation: "PutReservation", name: "fields", ask: put(0, "held", line("-!", 1), line("-b", 0), line(strings.Repeat("x", 65), 1_000_001)), want: problem.Invalid},
		{operation: "PutReservation", name: "lines in vain", setup: held, ask: put(2, "committed", line("-a", 1)), want: problem.Invalid},
		{operation: "PutReservation", name: "another state", ask: put(1, "none"), want: problem.Invalid},
		{operation: "PutReservation", name: "an id that is none", ask: func(ctx context.Context, w orders.Wire, id string) (any, error) {
			return w.PutReservation(ctx, 1, orders.Request{ID: id + "!", Seq: 1, State: "released"})
		}, want: problem.Invalid},
		{operation: "PutReservation", name: "too many lines", ask: put(1, "held", many(2001)...), want: problem.Invalid},
		{operation: "PutReservation", name: "too large", ask: put(1, "held", many(20_000)...), want: problem.TooLarge, texts: true},

		{operation: "GetReservation", name: "held", setup: held, ask: get},
		{operation: "GetReservation", name: "expired", setup: expired, ask: get},
		{operation: "GetReservation", name: "committed", setup: does(held, asked(200, commit)), ask: get},
		{operation: "GetReservation", name: "released", setup: does(held, asked(200, release)), ask: get},
		{operation: "GetReservation", name: "rejected", setup: asked(409, holdOne), ask: get},
		{operation: "GetReservation", name: "none", ask: get, want: problem.NotFound},
		{operation: "GetReservation", name: "an id that is none", ask: func(ctx context.Context, w orders.Wire, id string) (any, error) {
			return w.GetReservation(ctx, 1, id+"!")
		}, want: problem.Invalid},

		{operation: "GetStock", name: "levels", setup: does(has("-a", 10), has("-b", 0)), ask: stock("-b", "-a", "-unknown")},
		{operation: "GetStock", name: "none of them", ask: stock("-unknown")},
		{operation: "GetStock", name: "names", ask: stock("-!"), want: problem.Invalid},
		{operation: "GetStock", name: "too many", ask: stock(slices.Repeat([]string{"-a"}, 101)...), want: problem.Invalid},
	}
	asks := map[string]func(context.Context, orders.Wire, string) (any, error){"PutReservation": hold, "GetReservation": get, "GetStock": stock("-a")}
	for operation, ask := range asks {
		all = append(all,
			row{operation: operation, name: "the deadline passes", ask: ask, around: fails(context.DeadlineExceeded), want: problem.DeadlineExceeded},
			row{operation: operation, name: "the store is away", ask: ask, want: problem.Unavailable,
				around: fails(problem.Wrap(errors.New("hunter2"), problem.Unavailable, "The database can't be used at the moment."))},
			row{operation: operation, name: "away for a known time", ask: ask, want: problem.Unavailable,
				around: fails(&problem.Problem{Code: problem.Unavailable, RetryAfter: 3 * time.Second})},
			row{operation: operation, name: "a panic", ask: ask, around: panics, want: problem.Internal},
			row{operation: operation, name: "an error of nobody's", ask: ask, around: fails(errors.New("hunter2")), want: problem.Internal},
			row{operation: operation, name: "a code of tomorrow", ask: ask, around: fails(problem.New("tomorrow", "What is to come.")), want: "tomorrow"},
		)
	}
	return all
}

// seen is what orders sees of an answer, without what differs by design: names,
// times, and where a wire keeps an id or the SKUs of a request.
func seen(id string, value any, err error, texts bool) string {
	p := struct {
		Value     any
		Code      problem.Code
		Detail    string
		Retry     string
		Errors    []problem.FieldError
		Shortages []problem.Shortage
		Current   *problem.Current
	}{Value: value}
	if err != nil {
		answer := problem.From(err)
		wait, again := answer.Wait()
		p.Value, p.Code, p.Detail, p.Retry = nil, answer.Code, answer.Detail, fmt.Sprint(again, " after ", wait)
		if texts {
			p.Detail = ""
		}
		p.Errors, p.Shortages, p.Current = slices.Clone(answer.Errors), answer.Shortages, answer.Current
		for i, e := range p.Errors {
			p.Errors[i].Pointer = inBody.ReplaceAllString(e.Pointer, "/$1")
			if strings.HasPrefix(p.Errors[i].Pointer, "/sku") {
				p.Errors[i] = problem.FieldError{Pointer: "/skus"}
			}
		}
	}
	out, jsonErr := json.MarshalIndent(p, "", "  ")
	if jsonErr != nil {
		panic(jsonErr)
	}
	text := strings.ReplaceAll(string(out), id, "ID")
	return when.ReplaceAllString(text, "TIME")
}

var (
	inBody = regexp.MustCompile(`^(?:path|query):(\w+)$`)
	when   = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)
)

func TestOrdersSeesTheSameOnEveryWire(t *testing.T) {
	t.Parallel()
	s := start(t, 64)
	table := new(bytes.Buffer)
	differences := 0
	for i, r := range rows() {
		var first string
		for _, wire := range wires {
			id := fmt.Sprintf("p%d-%s", i, wire)
			if r.setup != nil {
				r.setup(t, s, id)
			}
			if r.around != nil {
				s.around.Store(&r.around)
			}
			value, err := r.ask(exchange.WithRequestID(deadline(t), "parity"), s.wires[wire], id)
			s.around.Store(nil)
			got := seen(id, value, err, r.texts)
			if code := problem.CodeOf(err); code != r.want {
				t.Errorf("%s, %s, %s: got %q (%v), want %q", r.operation, r.name, wire, code, err, r.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("%s, %s, %s: it gives away what happened inside: %s", r.operation, r.name, wire, got)
			}
			if first == "" {
				first = got
			} else if got != first {
				differences++
				t.Errorf("%s, %s: on %s orders sees\n%s\nand on %s\n%s", r.operation, r.name, wires[0], first, wire, got)
			}
		}
		outcome := string(r.want)
		if outcome == "" {
			outcome = "ok"
		}
		fmt.Fprintf(table, "  %-15s %-32s %s\n", r.operation, r.name, outcome)
	}
	t.Logf("%d answers on %v, %d differences:\n%s", len(rows()), wires, differences, table)
}

// Every place is taken: the same refusal on every wire.
func TestOverloadedIsTheSameOnEveryWire(t *testing.T) {
	t.Parallel()
	s := start(t, 1)
	in, done := make(chan struct{}), make(chan struct{})
	taken := func(_ string, handle func() error) error {
		err := handle()
		close(in)
		<-done
		return err
	}
	s.around.Store(&taken)
	ended := make(chan error)
	go func() {
		_, err := s.wires["http"].GetReservation(deadline(t), 1, "nobody")
		ended <- err
	}()
	<-in
	s.around.Store(nil)
	for operation, ask := range map[string]func(context.Context, orders.Wire, string) (any, error){
		"PutReservation": put(1, "held", line("-a", 1)), "GetReservation": get, "GetStock": stock("-a"),
	} {
		var first string
		for _, wire := range wires {
			value, err := ask(deadline(t), s.wires[wire], "x")
			got := seen("x", value, err, false)
			if problem.CodeOf(err) != problem.Overloaded || first != "" && got != first {
				t.Errorf("%s on %s: %s, %v", operation, wire, got, err)
			}
			first = got
		}
	}
	close(done)
	if err := <-ended; problem.CodeOf(err) != problem.NotFound {
		t.Error(err)
	}
}

// A code that inventory's contract has for an operation, and that has no row
// here, would be one that nobody compared.
func TestEveryCodeOfTheContractHasARow(t *testing.T) {
	t.Parallel()
	compared := map[string][]problem.Code{}
	for _, r := range rows() {
		compared[r.operation] = append(compared[r.operation], r.want)
	}
	for operation, codes := range openapi.Inventory().Codes() {
		for _, code := range codes {
			_, onEveryWire := compared[operation]
			switch {
			case !onEveryWire, code == problem.Overloaded: // the test above
			case code == problem.UnsupportedMedia: // REST alone has content types
			case !slices.Contains(compared[operation], code):
				t.Errorf("%s may answer %s, which has no row", operation, code)
			}
		}
	}
}
