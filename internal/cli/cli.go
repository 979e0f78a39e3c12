// Package cli is the command line that both services have: flags, commands, exit
// codes and the log.
//
// Every flag has an environment variable, which begins with the service's name:
// --http-addr of orders is also ORDERS_HTTP_ADDR, and the flag wins. A command
// line that can't be understood ends with [ExitFailed], as does a command that
// can't do its work; one that did it and found something wrong ends with
// [ExitDifference].
//
// Logs go to standard error: a JSON object a line, or text on a terminal. Each
// exchange has one line, with its request id, its outcome and how long it took,
// and with the cause when something went wrong; the request id joins the lines of
// both services. No line holds what a request says, or a password.
//
// The first SIGINT or SIGTERM cancels a command's context. The second ends the
// process at once.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"roundtrip/internal/database"
	"roundtrip/internal/lifecycle"
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
	Database     string `help:"Database: sqlite:PATH or postgres://USER:PASSWORD@HOST:PORT/NAME." default:"sqlite:${name}.db"`
	DatabaseFile string `help:"File with the database's address, instead of --database; it is read at every connect." placeholder:"PATH"`

	DatabaseConnections int  `help:"Most connections this process opens to PostgreSQL." default:"16"`
	AllowUnsafeDatabase bool `help:"For trials only: accept a PostgreSQL server with fsync or synchronous_commit off."`
}

// Options are how the database is used.
func (f DatabaseFlags) Options(log *slog.Logger) database.Options {
	return database.Options{
		Source: f.Source(), Connections: f.DatabaseConnections, AllowUnsafe: f.AllowUnsafeDatabase, Log: log,
	}
}

// Source is the database's address, from the file when there is one.
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
	HTTPAddr     string        `name:"http-addr" help:"Address of the REST API. Port 0 takes a free port." default:"${http_addr}"`
	AdminAddr    string        `help:"Private port, for operators only: /livez, /readyz, /startupz, /metrics." default:"${admin_addr}"`
	LogLevel     slog.Level    `help:"Lowest level that is logged: debug, info, warn or error." default:"info"`
	DrainTimeout time.Duration `help:"How long a stop may take to answer the requests in flight." default:"10s"`
	MaxInFlight  int           `help:"Most requests in flight at once; the service refuses more as overloaded." default:"512"`
	BatchMax     int           `hidden:"" help:"For measurements: most requests that one transaction decides; 1 merges none." default:"256"`
}

// Options are how the database is used.
func (f ServeFlags) Options(log *slog.Logger) database.Options {
	o := f.DatabaseFlags.Options(log)
	o.BatchMax = f.BatchMax
	return o
}

// Validate refuses a number that nothing works with.
func (f ServeFlags) Validate() error {
	if f.MaxInFlight < 1 {
		return errors.New("--max-in-flight must be at least 1")
	}
	return nil
}

// Listen listens where the API is served, and on the private port.
func (f ServeFlags) Listen() (api, private net.Listener, err error) {
	if api, err = net.Listen("tcp", f.HTTPAddr); err != nil {
		return nil, nil, err
	}
	if private, err = net.Listen("tcp", f.AdminAddr); err != nil {
		return nil, nil, errors.Join(err, api.Close())
	}
	return api, private, nil
}

// HealthcheckFlags are those of `healthcheck`.
type HealthcheckFlags struct {
	AdminAddr string `help:"Private port of the service to check." default:"${admin_addr}"`
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
	_, err := fmt.Fprintln(k.Stdout, k.Model.Name, lifecycle.Version())
	return err
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
	maps.Copy(vars, defaults)
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
		if e, ok := errors.AsType[exit](err); ok {
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
