// Package app assembles orders: its store, its wire to inventory, the protocol, its
// API and the settler. It starts and stops them in order.
package app

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"roundtrip/internal/adminport"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/lifecycle"
	"roundtrip/internal/metrics"
	"roundtrip/internal/rest"
	"roundtrip/services/orders/internal/httpapi"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wires"
	"roundtrip/services/orders/internal/order"
	"roundtrip/services/orders/internal/store"
)

// maxConnectionAge is the age at which a connection is closed, so that callers
// connect to new replicas. A new replica gets its share of requests after this time.
const maxConnectionAge = 30 * time.Second

// Options configure an App. They include everything that the app needs from outside,
// so the same app runs in a process, in a test and in virtual time.
type Options struct {
	// HTTP and Admin are the listeners of the API and of the private port. New takes
	// ownership of them.
	HTTP, Admin net.Listener
	Database    database.Options
	// Metrics counts exchanges. Default: a new Metrics.
	Metrics *metrics.Metrics
	Logger  *slog.Logger
	// MaxInFlight limits the requests that are worked on at the same time. Each request
	// makes one exchange at a time, so it limits the exchanges too.
	MaxInFlight int
	// InventoryWire is the wire to inventory: http, grpc or nats. InventoryURL is the
	// address of inventory. NATSCredentials is a file with the credentials for NATS, ""
	// for none. Dial opens connections, except to NATS. It may be nil.
	InventoryWire, InventoryURL string
	NATSCredentials             string
	Dial                        inventory.Dial
	// SettleInterval is how often the settler looks for work. GiveUpAfter is the age at
	// which it gives up an unsettled place.
	SettleInterval, GiveUpAfter time.Duration
}

// App is the orders service.
type App struct {
	*lifecycle.Lifecycle
	options Options
	server  *rest.Server
	settler *order.Settler
	// ready waits until the store can be used.
	ready func(context.Context) error
	wire  inventory.Wire
}

// New opens the store and assembles the app. The app serves requests after Start.
func New(ctx context.Context, o Options) (*App, error) {
	if o.Metrics == nil {
		o.Metrics = metrics.New()
	}
	life := lifecycle.New(adminport.New(o.Metrics.Registry, o.Logger), o.Admin)
	life.OnStop("listener", lifecycle.CloseListener(o.HTTP))
	app, err := assemble(ctx, life, o)
	if err != nil {
		return nil, errors.Join(err, life.Stop(ctx))
	}
	return app, nil
}

func assemble(ctx context.Context, life *lifecycle.Lifecycle, o Options) (*App, error) {
	s, wait, err := store.Open(ctx, o.Database)
	if err != nil {
		return nil, err
	}
	life.OnStop("store", func(context.Context) error { return s.Close() })
	wire, err := wires.New(wires.Options{
		Wire: o.InventoryWire, URL: o.InventoryURL, NATSCredentials: o.NATSCredentials, MaxInFlight: o.MaxInFlight, Dial: o.Dial, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	life.OnStop("wire to inventory", func(context.Context) error { return wire.Close() })

	caller := exchange.NewCaller(exchange.Options{SplitTimeout: o.InventoryWire == "nats", Observe: func(e exchange.CallObservation) {
		o.Metrics.Called(o.InventoryWire, e)
		logExchange(o.Logger, o.InventoryWire, e)
	}})
	alarm := func(reason string) {
		o.Metrics.Alarm(reason)
		o.Logger.Error("an intent can't be settled: look at inventory's answer", "reason", reason)
	}
	protocol := order.NewProtocol(s, inventory.New(wire, caller), caller.Unreachable, alarm)
	resending := order.NewProtocol(s, inventory.NewResending(wire, caller), caller.Unreachable, alarm)
	server := rest.New(rest.Options{MaxConnectionAge: maxConnectionAge, Responder: exchange.NewResponder(exchange.ResponderOptions{
		Logger: o.Logger, MaxInFlight: o.MaxInFlight, Observe: o.Metrics.Answered,
		// Confirm and cancel free capacity or stock, so they are shed last.
		Admission: map[string]exchange.Admission{"ConfirmOrder": exchange.AdmitPriority, "CancelOrder": exchange.AdmitPriority},
	})})
	httpapi.Register(server, protocol)
	o.Metrics.Registry.MustRegister(backlog{s, o.Logger})
	return &App{life, o, server, order.NewSettler(resending, o.SettleInterval, o.GiveUpAfter, o.Logger), wait, wire}, nil
}

// logExchange writes one line per exchange with inventory, without its content.
func logExchange(log *slog.Logger, wire string, e exchange.CallObservation) {
	attributes := []any{
		"request_id", e.RequestID, "operation", e.Operation, "wire", wire, "outcome", exchange.Outcome(exchange.Problem(e.Err)),
		"attempts", len(e.Attempts), "resend", e.Resend, "duration_ms", milliseconds(e.Duration),
	}
	if len(e.Attempts) > 1 {
		attributes = append(attributes, "tried", tried(e.Attempts))
	}
	if e.TraceID != "" {
		attributes = append(attributes, "trace_id", e.TraceID)
	}
	if cause := errors.Unwrap(e.Err); cause != nil {
		attributes = append(attributes, "error", cause.Error())
	}
	log.Info("asked inventory", attributes...)
}

// attempted is the log entry for one attempt of an exchange that took several.
type attempted struct {
	AfterMS    float64 `json:"after_ms"`
	DurationMS float64 `json:"duration_ms"`
	Outcome    string  `json:"outcome"`
	Error      string  `json:"error,omitempty"`
}

func tried(attempts []exchange.AttemptObservation) []attempted {
	all := make([]attempted, len(attempts))
	for i, a := range attempts {
		all[i] = attempted{milliseconds(a.After), milliseconds(a.Duration), exchange.Outcome(exchange.Problem(a.Err)), ""}
		if cause := errors.Unwrap(a.Err); cause != nil {
			all[i].Error = cause.Error()
		}
	}
	return all
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// reachWithin is how long a start waits for inventory. A cluster may need some seconds
// before it lets a new pod's connections through.
const reachWithin = 10 * time.Second

// reach waits until inventory has answered once, so that the first request does not
// have to wait. If inventory does not answer, the app starts without it: orders can
// still serve many requests.
func (a *App) reach(ctx context.Context) {
	err := lifecycle.Retry(ctx, reachWithin, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(exchange.WithRequestID(ctx, exchange.NewRequestID()), exchange.DefaultTimeout/4)
		defer cancel()
		if _, err := a.wire.GetReservation(ctx, 1, "orders-starts"); !exchange.Answered(err) {
			return err
		}
		return nil
	})
	if err != nil {
		a.options.Logger.Warn("starting without inventory, which does not answer yet", "error", err)
	}
}

// Start serves requests as soon as the store can be used. The app is ready when
// inventory has answered too, or after [reachWithin]. ctx limits the wait for the store.
func (a *App) Start(ctx context.Context) error {
	err := a.Lifecycle.Start(func() error {
		if err := a.ready(ctx); err != nil {
			return err
		}
		a.Go("settler", a.settler.Run)
		a.Serve("http", a.options.HTTP, a.server)
		a.reach(ctx)
		return nil
	})
	if err == nil {
		a.options.Logger.Info("listening", "http", a.Addr().String(), "admin", a.options.Admin.Addr().String(), "version", lifecycle.Version())
	}
	return err
}

// Addr is the address of the API.
func (a *App) Addr() net.Addr { return a.options.HTTP.Addr() }

// backlog is a Prometheus collector of the unsettled intents. It asks the store at each
// scrape.
type backlog struct {
	store order.Store
	log   *slog.Logger
}

var (
	unsettledDesc = prometheus.NewDesc("orders_intents_unsettled", "Intents that are recorded and not settled.", nil, nil)
	oldestDesc    = prometheus.NewDesc("orders_oldest_intent_age_seconds", "How long ago the oldest unsettled intent was recorded, in seconds; 0 if there is none.", nil, nil)
)

// Describe names the two gauges.
func (b backlog) Describe(d chan<- *prometheus.Desc) { d <- unsettledDesc; d <- oldestDesc }

// Collect asks the store, for no longer than a scrape can wait.
func (b backlog) Collect(m chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	count, oldest, err := b.store.CountUnsettled(ctx)
	if err != nil {
		// This scrape then has neither gauge. Reporting the error as a metric would fail
		// the whole scrape, at a moment when the other metrics are needed.
		b.log.Error("can't count unsettled intents", "error", err)
		return
	}
	age := 0.0
	if count > 0 {
		age = time.Since(oldest).Seconds()
	}
	m <- prometheus.MustNewConstMetric(unsettledDesc, prometheus.GaugeValue, float64(count))
	m <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, age)
}
