// Package adminport serves a service's private port, which only its operators
// reach.
//
//   - /livez says that the process runs. It checks nothing outside the process,
//     because a restart repairs nothing there.
//   - /startupz says that the service has finished starting.
//   - /readyz says that the service accepts requests. It fails before the service has
//     started and while it drains. It never asks the other service. Otherwise a
//     service that is down would also take down the one that can still answer. Only
//     at its start may a service wait some seconds for the other one.
//   - /metrics is for Prometheus.
package adminport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server serves the private port.
type Server struct {
	http  *http.Server
	state atomic.Int32
}

const (
	starting int32 = iota
	ready
	draining
)

// New makes the private port of a service that is starting.
func New(metrics prometheus.Gatherer, log *slog.Logger) *Server {
	a := &Server{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", answer(func() bool { return true }))
	mux.HandleFunc("GET /startupz", answer(func() bool { return a.state.Load() != starting }))
	mux.HandleFunc("GET /readyz", answer(func() bool { return a.state.Load() == ready }))
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	a.http = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		WriteTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	return a
}

func answer(yes func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if yes() {
			_, _ = w.Write([]byte("ok\n")) // an error means that the prober has hung up
			return
		}
		http.Error(w, "no", http.StatusServiceUnavailable)
	}
}

// Started makes /startupz and /readyz succeed: the service accepts requests.
func (a *Server) Started() { a.state.Store(ready) }

// Draining makes /readyz fail: the service wants no more requests.
func (a *Server) Draining() { a.state.Store(draining) }

// Serve accepts connections until Shutdown, and then returns nil.
func (a *Server) Serve(l net.Listener) error {
	if err := a.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops the private port.
func (a *Server) Shutdown(ctx context.Context) error {
	if err := a.http.Shutdown(ctx); err != nil {
		return errors.Join(err, a.http.Close())
	}
	return nil
}
