package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"roundtrip/internal/adminport"
	"roundtrip/internal/cli"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/metrics"
)

// trialRun serves on free ports until its context ends. It answers each request when
// standard input ends.
type trialRun struct {
	cli.ServeFlags
}

func (r trialRun) Run(ctx context.Context) error {
	log := cli.NewLogger(os.Stderr, r.LogLevel)
	api, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	f := lifecycle.New(adminport.New(metrics.New().Registry, log), admin)
	note := func(what string) func(context.Context) error {
		return func(context.Context) error {
			log.Info(what)
			return nil
		}
	}
	f.OnStop("store", note("store closed"))
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		log.Info("request started")
		_, _ = io.Copy(io.Discard, os.Stdin) // until standard input ends
		log.Info("answered")
		_, _ = io.WriteString(w, "done") // the caller may have hung up
	})
	return lifecycle.Run(ctx, trialApp{f, func() error {
		f.Serve("http", api, &trialServer{http.Server{Handler: handler}})
		f.OnStop("nothing", note("draining"))
		log.Info("listening", "http", api.Addr().String(), "admin", admin.Addr().String())
		return nil
	}}, r.DrainTimeout, log)
}

type trialApp struct {
	*lifecycle.Lifecycle
	start func() error
}

func (a trialApp) Start(context.Context) error { return a.Lifecycle.Start(a.start) }

type trialServer struct{ http.Server }

func (s *trialServer) Serve(l net.Listener) error {
	if err := s.Server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// running is a running process of trial.
type running struct {
	*exec.Cmd
	stdin io.Closer
	log   *bufio.Scanner
}

type line struct{ Msg, HTTP, Admin string }

// next returns the next line of the log; an empty one at the end.
func (r *running) next(t *testing.T) (l line) {
	t.Helper()
	if !r.log.Scan() {
		return l
	}
	if err := json.Unmarshal(r.log.Bytes(), &l); err != nil {
		t.Errorf("%v in %q", err, r.log.Text())
	}
	return l
}

// rest returns what the process logs until it ends, and its exit code.
func (r *running) rest(t *testing.T) (messages []string, code int) {
	t.Helper()
	for l := r.next(t); l.Msg != ""; l = r.next(t) {
		messages = append(messages, l.Msg)
	}
	_ = r.Wait() // the exit code says how
	return messages, r.ProcessState.ExitCode()
}

// stopRunning starts trial, sends it a request and then the signal, while the request is
// in flight. The channel gives the answer: "done", or why there is none.
func stopRunning(t *testing.T, signal os.Signal) (*running, <-chan string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r := &running{Cmd: exec.CommandContext(ctx, self, "run", "--drain-timeout=1h")}
	r.Env = append(os.Environ(), asTrial+"=1")
	if r.stdin, err = r.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	stderr, err := r.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	r.log = bufio.NewScanner(stderr)
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	want := func(msg string) line {
		t.Helper()
		l := r.next(t)
		if l.Msg != msg {
			t.Fatalf("it logs %q, want %q", l.Msg, msg)
		}
		return l
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(address, path string) (int, string) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
		if err != nil {
			return 0, err.Error()
		}
		response, err := client.Do(request)
		if err != nil {
			return 0, err.Error()
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return 0, err.Error()
		}
		return response.StatusCode, string(body)
	}
	at := want("listening")
	answer := make(chan string, 1)
	go func() {
		_, text := get(at.HTTP, "/")
		answer <- text
	}()
	want("request started")
	if err := r.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
	want("stopping")
	want("draining")
	for path, want := range map[string]int{"/readyz": 503, "/livez": 200} {
		if status, body := get(at.Admin, path); status != want {
			t.Errorf("while it drains, %s is %d %q, want %d", path, status, body, want)
		}
	}
	return r, answer
}

func TestSignalStopsAfterRequestsInFlightAreAnswered(t *testing.T) {
	t.Parallel()
	for _, signal := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		r, answer := stopRunning(t, signal)
		if err := r.stdin.Close(); err != nil {
			t.Error(err)
		}
		if got := <-answer; got != "done" {
			t.Errorf("%s: the answer is %q", signal, got)
		}
		messages, code := r.rest(t)
		if want := []string{"answered", "store closed", "stopped"}; code != 0 || !slices.Equal(messages, want) {
			t.Errorf("%s: it logs %q and exits with %d, want %q and 0", signal, messages, code, want)
		}
	}
}

func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		r, answer := stopRunning(t, syscall.SIGTERM)
		if err := r.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if messages, code := r.rest(t); code != 128+int(signal) || len(messages) > 0 {
			t.Errorf("%s: it logs %q and exits with %d", signal, messages, code)
		}
		if got := <-answer; got == "done" {
			t.Errorf("%s: it waited for the request in flight", signal)
		}
	}
}
