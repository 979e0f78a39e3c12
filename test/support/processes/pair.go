// Package processes runs the two services as the processes that they are: built from
// this tree, with addresses chosen at run time, on SQLite in a folder of the
// caller's. `make run`, the process tests and the load generator start the pair
// with it.
package processes

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Build compiles both services into a folder, with build tags if there are any.
func Build(ctx context.Context, folder string, tags ...string) error {
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", strings.Join(tags, ","),
		"-o", folder+string(filepath.Separator), "roundtrip/services/inventory", "roundtrip/services/orders")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the services: %w\n%s", err, out)
	}
	return nil
}

// Options say how to start one service.
type Options struct {
	// Binary is the path of its executable.
	Binary string
	// Args go to `serve`; an address that they leave out is chosen by the system.
	Args []string
	// Env is added to the environment.
	Env []string
	// Log gets what the process writes, if it is not nil.
	Log io.Writer
}

// Process is a service that was started.
type Process struct {
	// URL is where it serves; AdminURL is its private port. GRPCAddr is "" where it
	// does not serve gRPC.
	URL, AdminURL, GRPCAddr string

	options Options
	cmd     *exec.Cmd
	exited  chan struct{}
	err     error

	mu  sync.Mutex
	log bytes.Buffer
}

// Start starts a service and waits until it says where it listens, which it does
// once it takes requests. A service that ends before that is an error with all
// that it wrote.
func Start(ctx context.Context, o Options) (*Process, error) {
	return begin(ctx, o, "127.0.0.1:0")
}

// Again starts a service that has ended once more, in the same place.
func (p *Process) Again(ctx context.Context) (*Process, error) {
	return begin(ctx, p.options, p.Addr())
}

// begin starts a service that serves at an address, unless the options name
// another one.
func begin(ctx context.Context, o Options, address string) (*Process, error) {
	args := append([]string{"serve", "--admin-addr=127.0.0.1:0", "--http-addr=" + address}, o.Args...)
	p := &Process{options: o, cmd: exec.Command(o.Binary, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), o.Env...)
	// A group of its own: Ctrl-C reaches the one who started the pair, who then
	// stops both in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	output, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	listening := make(chan struct{})
	go p.watch(output, o.Log, listening)
	select {
	case <-listening:
		return p, nil
	case <-p.exited:
		return nil, fmt.Errorf("%s ended before it listened: %w\n%s", filepath.Base(o.Binary), p.err, p.Log())
	case <-ctx.Done():
		p.Kill()
		return nil, fmt.Errorf("%s does not listen: %w\n%s", filepath.Base(o.Binary), ctx.Err(), p.Log())
	}
}

// watch reads the log until the process closes it, and finds the line that says
// where it listens.
func (p *Process) watch(output io.Reader, copyTo io.Writer, listening chan struct{}) {
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadBytes('\n')
		p.mu.Lock()
		p.log.Write(line)
		p.mu.Unlock()
		if copyTo != nil {
			_, _ = copyTo.Write(line)
		}
		var at struct{ Msg, HTTP, Admin, GRPC string }
		if p.URL == "" && json.Unmarshal(line, &at) == nil && at.Msg == "listening" {
			p.URL, p.AdminURL, p.GRPCAddr = "http://"+at.HTTP, "http://"+at.Admin, at.GRPC
			close(listening)
		}
		if err != nil {
			break
		}
	}
	p.err = p.cmd.Wait()
	close(p.exited)
}

// Log is all that the process has written so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Addr is where it serves, as host:port, so that a restart can take the same place.
func (p *Process) Addr() string { return strings.TrimPrefix(p.URL, "http://") }

// Signal sends a signal to a process that may have ended.
func (p *Process) Signal(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // it has ended: that is what Exited tells
}

// Exited is closed when the process has ended; then ExitError tells how.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitError is nil where the process exited with status 0.
func (p *Process) ExitError() error {
	<-p.exited
	return p.err
}

// Kill ends the process at once, as kill -9 does, and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop asks the process to stop and waits for its end; one that does not end
// while ctx lasts is killed.
func (p *Process) Stop(ctx context.Context) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
		return p.err
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("did not stop: %w", context.Cause(ctx))
	}
}

// Pair is both services.
type Pair struct {
	Inventory, Orders *Process

	// stopNATS stops the NATS server between them, where there is one.
	stopNATS func()
}

// Wire is what carries a pair's exchanges.
type Wire struct {
	// Name is http, grpc or nats.
	Name string
	// Addr is where inventory serves gRPC, or where the NATS server serves that
	// [StartPair] starts in this process. One that is empty is chosen by the system.
	Addr string
}

// StartPair starts both services on SQLite in a folder and waits until they take
// requests. The options' binaries are needed; addresses that their Args leave out
// are chosen by the system.
func StartPair(ctx context.Context, folder string, wire Wire, inventory, orders Options) (_ *Pair, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	p := &Pair{stopNATS: func() {}}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	if wire.Addr == "" {
		wire.Addr = "127.0.0.1:0"
	}
	inventoryArgs, ordersArgs := []string{"--database=sqlite:" + filepath.Join(folder, "inventory.db")}, []string{"--database=sqlite:" + filepath.Join(folder, "orders.db")}
	switch wire.Name {
	case "grpc":
		inventoryArgs = append(inventoryArgs, "--grpc-addr="+wire.Addr)
	case "nats":
		var url string
		if url, p.stopNATS, err = startNATS(wire.Addr); err != nil {
			return nil, err
		}
		inventoryArgs = append(inventoryArgs, "--nats-url="+url)
		ordersArgs = append(ordersArgs, "--inventory-wire=nats", "--inventory-url="+url)
	}
	inventory.Args = append(inventoryArgs, inventory.Args...)
	if p.Inventory, err = Start(ctx, inventory); err != nil {
		return nil, err
	}
	switch wire.Name {
	case "http":
		ordersArgs = append(ordersArgs, "--inventory-url="+p.Inventory.URL)
	case "grpc":
		ordersArgs = append(ordersArgs, "--inventory-wire=grpc", "--inventory-url=dns:///"+p.Inventory.GRPCAddr)
	}
	orders.Args = append(ordersArgs, orders.Args...)
	p.Orders, err = Start(ctx, orders)
	return p, err
}

// startNATS starts a NATS server in this process.
func startNATS(address string) (url string, stop func(), err error) {
	stop = func() {}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", stop, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", stop, err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	s, err := server.NewServer(&server.Options{Host: host, Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		return "", stop, err
	}
	s.Start()
	stop = func() { s.Shutdown(); s.WaitForShutdown() }
	if !s.ReadyForConnections(10 * time.Second) {
		return "", stop, fmt.Errorf("the NATS server can't serve on %s", address)
	}
	return s.ClientURL(), stop, nil
}

// kill ends what was started of a pair that did not start.
func (p *Pair) kill() {
	if p.Inventory != nil {
		p.Inventory.Kill()
	}
	p.stopNATS()
}

// Stop stops orders, then inventory, and reports what either wrote if it did
// not end well.
func (p *Pair) Stop(ctx context.Context) error {
	defer p.stopNATS()
	var errs []error
	for _, process := range []*Process{p.Orders, p.Inventory} {
		if err := process.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w\n%s", filepath.Base(process.cmd.Path), err, process.Log()))
		}
	}
	return errors.Join(errs...)
}
