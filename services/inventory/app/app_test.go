package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/database"
	"roundtrip/test/support/memnet"
)

// running is a started app that listens in memory, and its HTTP clients.
type running struct {
	*App
	client, admin *http.Client
}

// run starts an app on a database and stops it when the test ends.
func run(t *testing.T, path string, sweepInterval time.Duration) *running {
	t.Helper()
	return runWith(t, path, func(o *Options) { o.SweepInterval = sweepInterval })
}

func runWith(t *testing.T, path string, change func(*Options)) *running {
	t.Helper()
	listener, admin := memnet.Listen(), memnet.Listen()
	o := Options{
		HTTP: listener, Admin: admin, Database: database.Options{Source: database.FromAddress("sqlite:" + path)},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 64,
	}
	change(&o)
	a, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := &running{a, listener.Client(), admin.Client()}
	t.Cleanup(func() { r.end(t) })
	return r
}

func (r *running) end(t *testing.T) {
	t.Helper()
	r.client.CloseIdleConnections()
	r.admin.CloseIdleConnections()
	stop(t, r.App)
}

func stop(t *testing.T, a *App) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// answer is an answer from inventory, of any kind.
type answer struct {
	status      int
	State, Code string
	Levels      []struct {
		SKU                 string
		Reserved, Available int64
	}
	Reservations []struct{ ID, State string }
	Entries      []struct{ Ref, Reason string }
}

// send sends a request and returns its response. The body is not read yet.
func (r *running) send(t *testing.T, method, path, media string, body io.Reader) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, "http://inventory"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", media)
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	return response
}

func (r *running) call(t *testing.T, method, path, body string) answer {
	t.Helper()
	response := r.send(t, method, path, "application/json", strings.NewReader(body))
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil {
		t.Error(err)
	}
	return a
}

func (r *running) want(t *testing.T, when string, got answer, status int, state string) {
	t.Helper()
	if got.status != status || got.State+got.Code != state {
		t.Errorf("%s: %+v, want %d %s", when, got, status, state)
	}
}

func (r *running) stock(t *testing.T, onHand int) {
	t.Helper()
	r.want(t, "stock", r.call(t, "PUT", "/v1/adjustments/first", fmt.Sprintf(`{"sku": "s", "on_hand": %d, "reason": "counted"}`, onHand)), 200, "")
}

func (r *running) hold(t *testing.T, id string, quantity, seconds int) answer {
	t.Helper()
	return r.call(t, "PUT", "/v1/reservations/"+id,
		fmt.Sprintf(`{"seq": 1, "state": "held", "lines": [{"sku": "s", "quantity": %d}], "hold_seconds": %d}`, quantity, seconds))
}

func (r *running) wantReserved(t *testing.T, when string, want int64) {
	t.Helper()
	if got := r.call(t, "GET", "/v1/stock/s", "").Levels; len(got) != 1 || got[0].Reserved != want {
		t.Errorf("%s: %+v, want %d reserved", when, got, want)
	}
}

// private sends a request to the private port.
func (r *running) private(t *testing.T, path string) (status int, body string) {
	t.Helper()
	response, err := r.admin.Get("http://admin" + path)
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

// bubble runs a test in virtual time. It makes the folder outside of virtual time,
// because removing it takes real time.
func bubble(t *testing.T, test func(t *testing.T, path string)) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "inventory.db")
	synctest.Test(t, func(t *testing.T) { test(t, path) })
}

func TestSweeperFreesDueHolds(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		r := run(t, path, 0)
		const holds = sweepBatch + 5 // more than one transaction can free
		r.stock(t, holds+1)
		for i := range holds {
			r.want(t, "hold", r.hold(t, fmt.Sprint("x", i), 1, 60), 200, "held")
		}
		r.want(t, "a longer hold", r.hold(t, "longer", 1, 120), 200, "held")
		time.Sleep(59 * time.Second)
		r.wantReserved(t, "a second before expiry", holds+1)
		time.Sleep(6 * time.Second)
		r.wantReserved(t, "five seconds after expiry", 1)
		if got := r.call(t, "GET", "/v1/ledger?limit=1", "").Entries; len(got) != 1 || got[0].Reason != "expired" {
			t.Errorf("the last entry of the ledger is %+v", got)
		}
		r.want(t, "the expired hold", r.call(t, "GET", "/v1/reservations/x0", ""), 200, "expired")
		r.want(t, "commit it", r.call(t, "PUT", "/v1/reservations/x0", `{"seq": 2, "state": "committed"}`), 409, "reservation-expired")
		r.want(t, "commit the longer one", r.call(t, "PUT", "/v1/reservations/longer", `{"seq": 2, "state": "committed"}`), 200, "committed")
		time.Sleep(2 * time.Minute)
		r.wantReserved(t, "after the commit", 0)
		r.want(t, "the committed reservation", r.call(t, "GET", "/v1/reservations/longer", ""), 200, "committed")
	})
}

func TestDueHoldReadsAsExpiredBeforeTheSweep(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		r := run(t, path, time.Hour)
		r.stock(t, 3)
		r.want(t, "hold", r.hold(t, "x", 2, 60), 200, "held")
		r.want(t, "hold", r.hold(t, "y", 1, 600), 200, "held")
		time.Sleep(60 * time.Second)
		r.want(t, "a read", r.call(t, "GET", "/v1/reservations/x", ""), 200, "expired")
		if got := r.call(t, "GET", "/v1/reservations?state=expired", "").Reservations; len(got) != 1 || got[0].ID != "x" {
			t.Errorf("the list of expired reservations has %+v", got)
		}
		if got := r.call(t, "GET", "/v1/reservations?state=held", "").Reservations; len(got) != 1 || got[0].ID != "y" {
			t.Errorf("the list of held reservations has %+v", got)
		}
		r.wantReserved(t, "before another hold needs the stock", 3)
		r.want(t, "a hold that needs the stock", r.hold(t, "z", 2, 600), 200, "held")
		r.want(t, "a repeat of the expired hold", r.hold(t, "x", 2, 60), 200, "expired")
		r.want(t, "a hold of more than there is", r.hold(t, "more", 1, 600), 409, "insufficient-stock")
		r.wantReserved(t, "then", 3)
	})
}

func TestHoldsSurviveARestart(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		first := run(t, path, 0)
		first.stock(t, 3)
		first.want(t, "hold", first.hold(t, "x", 2, 60), 200, "held")
		first.want(t, "hold", first.hold(t, "y", 1, 600), 200, "held")
		first.end(t)
		time.Sleep(2 * time.Minute)
		second := run(t, path, 0)
		time.Sleep(5 * time.Second)
		second.wantReserved(t, "after the restart", 1)
		second.want(t, "the hold that expired meanwhile", second.call(t, "GET", "/v1/reservations/x", ""), 200, "expired")
		second.want(t, "a repeat of the other hold", second.hold(t, "y", 1, 600), 200, "held")
	})
}

func TestPrivatePort(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		r := run(t, path, 0)
		r.stock(t, 1)
		r.hold(t, "x", 2, 60)
		for _, path := range []string{"/livez", "/readyz", "/startupz"} {
			if status, body := r.private(t, path); status != 200 {
				t.Errorf("%s is %d %s", path, status, body)
			}
		}
		synctest.Wait() // an exchange is counted when it is answered
		_, metrics := r.private(t, "/metrics")
		for _, line := range []string{
			`roundtrip_exchanges_total{operation="PutAdjustment",outcome="ok",role="responder",wire="http"} 1`,
			`roundtrip_exchanges_total{operation="PutReservation",outcome="insufficient-stock",role="responder",wire="http"} 1`,
		} {
			if !strings.Contains(metrics, "\n"+line+"\n") {
				t.Errorf("the metrics have no %q, but\n%s", line, metrics)
			}
		}
	})
}

func TestImportWaitsForASlowSender(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		r := run(t, path, time.Minute)
		read, write := io.Pipe()
		var sending sync.WaitGroup
		defer sending.Wait()
		defer read.Close()
		sending.Go(func() {
			fmt.Fprint(write, "sku,on_hand\n")
			for i := range 10 { // in one batch
				time.Sleep(29 * time.Second)
				fmt.Fprintf(write, "s%d,1\n", i)
			}
			write.Close()
		})
		body := r.send(t, "POST", "/v1/stock/import", "text/csv", read).Body
		defer body.Close()
		report, err := io.ReadAll(body)
		if err != nil || !strings.HasSuffix(string(report), `{"rows":10,"done":10,"unchanged":0,"rejected":0}`+"\n") {
			t.Errorf("the report ends with %.200s, %v", report[max(0, len(report)-200):], err)
		}
	})
}

func TestImportWithASlowReaderOfItsReport(t *testing.T) {
	for pause, whole := range map[time.Duration]bool{29 * time.Second: true, 31 * time.Second: false} {
		t.Run(pause.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T, path string) {
				r := run(t, path, time.Hour)
				const rows = 1000
				var file strings.Builder
				fmt.Fprint(&file, "sku,on_hand\n")
				for i := range rows {
					fmt.Fprintf(&file, "s%d,1\n", i)
				}
				body := r.send(t, "POST", "/v1/stock/import", "text/csv", strings.NewReader(file.String())).Body
				defer body.Close()
				var report []byte
				var err error
				for err == nil { // each read takes one buffer of the connection in memory
					time.Sleep(pause)
					part := make([]byte, 4096)
					var n int
					n, err = io.ReadFull(body, part)
					report = append(report, part[:n]...)
				}
				read := strings.HasSuffix(string(report), fmt.Sprintf(`{"rows":%d,"done":%[1]d,"unchanged":0,"rejected":0}`+"\n", rows))
				if read != whole {
					t.Errorf("the report has %d bytes and ends with %.200s, %v", len(report), report[max(0, len(report)-200):], err)
				}
			})
		})
	}
}

func TestStopAnswersRequestsInFlight(t *testing.T) {
	bubble(t, func(t *testing.T, path string) {
		r := run(t, path, 0)
		read, write := io.Pipe()
		answered := make(chan string, 1)
		go func() {
			response, err := r.client.Post("http://inventory/v1/stock/import", "text/csv", read)
			if err != nil {
				answered <- err.Error()
				return
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			answered <- fmt.Sprint(response.StatusCode, " ", string(body), err)
		}()
		if _, err := io.WriteString(write, "sku,on_hand\ns,1\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		stopped := make(chan struct{})
		go func() { stop(t, r.App); close(stopped) }()
		synctest.Wait()
		if status, _ := r.private(t, "/readyz"); status != 503 {
			t.Errorf("while the app drains, /readyz is %d", status)
		}
		select {
		case <-stopped:
			t.Error("the app stopped before it answered")
		default:
		}
		if _, err := io.WriteString(write, "t,1\n"); err != nil {
			t.Error(err)
		}
		if err := write.Close(); err != nil {
			t.Error(err)
		}
		if got := <-answered; !strings.HasPrefix(got, "200 ") || !strings.Contains(got, `{"rows":2,"done":2,`) {
			t.Errorf("the request in flight got %s", got)
		}
		r.admin.CloseIdleConnections()
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
		HTTP: listen(), Admin: listen(), Database: database.Options{Source: database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "inventory.db"))},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 8,
	}
}

func TestInvalidOptions(t *testing.T) {
	t.Parallel()
	for name, source := range map[string]database.Source{
		"unknown kind of database":        database.FromAddress("mysql:x"),
		"missing address file":            database.FromFile("/nowhere/address"),
		"path that can't have a database": database.FromAddress("sqlite:/dev/null/inventory.db"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			o.Database.Source = source
			if a, err := New(t.Context(), o); err == nil {
				stop(t, a)
				t.Fatal("the options are accepted")
			}
			for _, l := range []net.Listener{o.HTTP, o.Admin} {
				if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
					t.Error("a listener was left open")
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
	response, err := http.Get("http://" + a.Addr().String() + "/v1/stock/none")
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
	case <-time.After(30 * time.Second):
		t.Error("the broken listener was not reported")
	}
	stop(t, a)
}

// Commit and release free capacity or stock, so they are shed last.
func TestCommitAndReleaseAreShedLast(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var blocking atomic.Bool
		blocked, release := make(chan struct{}, 64), make(chan struct{})
		r := runWith(t, filepath.Join(t.TempDir(), "inventory.db"), func(o *Options) {
			o.Around = func(_ string, handle func() error) error {
				err := handle()
				if blocking.Load() {
					blocked <- struct{}{}
					<-release
				}
				return err
			}
		})
		r.stock(t, 10)
		r.want(t, "hold a", r.hold(t, "a", 1, 900), 200, "held")
		r.want(t, "hold b", r.hold(t, "b", 1, 900), 200, "held")
		blocking.Store(true)
		var fillers sync.WaitGroup
		for range 64 - 64/5 { // the whole capacity for requests without priority
			fillers.Go(func() { r.call(t, "GET", "/v1/stock/s", "") })
		}
		for range 64 - 64/5 {
			<-blocked
		}
		blocking.Store(false)
		r.want(t, "a read", r.call(t, "GET", "/v1/reservations/a", ""), 503, "overloaded")
		r.want(t, "a hold", r.hold(t, "c", 1, 900), 503, "overloaded")
		r.want(t, "a commit", r.call(t, "PUT", "/v1/reservations/a", `{"seq": 2, "state": "committed"}`), 200, "committed")
		r.want(t, "a release", r.call(t, "PUT", "/v1/reservations/b", `{"seq": 2, "state": "released"}`), 200, "released")
		close(release)
		fillers.Wait()
		r.want(t, "a hold once there is room", r.hold(t, "c", 1, 900), 200, "held")
	})
}
