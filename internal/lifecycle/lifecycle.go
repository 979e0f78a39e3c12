// Package lifecycle starts a service and stops it in order.
//
// What is started last is stopped first, each step named and all of them within
// one bound ([Closers]). On SIGTERM or SIGINT a service first says that it is not
// ready, then answers what is in flight, and closes its store when nothing uses it
// any more.
package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Lifecycle is the order in which an app's parts start and stop.
type Lifecycle struct {
	private  PrivatePort
	listener net.Listener
	closers  Closers
	failed   chan error

	mu    sync.Mutex
	state string
}

// Server is what a Lifecycle serves on a listener.
type Server interface {
	// Serve accepts connections until Shutdown, and then returns nil.
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// PrivatePort is where an app tells its state.
type PrivatePort interface {
	Server
	// Started says that the app takes requests from now on.
	Started()
	// Draining says that it wants no more of them.
	Draining()
}

// New makes the lifecycle of an app that is not started. It owns the private
// port's listener from now on.
func New(private PrivatePort, listener net.Listener) *Lifecycle {
	l := &Lifecycle{private: private, listener: listener, failed: make(chan error, 8), state: "new"}
	l.OnStop("private port's listener", CloseListener(listener))
	return l
}

// OnStop adds a step to be taken when the app stops, before those that were
// added earlier.
func (l *Lifecycle) OnStop(name string, stop func(context.Context) error) { l.closers.Add(name, stop) }

// OnStopParallel adds a step that is taken at the same time as the one that was
// added last.
func (l *Lifecycle) OnStopParallel(name string, stop func(context.Context) error) {
	l.closers.AddParallel(name, stop)
}

// Start serves the private port, calls start, and then says that the app is
// ready. An app starts once. Where start returns an error the app is to be
// stopped.
func (l *Lifecycle) Start(start func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != "new" {
		return fmt.Errorf("can't start what is %s", l.state)
	}
	l.state = "started"
	l.Serve("private port", l.listener, l.private)
	if err := start(); err != nil {
		return err
	}
	l.private.Started()
	return nil
}

// Serve serves on a listener until the app stops. It is called by start.
func (l *Lifecycle) Serve(name string, on net.Listener, s Server) {
	l.OnStop(name, l.serve(name, on, s))
}

// ServeParallel is [Lifecycle.Serve] of a server that stops at the same time as
// what was added last.
func (l *Lifecycle) ServeParallel(name string, on net.Listener, s Server) {
	l.OnStopParallel(name, l.serve(name, on, s))
}

func (l *Lifecycle) serve(name string, on net.Listener, s Server) (stop func(context.Context) error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(on); err != nil {
			l.failed <- fmt.Errorf("%s: %w", name, err)
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
func (l *Lifecycle) Go(name string, run func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		run(ctx)
	}()
	l.OnStop(name, func(context.Context) error {
		cancel()
		<-done
		return nil
	})
}

// Failed sends why the app can't go on.
func (l *Lifecycle) Failed() <-chan error { return l.failed }

// Stop says that the app is not ready, then takes every step of stopping within
// ctx. Stopping again, or what never started, is fine.
func (l *Lifecycle) Stop(ctx context.Context) error {
	l.mu.Lock()
	l.state = "stopped"
	l.mu.Unlock()
	l.private.Draining()
	return l.closers.Stop(ctx)
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
