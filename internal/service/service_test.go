package service_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/term"

	"roundtrip/internal/problem"
	"roundtrip/internal/service"
)

func TestTheDatabasesAddressComesFromTheFileWhereThereIsOne(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "address")
	flags := service.DatabaseFlags{Database: "sqlite:flag.db"}
	if got, err := flags.Source()(); err != nil || got.SQLite != "flag.db" {
		t.Errorf("without a file: got %+v, %v", got, err)
	}
	flags.DatabaseFile = file
	source := flags.Source()
	if got, err := source(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is missing: got %+v, %v", got, err)
	}
	for _, path := range []string{"first.db", "second.db"} {
		if err := os.WriteFile(file, []byte("sqlite:"+path+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := source(); err != nil || got.SQLite != path {
			t.Errorf("got %+v, %v, want %s", got, err, path)
		}
	}
}

// A problem crosses a wire without its cause; a log has it.
func TestALoggedErrorHasItsCause(t *testing.T) {
	t.Parallel()
	var buffer bytes.Buffer
	service.NewLogger(&buffer, slog.LevelInfo).Error("it failed", "error", problem.Wrap(errors.New("no space left"), problem.Unavailable, "It can't be done."))
	var line struct{ Error string }
	if err := json.Unmarshal(buffer.Bytes(), &line); err != nil || line.Error != "unavailable: It can't be done. (no space left)" {
		t.Errorf("%v: %s", err, &buffer)
	}
}

func TestLogsAreJSONUnlessSomebodyWatches(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var buffer bytes.Buffer
	for name, w := range map[string]io.Writer{"a buffer": &buffer, "a file": file} {
		log := service.NewLogger(w, slog.LevelInfo)
		log.Debug("not asked for")
		log.Info("listening", "http", "127.0.0.1:1")
		text := buffer.Bytes()
		if w == file {
			if text, err = os.ReadFile(file.Name()); err != nil {
				t.Fatal(err)
			}
		}
		var line struct{ Time, Level, Msg, HTTP string }
		if err := json.Unmarshal(text, &line); err != nil {
			t.Errorf("%s: %v in %q", name, err, text)
		}
		if line.Level != "INFO" || line.Msg != "listening" || line.HTTP != "127.0.0.1:1" || line.Time == "" {
			t.Errorf("%s: got %s", name, text)
		}
	}
	if !service.NewLogger(io.Discard, slog.LevelDebug).Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is not logged where it is asked for")
	}
}

// leftOut skips a test for want of something, and says so; in CI nothing is skipped.
func leftOut(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(why)
	}
	t.Skip("LEFT OUT: ", why)
}

func TestLogsAreTextOnATerminal(t *testing.T) {
	t.Parallel()
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		leftOut(t, "this machine makes no terminal: "+err.Error())
	}
	defer terminal.Close()
	if !term.IsTerminal(int(terminal.Fd())) {
		leftOut(t, "on this system the owner's end of a terminal is none itself")
	}
	if log := service.NewLogger(terminal, slog.LevelWarn); log.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("info is logged where only warnings are asked for")
	} else if _, ok := log.Handler().(*slog.TextHandler); !ok {
		t.Errorf("its handler is %T", log.Handler())
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	f, l, _ := newFrame(t)
	address := l.Addr().String()
	check := func(address string) error { return service.HealthcheckFlags{AdminAddr: address}.Run(t.Context()) }
	wantSick := func(when string) {
		t.Helper()
		if err := check(address); err == nil || !strings.HasPrefix(err.Error(), "not healthy: ") {
			t.Errorf("%s: got %v", when, err)
		}
	}
	if err := f.Start(func() error { wantSick("while it starts"); return nil }); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{address, ":" + port, "0.0.0.0:" + port} {
		if err := check(address); err != nil {
			t.Errorf("%s: %v", address, err)
		}
		// Container hosts set such variables in every container.
		r := run(t, []string{"HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1", "TRIAL_ADMIN_ADDR=" + address}, "healthcheck")
		if r.code != 0 || r.stdout+r.stderr != "" {
			t.Errorf("%s, beside a proxy: got %+v", address, r)
		}
	}
	stop(t, f)
	wantSick("when it has stopped")
	if r := run(t, nil, "healthcheck", "--admin-addr", address); r.code != service.ExitDifference || !strings.HasPrefix(r.stderr, "trial: not healthy: ") {
		t.Errorf("the command: got %+v", r)
	}
}

func TestAHealthcheckEndsByItself(t *testing.T) {
	t.Parallel()
	silent := listen(t) // connections are made, and nobody answers
	ctx := within(t, patience)
	if err := (service.HealthcheckFlags{AdminAddr: silent.Addr().String()}).Run(ctx); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}

// app is a service.App that does as it is told.
type app struct {
	start, stop func(context.Context) error
	failed      chan error
}

func (a app) Start(ctx context.Context) error { return a.start(ctx) }
func (a app) Stop(ctx context.Context) error  { return a.stop(ctx) }
func (a app) Failed() <-chan error            { return a.failed }

func TestRunStopsWithinTheDrainTimeWhateverTheReason(t *testing.T) {
	t.Parallel()
	const drain = 10 * time.Second
	noStart, broken, noStop := errors.New("no start"), errors.New("the listener broke"), errors.New("the store is busy")
	for name, test := range map[string]struct {
		start, failed, stop error
		hangs               bool
		runs, stops         time.Duration
		want                []error
		logs                string
	}{
		"a signal":                   {runs: time.Hour, logs: "stopping,stopped"},
		"a signal, and a slow drain": {runs: time.Hour, hangs: true, stops: drain, want: []error{context.DeadlineExceeded}, logs: "stopping"},
		"a signal, and an error":     {runs: time.Hour, stop: noStop, want: []error{noStop}, logs: "stopping"},
		"a failure":                  {failed: broken, runs: time.Minute, want: []error{broken}, logs: "can't go on"},
		"a failure, and an error":    {failed: broken, runs: time.Minute, stop: noStop, want: []error{broken, noStop}, logs: "can't go on"},
		"no start":                   {start: noStart, want: []error{noStart}},
		"no start, and an error":     {start: noStart, stop: noStop, want: []error{noStart, noStop}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, stops := time.Now(), 0
				ctx, signal := context.WithCancel(t.Context())
				a := app{
					start:  func(context.Context) error { return test.start },
					failed: make(chan error, 1),
					stop: func(ctx context.Context) error {
						stops++
						if left, ok := ctx.Deadline(); ctx.Err() != nil || !ok || time.Until(left) != drain {
							t.Errorf("a stop has until %v, %v", left, ctx.Err())
						}
						if test.hangs {
							<-ctx.Done()
							return ctx.Err()
						}
						return test.stop
					},
				}
				time.AfterFunc(time.Minute, func() {
					if test.failed != nil {
						a.failed <- test.failed
					}
				})
				time.AfterFunc(time.Hour, signal)
				var logs bytes.Buffer
				err := service.Run(ctx, a, drain, service.NewLogger(&logs, slog.LevelInfo))
				if took := time.Since(began); took != test.runs+test.stops || stops != 1 {
					t.Errorf("it took %s, with %d stops", took, stops)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("%v is missing from %v", want, err)
					}
				}
				if len(test.want) == 0 && err != nil {
					t.Errorf("got %v", err)
				}
				if got := messages(t, &logs); got != test.logs {
					t.Errorf("it logs %q, want %q", got, test.logs)
				}
				signal()
			})
		})
	}
}

// messages joins the messages of a log.
func messages(t *testing.T, log io.Reader) string {
	t.Helper()
	var all []string
	for decoder := json.NewDecoder(log); decoder.More(); {
		var line struct{ Msg string }
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		all = append(all, line.Msg)
	}
	return strings.Join(all, ",")
}
