// Package processes runs the two services as processes: built from this tree, on
// free ports, with SQLite in a given folder. `make run`, the process tests, the
// chart tests and the load generator use it.
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

// Build compiles both services into a folder. Tags are build tags.
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
	// Args are arguments of `serve`. If they have no address, the service gets a free
	// port.
	Args []string
	// Env is added to the environment.
	Env []string
	// Log gets the output of the process. It may be nil.
	Log io.Writer
}

// Process is a running service.
type Process struct {
	// URL is the URL of the API, and AdminURL of the private port. GRPCAddr is "" if
	// the service does not serve gRPC.
	URL, AdminURL, GRPCAddr string

	options Options
	cmd     *exec.Cmd
	exited  chan struct{}
	err     error

	mu  sync.Mutex
	log bytes.Buffer
}

// Start starts a service and waits until it logs its addresses. Then it accepts
// requests. If it exits before that, the error has its output.
func Start(ctx context.Context, o Options) (*Process, error) {
	return start(ctx, o, "127.0.0.1:0")
}

// Restart starts a service that has exited again, at the same address.
func (p *Process) Restart(ctx context.Context) (*Process, error) {
	return start(ctx, p.options, p.Addr())
}

// start starts a service at an address, unless the options have another one.
func start(ctx context.Context, o Options, address string) (*Process, error) {
	args := append([]string{"serve", "--admin-addr=127.0.0.1:0", "--http-addr=" + address}, o.Args...)
	p := &Process{options: o, cmd: exec.Command(o.Binary, args...), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), o.Env...)
	// A process group of its own: Ctrl-C reaches only the process that started the
	// services, which then stops them in order.
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
		return nil, fmt.Errorf("%s exited before it listened: %w\n%s", filepath.Base(o.Binary), p.err, p.Log())
	case <-ctx.Done():
		p.Kill()
		return nil, fmt.Errorf("%s did not listen in time: %w\n%s", filepath.Base(o.Binary), ctx.Err(), p.Log())
	}
}

// watch reads the log until the process closes it, and reads the addresses from it.
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

// Log is what the process has written so far.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Addr is the host and port of the API.
func (p *Process) Addr() string { return strings.TrimPrefix(p.URL, "http://") }

// Signal sends a signal. The process may have exited.
func (p *Process) Signal(s os.Signal) {
	_ = p.cmd.Process.Signal(s) // an error means that it has exited, which Exited reports
}

// Exited is closed when the process has exited. ExitError returns the result.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// ExitError waits for the exit. It is nil for status 0.
func (p *Process) ExitError() error {
	<-p.exited
	return p.err
}

// Kill kills the process with SIGKILL and waits for its exit.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop sends SIGTERM and waits for the exit. It kills the process when ctx ends.
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

// System is both services, connected by a wire.
type System struct {
	Inventory, Orders *Process

	// stopNATS stops the NATS server between them, if there is one.
	stopNATS func()
}

// Wire is the wire between the services.
type Wire struct {
	// Name is http, grpc or nats.
	Name string
	// Addr is the address of inventory's gRPC, or of the NATS server that
	// [StartSystem] starts in this process. Default: a free port.
	Addr string
}

// StartSystem starts both services on SQLite in a folder and waits until they accept
// requests. The options need a Binary.
func StartSystem(ctx context.Context, folder string, wire Wire, inventory, orders Options) (_ *System, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, err
	}
	s := &System{stopNATS: func() {}}
	defer func() {
		if err != nil {
			s.kill()
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
		if url, s.stopNATS, err = startNATS(wire.Addr); err != nil {
			return nil, err
		}
		inventoryArgs = append(inventoryArgs, "--nats-url="+url)
		ordersArgs = append(ordersArgs, "--inventory-wire=nats", "--inventory-url="+url)
	}
	inventory.Args = append(inventoryArgs, inventory.Args...)
	if s.Inventory, err = Start(ctx, inventory); err != nil {
		return nil, err
	}
	switch wire.Name {
	case "http":
		ordersArgs = append(ordersArgs, "--inventory-url="+s.Inventory.URL)
	case "grpc":
		ordersArgs = append(ordersArgs, "--inventory-wire=grpc", "--inventory-url=dns:///"+s.Inventory.GRPCAddr)
	}
	orders.Args = append(ordersArgs, orders.Args...)
	s.Orders, err = Start(ctx, orders)
	return s, err
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
	n, err := server.NewServer(&server.Options{Host: host, Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		return "", stop, err
	}
	n.Start()
	stop = func() { n.Shutdown(); n.WaitForShutdown() }
	if !n.ReadyForConnections(10 * time.Second) {
		return "", stop, fmt.Errorf("the NATS server does not start on %s", address)
	}
	return n.ClientURL(), stop, nil
}

// kill kills the started parts after another part failed to start.
func (s *System) kill() {
	if s.Inventory != nil {
		s.Inventory.Kill()
	}
	s.stopNATS()
}

// Stop stops orders, then inventory. An error has the output of the service.
func (s *System) Stop(ctx context.Context) error {
	defer s.stopNATS()
	var errs []error
	for _, process := range []*Process{s.Orders, s.Inventory} {
		if err := process.Stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w\n%s", filepath.Base(process.cmd.Path), err, process.Log()))
		}
	}
	return errors.Join(errs...)
}
