// Package cli is the command line that both services have: flags, commands, exit
// codes and the log.
//
// Every flag has an environment variable that begins with the service's name. For
// example, --http-addr of orders is also ORDERS_HTTP_ADDR. If both are set, the flag
// wins. The exit code is [ExitFailed] if the command line is invalid or the command
// can't do its work, and [ExitDifference] if the command did its work and found
// something wrong.
//
// Logs go to standard error: one JSON object per line, or text on a terminal. Each
// exchange has one line with its request id, its outcome and its duration. After an
// error the line has the cause too. The request id connects the lines of both
// services. No line holds contents of a request, or a password.
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

// Options returns the options for the database.
func (f DatabaseFlags) Options(log *slog.Logger) database.Options {
	return database.Options{
		Source: f.Source(), Connections: f.DatabaseConnections, AllowUnsafe: f.AllowUnsafeDatabase, Log: log,
	}
}

// Source returns the source of the database's address: the file if one is given.
func (f DatabaseFlags) Source() database.Source {
	if f.DatabaseFile != "" {
		return database.FromFile(f.DatabaseFile)
	}
	return database.FromAddress(f.Database)
}

// Validate refuses numbers with which the service can't work.
func (f DatabaseFlags) Validate() error {
	if f.DatabaseConnections < 1 {
		return errors.New("--database-connections must be at least 1")
	}
	return nil
}

// ServeFlags are the flags of `serve` that both services have.
type ServeFlags struct {
	DatabaseFlags
	HTTPAddr     string        `name:"http-addr" help:"Address of the REST API. Port 0 takes a free port." default:"${http_addr}"`
	AdminAddr    string        `help:"Private port, for operators only: /livez, /readyz, /startupz, /metrics." default:"${admin_addr}"`
	LogLevel     slog.Level    `help:"Lowest level that is logged: debug, info, warn or error." default:"info"`
	DrainTimeout time.Duration `help:"How long a stop may take to answer the requests in flight." default:"10s"`
	MaxInFlight  int           `help:"Most requests in flight at once; the service refuses more as overloaded." default:"512"`
	BatchMax     int           `hidden:"" help:"For measurements: most requests that one transaction decides; 1 merges none." default:"256"`
}

// Options returns the options for the database.
func (f ServeFlags) Options(log *slog.Logger) database.Options {
	o := f.DatabaseFlags.Options(log)
	o.BatchMax = f.BatchMax
	return o
}

// Validate refuses numbers with which the service can't work.
func (f ServeFlags) Validate() error {
	if f.MaxInFlight < 1 {
		return errors.New("--max-in-flight must be at least 1")
	}
	return nil
}

// Listen opens the listeners of the REST API and of the private port.
func (f ServeFlags) Listen() (api, private net.Listener, err error) {
	if api, err = net.Listen("tcp", f.HTTPAddr); err != nil {
		return nil, nil, err
	}
	if private, err = net.Listen("tcp", f.AdminAddr); err != nil {
		return nil, nil, errors.Join(err, api.Close())
	}
	return api, private, nil
}

// HealthcheckFlags are the flags of `healthcheck`.
type HealthcheckFlags struct {
	AdminAddr string `help:"Private port of the service to check." default:"${admin_addr}"`
}

// Run checks whether the service accepts requests. The health check of an image or of a
// supervisor runs it.
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

// VersionFlags are the flags of `version`.
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

// Exit makes an error for which [Main] returns this exit code.
func Exit(code int, err error) error { return exit{err, code} }

// Main reads the command line into cli, runs the command that it names, and returns the
// process's exit code. Commands have a method Run. The first SIGINT or SIGTERM cancels
// the context that Run gets. The second ends the process.
func Main(name, description string, cli any, defaults map[string]string) int {
	vars := kong.Vars{"name": name}
	maps.Copy(vars, defaults)
	ctx, stop := signals()
	defer stop()
	parser, err := kong.New(cli, kong.Name(name), kong.Description(description),
		kong.DefaultEnvars(strings.ToUpper(name)), vars, kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
		kong.BindTo(ctx, (*context.Context)(nil)))
	if err != nil {
		panic(err) // the definition of the command line is wrong
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

// signals returns a context that the first signal to stop cancels. The second signal
// ends the process, with the exit code that a shell reports for this signal.
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

// NewLogger makes a logger of structured lines: text if w is a terminal, JSON
// otherwise.
func NewLogger(w io.Writer, level slog.Level) *slog.Logger {
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		// A problem's JSON lacks its cause, which the log must have. So an error is written
		// with its Error method.
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
