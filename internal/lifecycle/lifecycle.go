// Package lifecycle starts a service and stops it in order.
//
// The parts of a service stop in the reverse order of their start. Each step of
// stopping has a name, and one time limit applies to all of them ([Closers]). On
// SIGTERM or SIGINT a service first reports that it is not ready. Then it answers the
// requests in flight. It closes its store when nothing uses the store any more.
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

// Lifecycle starts and stops the parts of an app in order.
type Lifecycle struct {
	private  PrivatePort
	listener net.Listener
	closers  Closers
	failed   chan error

	mu    sync.Mutex
	state string
}

// Server is a server that a Lifecycle runs on a listener.
type Server interface {
	// Serve accepts connections until Shutdown, and then returns nil.
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// PrivatePort is the server on which an app reports its state.
type PrivatePort interface {
	Server
	// Started reports that the app accepts requests from now on.
	Started()
	// Draining reports that the app wants no more requests.
	Draining()
}

// New makes the lifecycle of an app that is not started. The lifecycle owns the private
// port's listener and closes it.
func New(private PrivatePort, listener net.Listener) *Lifecycle {
	l := &Lifecycle{private: private, listener: listener, failed: make(chan error, 8), state: "new"}
	l.OnStop("private port's listener", CloseListener(listener))
	return l
}

// OnStop adds a step to take when the app stops, before the steps that were added
// earlier.
func (l *Lifecycle) OnStop(name string, stop func(context.Context) error) { l.closers.Add(name, stop) }

// OnStopParallel adds a step that is taken at the same time as the one that was
// added last.
func (l *Lifecycle) OnStopParallel(name string, stop func(context.Context) error) {
	l.closers.AddParallel(name, stop)
}

// Start serves the private port, calls start, and then reports that the app is ready.
// An app can start once. If start returns an error, stop the app.
func (l *Lifecycle) Start(start func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != "new" {
		return fmt.Errorf("can't start an app that is already %s", l.state)
	}
	l.state = "started"
	l.Serve("private port", l.listener, l.private)
	if err := start(); err != nil {
		return err
	}
	l.private.Started()
	return nil
}

// Serve serves on a listener until the app stops. Call it in start.
func (l *Lifecycle) Serve(name string, on net.Listener, s Server) {
	l.OnStop(name, l.serve(name, on, s))
}

// ServeParallel is like [Lifecycle.Serve], for a server that stops at the same time as
// the step that was added last.
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

// Go calls run in a goroutine. When the app stops, Go cancels run's context and waits
// until run returns. Call it in start.
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

// Failed sends the error after which the app must stop.
func (l *Lifecycle) Failed() <-chan error { return l.failed }

// Stop reports that the app is not ready, then takes every step of stopping within ctx.
// It may be called again, and for an app that never started.
func (l *Lifecycle) Stop(ctx context.Context) error {
	l.mu.Lock()
	l.state = "stopped"
	l.mu.Unlock()
	l.private.Draining()
	return l.closers.Stop(ctx)
}

// closed ignores the error of a listener that its server has already closed.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// CloseListener returns a step that closes a listener. The listener may already be
// closed.
func CloseListener(l net.Listener) func(context.Context) error {
	return func(context.Context) error { return closed(l.Close()) }
}

// App is a complete service. See the services' app packages.
type App interface {
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	// Failed sends the error after which the app must stop.
	Failed() <-chan error
}

// Run starts an app. When ctx ends or a part of the app fails, Run stops the app within
// the drain time.
func Run(ctx context.Context, app App, drain time.Duration, log *slog.Logger) error {
	err := app.Start(ctx)
	if err == nil {
		select {
		case <-ctx.Done():
			log.Info("stopping", "drain_timeout", drain.String())
		case err = <-app.Failed():
			log.Error("stopping after a failure", "error", err)
		}
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
	defer cancel()
	if err = errors.Join(err, app.Stop(stopping)); err == nil {
		log.Info("stopped")
	}
	return err
}
