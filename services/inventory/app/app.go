// Package app assembles inventory: its store, its wires and its sweeper. It starts and
// stops them in order.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/adminport"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/messaging"
	"roundtrip/internal/metrics"
	"roundtrip/internal/rest"
	"roundtrip/internal/rpc"
	"roundtrip/services/inventory/internal/grpcapi"
	"roundtrip/services/inventory/internal/httpapi"
	"roundtrip/services/inventory/internal/natsapi"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
)

// maxConnectionAge is the age at which a connection is closed, so that callers
// connect to new replicas. A new replica gets its share of requests after this time.
const maxConnectionAge = 30 * time.Second

// Options configure an App. They include everything that the app needs from outside,
// so the same app runs in a process, in a test and in virtual time.
type Options struct {
	// HTTP, GRPC and Admin are the listeners of the REST API, of the gRPC API and of the
	// private port. New takes ownership of them. If GRPC is nil, the app does not serve
	// gRPC.
	HTTP, GRPC, Admin net.Listener
	GRPCReflection    bool
	// NATSURL is the NATS server whose requests the app answers, "" for none.
	// NATSCredentials is a file with the credentials for NATS, "" for none.
	NATSURL, NATSCredentials string
	Database                 database.Options
	// Metrics counts exchanges. Default: a new Metrics.
	Metrics *metrics.Metrics
	Logger  *slog.Logger
	// MaxInFlight limits the requests that are worked on at the same time.
	MaxInFlight int
	// Around wraps every handler on every wire. It may be nil. Tests use it to inject faults.
	Around func(operation string, handle func() error) error
	// SweepInterval is how often the sweeper looks for due holds. Default: 1 s.
	SweepInterval time.Duration
}

// App is the inventory service.
type App struct {
	*lifecycle.Lifecycle
	options Options
	http    *rest.Server
	grpc    *rpc.Server
	nats    *messaging.Server
	store   stock.Store
	// ready waits until the store can be used.
	ready func(context.Context) error
}

// New opens the store and assembles the app. The app serves requests after Start.
func New(ctx context.Context, o Options) (*App, error) {
	if o.SweepInterval == 0 {
		o.SweepInterval = time.Second
	}
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	life := lifecycle.New(adminport.New(o.Metrics.Registry, o.Logger), o.Admin)
	life.OnStop("listener", lifecycle.CloseListener(o.HTTP))
	s, wait, err := store.Open(ctx, o.Database)
	if err != nil {
		return nil, errors.Join(err, life.Stop(ctx))
	}
	life.OnStop("store", func(context.Context) error { return s.Close() })
	responder := exchange.NewResponder(exchange.ResponderOptions{
		Logger: o.Logger, MaxInFlight: o.MaxInFlight, Observe: o.Metrics.Answered, Around: o.Around,
		// The priority of this request is known only after its body has been read.
		Admission: map[string]exchange.Admission{"PutReservation": exchange.AdmitByHandler},
	})
	a := &App{Lifecycle: life, options: o, store: s, ready: wait, http: rest.New(rest.Options{Responder: responder, MaxConnectionAge: maxConnectionAge})}
	inventory := stock.NewService(s, exchange.Admit)
	httpapi.Register(a.http, inventory)
	if o.GRPC != nil {
		life.OnStop("gRPC's listener", lifecycle.CloseListener(o.GRPC))
		a.grpc = rpc.New(rpc.Options{Responder: responder, Contract: inventoryv1.ProblemDetails{}, MaxConnectionAge: maxConnectionAge, Reflection: o.GRPCReflection})
		grpcapi.Register(a.grpc, inventory)
	}
	if o.NATSURL != "" {
		connection, err := messaging.Connect(o.NATSURL, "inventory", o.NATSCredentials, o.Logger)
		if err != nil {
			return nil, errors.Join(err, life.Stop(ctx))
		}
		a.nats = messaging.NewServer(connection, natsapi.Prefix, natsapi.Queue, o.MaxInFlight, responder)
		life.OnStop("NATS", a.nats.Shutdown)
		natsapi.Register(a.nats, inventory)
	}
	return a, nil
}

// Start serves requests as soon as the store can be used. ctx limits the wait for the
// store.
func (a *App) Start(ctx context.Context) error {
	err := a.Lifecycle.Start(func() error {
		if err := a.ready(ctx); err != nil {
			return err
		}
		a.Go("sweeper", a.sweep)
		a.Serve("http", a.options.HTTP, a.http)
		if a.grpc != nil {
			a.ServeParallel("grpc", a.options.GRPC, a.grpc)
		}
		if a.nats != nil {
			a.OnStopParallel("requests on NATS", a.nats.Shutdown)
			return a.nats.Start()
		}
		return nil
	})
	if err == nil {
		listening := []any{"http", a.Addr().String(), "admin", a.options.Admin.Addr().String(), "version", lifecycle.Version()}
		if a.grpc != nil {
			listening = append(listening, "grpc", a.options.GRPC.Addr().String())
		}
		a.options.Logger.Info("listening", listening...)
	}
	return err
}

// Addr is the address of the HTTP API.
func (a *App) Addr() net.Addr { return a.options.HTTP.Addr() }

// sweepBatch is the most holds that one transaction frees.
const sweepBatch = 256

// sweep writes the expiry of due holds, so that their stock is free again within
// seconds.
func (a *App) sweep(ctx context.Context) {
	tick := time.NewTicker(a.options.SweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := a.sweepOnce(ctx); err != nil && ctx.Err() == nil {
				a.options.Logger.Error("can't free expired holds", "error", err)
			}
		}
	}
}

// sweepOnce frees every due hold.
func (a *App) sweepOnce(ctx context.Context) error {
	for {
		due, err := a.store.Due(ctx, time.Now(), sweepBatch)
		if err != nil || len(due) == 0 {
			return err
		}
		expire := make([]stock.Command, len(due))
		for i, id := range due {
			expire[i] = stock.Expire{ID: id}
		}
		for _, result := range a.store.Do(ctx, expire) {
			if result.Err != nil {
				return result.Err
			}
		}
		a.options.Logger.Info("freed expired holds", "count", len(due))
	}
}
