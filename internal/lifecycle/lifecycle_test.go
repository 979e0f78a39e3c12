package lifecycle_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/adminport"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/metrics"
)

// patience is how long a test waits for an event that must happen. How long the event
// takes does not matter.
const patience = 45 * time.Second

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// newLifecycle makes a lifecycle, its listener, and a function that requests a path of
// its private port.
func newLifecycle(t *testing.T) (*lifecycle.Lifecycle, net.Listener, func(path string) (int, string)) {
	t.Helper()
	l := listen(t)
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	return lifecycle.New(adminport.New(metrics.New().Registry, slog.New(slog.DiscardHandler)), l), l, func(path string) (int, string) {
		t.Helper()
		response, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
}

func stop(t *testing.T, f *lifecycle.Lifecycle) {
	t.Helper()
	if err := f.Stop(within(t, patience)); err != nil {
		t.Error(err)
	}
}

func wantClosed(t *testing.T, l net.Listener) {
	t.Helper()
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the private port was left open: %v", err)
	}
}

func nothing() error { return nil }

func TestPrivatePortReportsTheState(t *testing.T) {
	t.Parallel()
	f, l, get := newLifecycle(t)
	wantStates := func(when string, live, started, ready int) {
		t.Helper()
		for path, want := range map[string]int{"/livez": live, "/startupz": started, "/readyz": ready, "/metrics": 200, "/": 404} {
			if status, body := get(path); status != want {
				t.Errorf("%s, %s is %d %q, want %d", when, path, status, body, want)
			}
		}
	}
	draining, drained := make(chan struct{}), make(chan struct{})
	err := f.Start(func() error {
		wantStates("while it starts", 200, 503, 503)
		f.OnStop("requests in flight", func(context.Context) error {
			close(draining)
			<-drained
			return nil
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantStates("once it has started", 200, 200, 200)
	stopped := make(chan error)
	go func() { stopped <- f.Stop(context.Background()) }()
	<-draining
	wantStates("while it drains", 200, 200, 503)
	close(drained)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	wantClosed(t, l)
	select {
	case err := <-f.Failed():
		t.Errorf("a stop is reported as a failure: %v", err)
	default:
	}
}

func TestAppStartsOnce(t *testing.T) {
	t.Parallel()
	f, _, _ := newLifecycle(t)
	if err := f.Start(nothing); err != nil {
		t.Fatal(err)
	}
	again := func() error {
		t.Error("it starts")
		return nil
	}
	if err := f.Start(again); err == nil || !strings.Contains(err.Error(), "started") {
		t.Errorf("a second time: %v", err)
	}
	stop(t, f)
	stop(t, f)
	if err := f.Start(again); err == nil || !strings.Contains(err.Error(), "stopped") {
		t.Errorf("after it was stopped: %v", err)
	}
	never, l, _ := newLifecycle(t)
	stop(t, never)
	if err := never.Start(again); err == nil {
		t.Error("it starts after it was stopped without a start")
	}
	wantClosed(t, l)
}

func TestFailedStartCanBeStopped(t *testing.T) {
	t.Parallel()
	f, l, get := newLifecycle(t)
	var s steps
	mine := errors.New("the schema is missing")
	err := f.Start(func() error {
		f.OnStop("store", s.step("store", fine))
		return mine
	})
	if err != mine {
		t.Errorf("got %v", err)
	}
	if status, _ := get("/readyz"); status != 503 {
		t.Errorf("it says that it is ready: %d", status)
	}
	stop(t, f)
	s.want(t, "store")
	wantClosed(t, l)
}

// server is a lifecycle.Server that serves until Shutdown or an error, and one second
// longer.
type server struct {
	steps
	end      chan error
	shutdown error
}

func newServer() *server { return &server{end: make(chan error, 2)} }

func (s *server) Serve(net.Listener) error {
	err := <-s.end
	time.Sleep(time.Second)
	_ = s.step("served", fine)(nil)
	return err
}

func (s *server) Shutdown(context.Context) error {
	s.end <- nil
	return s.step("shut down", func(context.Context) error { return s.shutdown })(nil)
}

func TestStopShutsAServerDownAndWaitsForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := lifecycle.New(adminport.New(metrics.New().Registry, slog.New(slog.DiscardHandler)), noListener{})
		s := newServer()
		s.shutdown = errors.New("two callers were cut off")
		f.Serve("http", nil, s)
		err := f.Stop(within(t, time.Minute))
		if !errors.Is(err, s.shutdown) || !strings.Contains(err.Error(), "stop http: ") {
			t.Errorf("got %v", err)
		}
		s.want(t, "shut down", "served")
	})
}

func TestServerFailureIsReported(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := lifecycle.New(adminport.New(metrics.New().Registry, slog.New(slog.DiscardHandler)), noListener{})
		s := newServer()
		f.Serve("http", nil, s)
		broken := errors.New("too many open files")
		s.end <- broken
		if err := <-f.Failed(); !errors.Is(err, broken) || !strings.HasPrefix(err.Error(), "http: ") {
			t.Errorf("got %v", err)
		}
		if err := f.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestPrivatePortFailureIsReported(t *testing.T) {
	t.Parallel()
	f, l, _ := newLifecycle(t)
	if err := f.Start(nothing); err != nil {
		t.Fatal(err)
	}
	l.Close()
	select {
	case err := <-f.Failed():
		if !strings.HasPrefix(err.Error(), "private port: ") {
			t.Errorf("got %v", err)
		}
	case <-time.After(patience):
		t.Error("the failure is not reported")
	}
	stop(t, f)
}

func TestStopEndsBackgroundWorkAndWaitsForIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, takes := range []time.Duration{time.Second, time.Hour} {
			f := lifecycle.New(adminport.New(metrics.New().Registry, slog.New(slog.DiscardHandler)), noListener{})
			var ended time.Time
			f.Go("settler", func(ctx context.Context) {
				<-ctx.Done()
				time.Sleep(takes) // it finishes its work
				ended = time.Now()
			})
			time.Sleep(time.Minute)
			synctest.Wait()
			if !ended.IsZero() {
				t.Error("it ended before the stop")
			}
			began := time.Now()
			err := f.Stop(within(t, 10*time.Second))
			if took := time.Since(began); took != min(takes, 10*time.Second) {
				t.Errorf("the stop took %s", took)
			}
			if takes < 10*time.Second && (err != nil || ended.IsZero()) {
				t.Errorf("the stop did not wait for it: %v", err)
			}
			if takes > 10*time.Second && (!errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stop settler: ")) {
				t.Errorf("the step that did not end is not reported: %v", err)
			}
			time.Sleep(takes)
		}
	})
}

// noListener is the listener of a private port that gets no requests.
type noListener struct{ net.Listener }

func (noListener) Close() error { return nil }

func TestCloseListenerAcceptsAClosedListener(t *testing.T) {
	t.Parallel()
	l := listen(t)
	for _, when := range []string{"open", "closed"} {
		if err := lifecycle.CloseListener(l)(t.Context()); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	broken := errors.New("broken")
	if err := lifecycle.CloseListener(brokenListener{err: broken})(t.Context()); err != broken {
		t.Errorf("got %v", err)
	}
}

type brokenListener struct {
	net.Listener
	err error
}

func (l brokenListener) Close() error { return l.err }
