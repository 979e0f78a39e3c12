// Package app puts inventory together: its store, its wires and its sweeper, in
// the order in which they start and stop.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/messaging"
	"roundtrip/internal/rest"
	"roundtrip/internal/rpc"
	"roundtrip/internal/service"
	"roundtrip/services/inventory/internal/grpcapi"
	"roundtrip/services/inventory/internal/httpapi"
	"roundtrip/services/inventory/internal/natsapi"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
)

// maxConnectionAge is when a connection is closed, so that callers find new
// replicas: one that was added has its share that much later.
const maxConnectionAge = 30 * time.Second

// Options say what an App is made of. All of it comes from outside, so that the
// same app runs in a process, in a test and in virtual time.
type Options struct {
	// HTTP, GRPC and Admin are where it listens; the app owns them from New on. A nil
	// GRPC is not served.
	HTTP, GRPC, Admin net.Listener
	GRPCReflection    bool
	// NATSURL is the NATS server whose requests it answers; "" for none.
	// NATSCredentials is a file with the credentials, "" for none.
	NATSURL, NATSCredentials string
	Database                 database.Source
	// DatabaseConnections and AllowUnsafeDatabase are for PostgreSQL.
	DatabaseConnections int
	AllowUnsafeDatabase bool
	// BatchMax is the most requests that one transaction decides; 0 is the usual.
	BatchMax int
	Logger   *slog.Logger
	// MaxInFlight bounds the requests that are worked on at the same time.
	MaxInFlight int
	// Around, where it is not nil, surrounds every handler on every wire, for tests.
	Around func(operation string, handle func() error) error
	// SweepInterval is how often expired holds are looked for; 1 s where it is 0.
	SweepInterval time.Duration
}

// App is inventory, put together.
type App struct {
	*service.Frame
	options Options
	http    *rest.Server
	grpc    *rpc.Server
	nats    *messaging.Server
	store   stock.Store
	// ready waits until the store can be used.
	ready func(context.Context) error
}

// New opens the store and puts the app together. Nothing is served before Start.
func New(ctx context.Context, o Options) (*App, error) {
	if o.SweepInterval == 0 {
		o.SweepInterval = time.Second
	}
	frame := service.NewFrame(o.Admin, o.Logger)
	frame.OnStop("listener", service.CloseListener(o.HTTP))
	s, wait, err := store.Open(ctx, o.Database, store.Options{
		Connections: o.DatabaseConnections, AllowUnsafe: o.AllowUnsafeDatabase, BatchMax: o.BatchMax, Log: o.Logger,
	})
	if err != nil {
		return nil, errors.Join(err, frame.Stop(ctx))
	}
	frame.OnStop("store", func(context.Context) error { return s.Close() })
	responder := exchange.NewResponder(exchange.ResponderOptions{
		Logger: o.Logger, MaxInFlight: o.MaxInFlight, Observe: frame.Metrics.Answered, Around: o.Around,
	})
	a := &App{Frame: frame, options: o, store: s, ready: wait, http: rest.New(rest.Options{Responder: responder, MaxConnectionAge: maxConnectionAge})}
	httpapi.Register(a.http, s)
	if o.GRPC != nil {
		frame.OnStop("gRPC's listener", service.CloseListener(o.GRPC))
		a.grpc = rpc.New(rpc.Options{Responder: responder, MaxConnectionAge: maxConnectionAge, Reflection: o.GRPCReflection})
		grpcapi.Register(a.grpc, s)
	}
	if o.NATSURL != "" {
		connection, err := messaging.Connect(o.NATSURL, "inventory", o.NATSCredentials, o.Logger)
		if err != nil {
			return nil, errors.Join(err, frame.Stop(ctx))
		}
		a.nats = messaging.NewServer(connection, natsapi.Prefix, natsapi.Queue, o.MaxInFlight, responder)
		frame.OnStop("NATS", a.nats.Shutdown)
		natsapi.Register(a.nats, s)
	}
	return a, nil
}

// Start begins to serve, once the store can be used. ctx bounds that wait.
func (a *App) Start(ctx context.Context) error {
	err := a.Frame.Start(func() error {
		if err := a.ready(ctx); err != nil {
			return err
		}
		a.Go("sweeper", a.sweep)
		a.Serve("http", a.options.HTTP, a.http)
		if a.grpc != nil {
			a.ServeBeside("grpc", a.options.GRPC, a.grpc)
		}
		if a.nats != nil {
			a.Beside("requests on NATS", a.nats.Shutdown)
			return a.nats.Start()
		}
		return nil
	})
	if err == nil {
		listening := []any{"http", a.Addr().String(), "admin", a.options.Admin.Addr().String(), "version", service.Version()}
		if a.grpc != nil {
			listening = append(listening, "grpc", a.options.GRPC.Addr().String())
		}
		a.options.Logger.Info("listening", listening...)
	}
	return err
}

// Addr is where the API is served.
func (a *App) Addr() net.Addr { return a.options.HTTP.Addr() }

// sweepBatch is how many holds one transaction frees.
const sweepBatch = 256

// sweep writes down the expiry of holds that have run out, so that their stock
// is free again within seconds, also where nobody asks for it.
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

// sweepOnce frees every hold that is due.
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
