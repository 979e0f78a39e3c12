// Package app puts inventory together: its store, its wires and its sweeper, in
// the order in which they start and stop.
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
	Database                 database.Options
	// Metrics counts exchanges. Default: new ones.
	Metrics *metrics.Metrics
	Logger  *slog.Logger
	// MaxInFlight bounds the requests that are worked on at the same time.
	MaxInFlight int
	// Around wraps every handler on every wire. It may be nil. Tests use it to inject faults.
	Around func(operation string, handle func() error) error
	// SweepInterval is how often expired holds are looked for; 1 s where it is 0.
	SweepInterval time.Duration
}

// App is inventory, put together.
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

// New opens the store and puts the app together. Nothing is served before Start.
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
		// What has priority is known only once the request has been read.
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

// Start begins to serve, once the store can be used. ctx bounds that wait.
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

// Addr is where the API is served.
func (a *App) Addr() net.Addr { return a.options.HTTP.Addr() }

// sweepBatch is how many holds one transaction frees.
const sweepBatch = 256

// sweep writes down the expiry of holds that have run out, so that their stock
// is free again within seconds.
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
