package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/test/support/memnet"
)

// stub is a fake inventory. It does everything that it is asked, unless a test makes it
// unreachable (away) or sets a handler.
type stub struct {
	mu           sync.Mutex
	away         bool
	handler      http.HandlerFunc // if not nil, it answers instead
	reservations map[string]map[string]any
	listener     *memnet.Listener
}

func (i *stub) set(change func(*stub)) {
	i.mu.Lock()
	defer i.mu.Unlock()
	change(i)
}

func (i *stub) dial(ctx context.Context, network, address string) (net.Conn, error) {
	i.mu.Lock()
	away := i.away
	i.mu.Unlock()
	if away {
		return nil, errors.New("inventory is unreachable")
	}
	return i.listener.Dial(ctx, network, address)
}

func (i *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	handler := i.handler
	i.mu.Unlock()
	if handler != nil {
		handler(w, r)
		return
	}
	i.set(func(i *stub) { i.serve(w, r) })
}

// serve does what the request asks. The caller has locked the stub.
func (i *stub) serve(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	if r.Method == http.MethodPut {
		asked := map[string]any{}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked["id"] = id
		if hold, ok := asked["hold_seconds"].(float64); ok {
			asked["expires_at"] = time.Now().Add(time.Duration(hold) * time.Second)
		}
		i.reservations[id] = asked
	}
	answer, ok := i.reservations[id]
	if !ok {
		w.Header().Set("Content-Type", problem.MediaType)
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:roundtrip:problem:not-found", "title": "There is no such thing", "status": 404, "code": "not-found"})
		return
	}
	if at, ok := answer["expires_at"].(time.Time); ok && answer["state"] == "held" && !time.Now().Before(at) {
		answer["state"] = "expired"
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // orders may have hung up
}

// pair is an app and its fake inventory.
type pair struct {
	*App
	inventory *stub
	client    *http.Client
	admin     *http.Client
}

// startPair starts both with in-memory connections. They stop when the test ends.
func startPair(t *testing.T) *pair { return startPairWith(t, func(*stub) {}) }

func startPairWith(t *testing.T, prepare func(*stub)) *pair {
	t.Helper()
	in := &stub{reservations: map[string]map[string]any{}, listener: memnet.Listen()}
	prepare(in)
	server := &http.Server{Handler: in}
	go func() { _ = server.Serve(in.listener) }() // until it is closed
	t.Cleanup(func() { server.Close() })
	listener, admin := memnet.Listen(), memnet.Listen()
	a, err := New(t.Context(), Options{
		HTTP: listener, Admin: admin, Database: database.Options{Source: database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "orders.db"))},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 64, InventoryWire: "http", InventoryURL: "http://inventory", Dial: in.dial,
		SettleInterval: time.Second, GiveUpAfter: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := &pair{App: a, inventory: in, client: listener.Client(), admin: admin.Client()}
	t.Cleanup(func() {
		p.client.CloseIdleConnections()
		p.admin.CloseIdleConnections()
		stop(t, a)
	})
	return p
}

func stop(t *testing.T, a *App) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// answer is an answer from orders.
type answer struct {
	status int
	State  string
	Last   struct{ Problem struct{ Code string } } `json:"last_operation"`
}

func (p *pair) call(t *testing.T, method, path, body string) answer {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://orders"+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := p.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		t.Error(err)
	}
	return a
}

func (p *pair) place(t *testing.T, id string) answer {
	t.Helper()
	return p.call(t, http.MethodPut, "/v1/orders/"+id, `{"customer": "c", "currency": "GBP", "lines": [{"sku": "s", "quantity": 1, "unit_price": 1}]}`)
}

func (p *pair) want(t *testing.T, when string, got answer, status int, state string) {
	t.Helper()
	if got.status != status || got.State != state {
		t.Errorf("%s: %d %s, want %d %s", when, got.status, got.State, status, state)
	}
}

// private sends a request to the private port.
func (p *pair) private(t *testing.T, path string) (status int, body string) {
	t.Helper()
	response, err := p.admin.Get("http://admin" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(text)
}

func (p *pair) wantMetric(t *testing.T, when, line string) {
	t.Helper()
	if status, metrics := p.private(t, "/metrics"); status != 200 || !strings.Contains(metrics, "\n"+line+"\n") {
		var near []string
		for l := range strings.Lines(metrics) {
			if strings.HasPrefix(l, line[:12]) {
				near = append(near, l)
			}
		}
		t.Errorf("%s: the metrics (%d) have no %q, only\n%s", when, status, line, strings.Join(near, ""))
	}
}

func TestStartWaitsBrieflyForInventory(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		back        time.Duration // after this time inventory can be reached
		least, most time.Duration // how long the start takes
	}{
		"inventory answers":               {0, 0, 0},
		"inventory answers after a while": {2 * time.Second, 2 * time.Second, 3 * time.Second},
		"inventory never answers":         {time.Hour, 4 * time.Second, reachWithin},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				p := startPairWith(t, func(i *stub) {
					i.away = c.back > 0
					time.AfterFunc(c.back, func() { i.set(func(i *stub) { i.away = false }) })
				})
				if took := time.Since(began); took < c.least || took > c.most {
					t.Errorf("the start took %s, want between %s and %s", took, c.least, c.most)
				}
				if status, body := p.private(t, "/readyz"); status != 200 {
					t.Errorf("the app is not ready after its start: %d %s", status, body)
				}
			})
		})
	}
}

func TestHoldExpires(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		p.want(t, "placed", p.place(t, "a"), 201, "placed")
		time.Sleep(14 * time.Minute)
		p.want(t, "before the hold expires", p.call(t, "GET", "/v1/orders/a", ""), 200, "placed")
		time.Sleep(61*time.Second + 500*time.Millisecond)
		p.want(t, "after the hold has expired", p.call(t, "GET", "/v1/orders/a", ""), 200, "expired")
	})
}

func TestUnsettledPlaceIsSettledLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		p.wantMetric(t, "at first", "orders_intents_unsettled 0")
		p.wantMetric(t, "at first", "orders_oldest_intent_age_seconds 0")
		p.inventory.set(func(i *stub) {
			i.handler = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) }
		})
		p.want(t, "placed", p.place(t, "a"), 202, "pending")
		time.Sleep(5 * time.Second)
		p.wantMetric(t, "meanwhile", "orders_intents_unsettled 1")
		if _, metrics := p.private(t, "/metrics"); !strings.Contains(metrics, "\norders_oldest_intent_age_seconds 5") {
			t.Error("the metrics do not have the age of the intent")
		}
		p.inventory.set(func(i *stub) { i.handler = nil })
		time.Sleep(15 * time.Second)
		p.want(t, "later", p.call(t, "GET", "/v1/orders/a", ""), 200, "placed")
		p.wantMetric(t, "later", "orders_intents_unsettled 0")
		p.wantMetric(t, "later", `roundtrip_attempts_total{operation="PutReservation",resend="yes",wire="http"} 1`)
	})
}

func TestUnexplainedAnswerRaisesAlarm(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		p.inventory.set(func(i *stub) {
			i.handler = func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") }
		})
		p.want(t, "placed", p.place(t, "a"), 202, "pending")
		p.wantMetric(t, "then", `roundtrip_alarms_total{reason="unexplained"} 1`)
	})
}

func TestInventoryBecomesUnreachableAndReturns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		p.want(t, "placed", p.place(t, "a"), 201, "placed")
		p.inventory.set(func(i *stub) { i.away = true })
		p.dropAll()
		// Places are recorded until the breaker opens. After that they are refused and
		// not recorded.
		recorded := 0
		for n := range 8 {
			switch got := p.place(t, fmt.Sprint("b", n)); got.status {
			case 202:
				recorded++
			case 503:
			default:
				t.Errorf("while inventory is unreachable: %+v", got)
			}
		}
		if recorded == 0 || recorded == 8 {
			t.Errorf("%d of 8 were recorded", recorded)
		}
		p.want(t, "confirm is recorded", p.call(t, "POST", "/v1/orders/a/confirm", ""), 202, "placed")
		p.want(t, "get", p.call(t, "GET", "/v1/orders/a", ""), 200, "placed")
		if status, _ := p.private(t, "/readyz"); status != 200 {
			t.Error("orders is not ready because inventory is unreachable")
		}
		time.Sleep(time.Minute)
		p.want(t, "a confirm is never given up", p.call(t, "GET", "/v1/orders/a", ""), 200, "placed")
		p.inventory.set(func(i *stub) { i.away = false })
		time.Sleep(30 * time.Second)
		p.want(t, "confirm settles", p.call(t, "GET", "/v1/orders/a", ""), 200, "confirmed")
		given := p.call(t, "GET", "/v1/orders/b0", "")
		if p.want(t, "a place is given up", given, 200, "rejected"); given.Last.Problem.Code != "given-up" {
			t.Errorf("the place ended %+v", given)
		}
		p.wantMetric(t, "in the end", "orders_intents_unsettled 0")
	})
}

// dropAll breaks the open connections from orders to inventory.
func (p *pair) dropAll() {
	p.inventory.set(func(i *stub) {
		i.handler = func(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }
	})
	defer p.inventory.set(func(i *stub) { i.handler = nil })
	response, err := p.client.Get("http://orders/v1/availability?sku=s")
	if err == nil {
		response.Body.Close()
	}
}

func TestStopAnswersRequestsInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		asked, release := make(chan struct{}), make(chan struct{})
		p.inventory.set(func(i *stub) {
			i.handler = func(w http.ResponseWriter, r *http.Request) {
				close(asked)
				<-release
				i.set(func(i *stub) { i.handler = nil })
				i.ServeHTTP(w, r)
			}
		})
		placed := make(chan answer, 1)
		go func() { placed <- p.place(t, "a") }()
		<-asked
		stopped := make(chan struct{})
		go func() { stop(t, p.App); close(stopped) }()
		synctest.Wait()
		if status, _ := p.private(t, "/readyz"); status != 503 {
			t.Errorf("while it drains /readyz is %d", status)
		}
		if status, _ := p.private(t, "/livez"); status != 200 {
			t.Errorf("while it drains /livez is %d", status)
		}
		select {
		case <-stopped:
			t.Error("the app stopped before it answered")
		default:
		}
		close(release)
		p.want(t, "the request in flight", <-placed, 201, "placed")
		p.admin.CloseIdleConnections()
		<-stopped
	})
}

func options(t *testing.T) Options {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	return Options{
		HTTP: listen(), Admin: listen(), Database: database.Options{Source: database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "orders.db"))},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 8, InventoryWire: "http", InventoryURL: "http://127.0.0.1:1",
		SettleInterval: time.Second, GiveUpAfter: 30 * time.Second,
	}
}

func TestInvalidOptions(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(*Options){
		"unknown kind of database": func(o *Options) { o.Database = database.Options{Source: database.FromAddress("mysql:x")} },
		"missing address file":     func(o *Options) { o.Database = database.Options{Source: database.FromFile("/nowhere/address")} },
		"no inventory":             func(o *Options) { o.InventoryURL = "" },
		"path that can't have a database": func(o *Options) {
			o.Database = database.Options{Source: database.FromAddress("sqlite:/dev/null/orders.db")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			spoil(&o)
			if a, err := New(t.Context(), o); err == nil {
				stop(t, a)
				t.Fatal("the options are accepted")
			}
			for _, l := range []net.Listener{o.HTTP, o.Admin} {
				if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("a listener was left open: %v", err)
				}
			}
		})
	}
}

func TestDatabaseInUseCannotBeOpened(t *testing.T) {
	t.Parallel()
	first := options(t)
	a, err := New(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	second := options(t)
	second.Database = first.Database
	if _, err := New(t.Context(), second); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	stop(t, a)
	second = options(t)
	second.Database = first.Database
	b, err := New(t.Context(), second)
	if err != nil {
		t.Fatalf("after the first has stopped: %v", err)
	}
	stop(t, b)
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	o := options(t)
	a, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if a.Addr().String() != o.HTTP.Addr().String() {
		t.Errorf("the address is %s, want %s", a.Addr(), o.HTTP.Addr())
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err == nil {
		t.Error("the app starts twice")
	}
	response, err := http.Get("http://" + a.Addr().String() + "/v1/orders/none")
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNotFound {
		t.Errorf("the status is %d", response.StatusCode)
	}
	stop(t, a)
	stop(t, a)
	if err := a.Start(t.Context()); err == nil {
		t.Error("the app starts after it was stopped")
	}
	select {
	case err := <-a.Failed():
		t.Errorf("a stop is reported as a failure: %v", err)
	default:
	}
	if _, err := net.Dial("tcp", a.Addr().String()); err == nil {
		t.Error("the app still listens after its stop")
	}

	never, err := New(t.Context(), options(t))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, never)
}

func TestBrokenListenerIsReported(t *testing.T) {
	t.Parallel()
	o := options(t)
	a, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	o.HTTP.Close()
	select {
	case err := <-a.Failed():
		if !strings.Contains(err.Error(), "http") {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the broken listener was not reported")
	}
	stop(t, a)
}

// Confirm and cancel free capacity or stock, so they are shed last.
func TestConfirmAndCancelAreShedLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := startPair(t)
		for _, id := range []string{"a", "b"} {
			p.want(t, "place "+id, p.place(t, id), 201, "placed")
		}
		release := make(chan struct{})
		p.inventory.set(func(i *stub) {
			i.handler = func(w http.ResponseWriter, r *http.Request) {
				if strings.Contains(r.URL.Path, "/filler-") {
					<-release
				}
				i.set(func(i *stub) { i.serve(w, r) })
			}
		})
		var fillers sync.WaitGroup
		for n := range 64 - 64/5 { // the whole capacity for requests without priority
			fillers.Go(func() { p.place(t, fmt.Sprint("filler-", n)) })
		}
		synctest.Wait()
		for _, path := range []string{"/v1/orders/a", "/v1/availability?sku=s"} {
			p.want(t, "GET "+path, p.call(t, "GET", path, ""), 503, "")
		}
		p.want(t, "another place", p.place(t, "c"), 503, "")
		p.want(t, "confirm", p.call(t, "POST", "/v1/orders/a/confirm", ""), 200, "confirmed")
		p.want(t, "cancel", p.call(t, "POST", "/v1/orders/b/cancel", ""), 200, "cancelled")
		close(release)
		fillers.Wait()
		p.want(t, "a place once there is room", p.place(t, "c"), 201, "placed")
	})
}
