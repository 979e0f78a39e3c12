// Package service is the frame that both services run in: flags, logs, metrics,
// a private port, and starting and stopping in order.
//
// # Flags
//
// Every flag has an environment variable, which begins with the service's name:
// --http-addr of orders is also ORDERS_HTTP_ADDR, and the flag wins. A command
// line that can't be understood ends with [ExitFailed], as does a command that
// can't do its work; one that did it and found something wrong ends with
// [ExitDifference].
//
// # The private port
//
// A service has a second listener, which only its operators reach. /livez says
// that the process runs, and touches nothing else: a restart mends nothing that
// is outside of it. /startupz says that it has finished starting. /readyz says
// whether it wants requests: not before it has started, and not while it drains.
// It never asks the other service, for otherwise one that is down would take
// down the one that could still answer; only a start may wait for it, some seconds.
// /metrics is for Prometheus.
//
// # Logs and metrics
//
// Logs go to standard error: a JSON object a line, or text where somebody
// watches. Each exchange has one line, with its request id, its outcome and how
// long it took, and with the cause where something went wrong; the request id
// joins the lines of both services. What a request says, and a password, is in
// no line. [Metrics] counts the same exchanges, those that the service answered
// (role responder) and those that it made (role caller), by labels whose values
// nobody outside can make up.
//
// # Starting and stopping
//
// What is started last is stopped first, each step named and all of them within
// one bound ([Stack]). On SIGTERM or SIGINT a service first says that it is not
// ready, then answers what is in flight, and closes its store when nobody uses
// it any more. A second signal ends it at once.
package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"roundtrip/internal/database"
)

// Exit codes.
const (
	// ExitDifference: an audit found differences, or a check failed.
	ExitDifference = 1
	// ExitFailed: the command could not do its work.
	ExitFailed = 2
)

// DatabaseFlags say where the database is.
type DatabaseFlags struct {
	Database     string `help:"Where the data is: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME." default:"sqlite:${name}.db"`
	DatabaseFile string `help:"A file that holds the database's address, instead of --database. It is read again at every connect, so what is in it may change." placeholder:"PATH"`

	DatabaseConnections int  `help:"How many connections to PostgreSQL this process has at most." default:"16"`
	AllowUnsafeDatabase bool `help:"Work with a PostgreSQL server that may lose what it has confirmed (fsync or synchronous_commit off). For trying things out."`
}

// Source is the database's address, from the file where there is one.
func (f DatabaseFlags) Source() database.Source {
	if f.DatabaseFile != "" {
		return database.FromFile(f.DatabaseFile)
	}
	return database.FromAddress(f.Database)
}

// Validate refuses a number that nothing works with.
func (f DatabaseFlags) Validate() error {
	if f.DatabaseConnections < 1 {
		return errors.New("--database-connections must be at least 1")
	}
	return nil
}

// ServeFlags are those of `serve` that both services have.
type ServeFlags struct {
	DatabaseFlags
	HTTPAddr     string        `name:"http-addr" help:"Where to serve the API. Port 0 takes a free one." default:"${http_addr}"`
	AdminAddr    string        `help:"The private port: /livez, /readyz, /startupz, /metrics. Nobody but operators should reach it." default:"${admin_addr}"`
	LogLevel     slog.Level    `help:"The least level that is logged: debug, info, warn or error." default:"info"`
	DrainTimeout time.Duration `help:"How long a stop may take to answer what is in flight." default:"10s"`
	MaxInFlight  int           `help:"How many requests are worked on at the same time; more are refused as overloaded." default:"512"`
	BatchMax     int           `hidden:"" help:"How many requests one transaction decides at most. For measuring: 1 shows what merging them gains." default:"256"`
}

// Validate refuses a number that nothing works with.
func (f ServeFlags) Validate() error {
	if f.MaxInFlight < 1 {
		return errors.New("--max-in-flight must be at least 1")
	}
	return nil
}

// HealthcheckFlags are those of `healthcheck`.
type HealthcheckFlags struct {
	AdminAddr string `help:"The private port of the service to check." default:"${admin_addr}"`
}

// Run asks whether the service takes requests: it is what an image's or a
// supervisor's health check runs.
func (h HealthcheckFlags) Run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.AdminAddr+"/readyz", nil)
	if err != nil {
		return err
	}
	direct := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // a proxy can't reach the private port
	response, err := direct.Do(request)
	if err != nil {
		return Exit(ExitDifference, fmt.Errorf("not healthy: %w", err))
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return Exit(ExitDifference, fmt.Errorf("not healthy: %s", response.Status))
	}
	return nil
}

// VersionFlags are those of `version`.
type VersionFlags struct{}

// Run prints the version.
func (VersionFlags) Run(k *kong.Context) error {
	_, err := fmt.Fprintln(k.Stdout, k.Model.Name, Version())
	return err
}

// Version is the module's version, or the commit that the binary was built
// from; "unknown" where the build recorded neither.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return version(info)
}

func version(info *debug.BuildInfo) string {
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value
		}
	}
	return "unknown"
}

type exit struct {
	error
	code int
}

func (e exit) Unwrap() error { return e.error }

// Exit makes an error with which [Main] ends the process with that code.
func Exit(code int, err error) error { return exit{err, code} }

// Main reads the command line into cli, runs the command that it names, and
// returns the process's exit code. Commands have a method Run, which is given a
// context that the first SIGINT or SIGTERM cancels; the second ends the process.
func Main(name, description string, cli any, defaults map[string]string) int {
	vars := kong.Vars{"name": name}
	for key, value := range defaults {
		vars[key] = value
	}
	ctx, stop := signals()
	defer stop()
	parser, err := kong.New(cli, kong.Name(name), kong.Description(description),
		kong.DefaultEnvars(strings.ToUpper(name)), vars, kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		panic(err) // the command line's own definition is wrong
	}
	command, err := parser.Parse(os.Args[1:])
	if err != nil {
		parser.Errorf("%s", err)
		return ExitFailed
	}
	if err := command.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %s\n", name, err)
		var e exit
		if errors.As(err, &e) {
			return e.code
		}
		return ExitFailed
	}
	return 0
}

// signals cancels a context at the first signal to stop and ends the process at
// the second, as a shell would report it.
func signals() (ctx context.Context, stop context.CancelFunc) {
	ctx, stop = context.WithCancel(context.Background())
	received := make(chan os.Signal, 2)
	signal.Notify(received, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		<-received
		stop()
		again := <-received
		os.Exit(128 + int(again.(syscall.Signal)))
	}()
	return ctx, stop
}

// NewLogger writes structured logs: JSON, or text where w is a terminal.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		// A problem is written as it crosses a wire, without its cause, which is what a
		// log is for.
		if err, ok := a.Value.Any().(error); ok {
			a.Value = slog.StringValue(err.Error())
		}
		return a
	}}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// App is a service that was put together: see the services' app packages.
type App interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	// Failed sends why the app can't go on.
	Failed() <-chan error
}

// Run starts an app, and stops it within the drain time when ctx is done or it
// can't go on.
func Run(ctx context.Context, app App, drain time.Duration, log *slog.Logger) error {
	err := app.Start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
			log.Info("stopping", "drain_timeout", drain.String())
		case err = <-app.Failed():
			log.Error("can't go on", "error", err)
		}
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err = errors.Join(err, app.Stop(stopping)); err == nil {
		log.Info("stopped")
	}
	return err
}
