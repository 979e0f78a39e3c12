package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
)

// Frame is what both apps have: the private port, the metrics, and the order in
// which things start and stop.
type Frame struct {
	Metrics *Metrics

	admin    *Admin
	listener net.Listener
	log      *slog.Logger
	stack    Stack
	failed   chan error

	mu    sync.Mutex
	state string
}

// Server is what a Frame serves on a listener.
type Server interface {
	// Serve accepts connections until Shutdown, and then returns nil.
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// NewFrame makes the frame of an app that is not started. It owns the private
// port's listener from now on.
func NewFrame(admin net.Listener, log *slog.Logger) *Frame {
	metrics := NewMetrics()
	f := &Frame{
		Metrics: metrics, admin: NewAdmin(metrics.Registry, log), listener: admin, log: log,
		failed: make(chan error, 8), state: "new",
	}
	f.OnStop("private port's listener", CloseListener(admin))
	return f
}

// OnStop adds a step to be taken when the app stops, before those that were
// added earlier.
func (f *Frame) OnStop(name string, stop func(context.Context) error) { f.stack.Push(name, stop) }

// Beside adds a step that is taken at the same time as the last one.
func (f *Frame) Beside(name string, stop func(context.Context) error) { f.stack.Beside(name, stop) }

// Start serves the private port, calls start, and then says that the app is
// ready. An app starts once. Where start returns an error the app is to be
// stopped.
func (f *Frame) Start(start func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state != "new" {
		return fmt.Errorf("can't start what is %s", f.state)
	}
	f.state = "started"
	f.Serve("private port", f.listener, f.admin)
	if err := start(); err != nil {
		return err
	}
	f.admin.Started()
	return nil
}

// Serve serves on a listener until the app stops. It is called by start.
func (f *Frame) Serve(name string, l net.Listener, s Server) { f.OnStop(name, f.serve(name, l, s)) }

// ServeBeside is [Frame.Serve] of a server that stops at the same time as the last one.
func (f *Frame) ServeBeside(name string, l net.Listener, s Server) {
	f.Beside(name, f.serve(name, l, s))
}

func (f *Frame) serve(name string, l net.Listener, s Server) (stop func(context.Context) error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil {
			f.failed <- fmt.Errorf("%s: %w", name, err)
		}
	}()
	return func(ctx context.Context) error {
		err := s.Shutdown(ctx)
		<-done
		return err
	}
}

// Go runs something until the app stops, and then waits for its end. It is
// called by start.
func (f *Frame) Go(name string, run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	f.OnStop(name, func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// Failed sends why the app can't go on.
func (f *Frame) Failed() <-chan error { return f.failed }

// Stop says that the app is not ready, then takes every step of stopping within
// ctx. Stopping again, or what never started, is fine.
func (f *Frame) Stop(ctx context.Context) error {
	f.mu.Lock()
	f.state = "stopped"
	f.mu.Unlock()
	f.admin.Draining()
	return f.stack.Stop(ctx)
}

// closed forgives a listener that its server has closed before.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// CloseListener is a step that closes a listener which may be closed already.
func CloseListener(l net.Listener) func(context.Context) error {
	return func(context.Context) error { return closed(l.Close()) }
}
