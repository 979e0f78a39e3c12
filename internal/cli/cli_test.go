package cli_test

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
	"time"

	"golang.org/x/term"

	"roundtrip/internal/adminport"
	"roundtrip/internal/cli"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/metrics"
	"roundtrip/internal/problem"
)

func TestDatabaseAddressComesFromTheFileIfThereIsOne(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "address")
	flags := cli.DatabaseFlags{Database: "sqlite:flag.db"}
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

// A problem's JSON lacks its cause. A log has it.
func TestLoggedErrorHasItsCause(t *testing.T) {
	t.Parallel()
	var buffer bytes.Buffer
	cli.NewLogger(&buffer, slog.LevelInfo).Error("it failed", "error", problem.Wrap(errors.New("no space left"), problem.Unavailable, "It can't be done."))
	var line struct{ Error string }
	if err := json.Unmarshal(buffer.Bytes(), &line); err != nil || line.Error != "unavailable: It can't be done. (no space left)" {
		t.Errorf("%v: %s", err, &buffer)
	}
}

func TestLogsAreJSONWithoutATerminal(t *testing.T) {
	t.Parallel()
	file, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var buffer bytes.Buffer
	for name, w := range map[string]io.Writer{"a buffer": &buffer, "a file": file} {
		log := cli.NewLogger(w, slog.LevelInfo)
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
	if !cli.NewLogger(io.Discard, slog.LevelDebug).Enabled(t.Context(), slog.LevelDebug) {
		t.Error("debug is not logged at level debug")
	}
}

// leftOut skips a test and says why. In CI the test fails instead.
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
		leftOut(t, "this machine can't make a terminal: "+err.Error())
	}
	defer terminal.Close()
	if !term.IsTerminal(int(terminal.Fd())) {
		leftOut(t, "on this system the master side of a terminal is not a terminal")
	}
	if log := cli.NewLogger(terminal, slog.LevelWarn); log.Enabled(t.Context(), slog.LevelInfo) {
		t.Error("info is logged at level warn")
	} else if _, ok := log.Handler().(*slog.TextHandler); !ok {
		t.Errorf("its handler is %T", log.Handler())
	}
}

// patience is how long a test waits for an event that must happen.
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

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	l := listen(t)
	f := lifecycle.New(adminport.New(metrics.New().Registry, slog.New(slog.DiscardHandler)), l)
	address := l.Addr().String()
	check := func(address string) error { return cli.HealthcheckFlags{AdminAddr: address}.Run(t.Context()) }
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
			t.Errorf("%s, with a proxy: got %+v", address, r)
		}
	}
	if err := f.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	wantSick("after it has stopped")
	if r := run(t, nil, "healthcheck", "--admin-addr", address); r.code != cli.ExitDifference || !strings.HasPrefix(r.stderr, "trial: not healthy: ") {
		t.Errorf("the command: got %+v", r)
	}
}

func TestHealthcheckTimesOut(t *testing.T) {
	t.Parallel()
	silent := listen(t) // accepts connections and never answers
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := (cli.HealthcheckFlags{AdminAddr: silent.Addr().String()}).Run(ctx); !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		t.Errorf("got %v", err)
	}
}
