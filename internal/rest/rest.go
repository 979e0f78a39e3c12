// Package rest is the HTTP side that both services share: the server and its
// limits, strict reading of what callers send, and problems as RFC 9457 has
// them. It and the services' httpapi packages are the only ones that know Echo.
//
// # What every request goes through
//
// A [Server] gives each request an id (the caller's, if it is one), a deadline
// (what the caller says is left, within bounds), a place among those in flight,
// and one line in the log when it is answered. A handler returns an error and
// the server turns it into a problem: a deadline that passed is
// "deadline-exceeded"; what else has no problem in it, and every panic, becomes
// "internal", with its cause in the log and not in the answer. Routes that do not
// exist and methods that are not allowed are problems like any other.
//
// # Shedding
//
// More requests than a service can work on only make all of them late, so above
// a bound they are refused before any work is done ("overloaded", with
// Retry-After). The last fifth of the places is kept for requests with priority:
// those that finish what was begun and so give something back.
//
// # Strict in, tolerant out
//
// Requests are read strictly ([Decode]): a field that we do not know was meant
// to do something, and dropping it would do something else. Answers of others
// are read tolerantly ([ReadProblem]), so that a provider may add fields first.
package rest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// The server's limits on connections. A caller's deadline is shorter than any
// of these; they are for callers who do not keep to one.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 15 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 16 << 10
)

// Options of a [Server].
type Options struct {
	Logger *slog.Logger
	// MaxInFlight bounds the requests that are worked on at the same time.
	MaxInFlight int
	// MaxConnectionAge is when a connection is closed after its next response, so
	// that callers spread over new replicas; it varies by a tenth. Zero is never.
	MaxConnectionAge time.Duration
	// Observe is told of every request once it is answered; it may be nil.
	Observe func(Observation)
}

// Observation is what is known of a request that was answered.
type Observation struct {
	Operation, RequestID string
	Status               int
	// Outcome is "ok", "unknown" for a 202, "canceled" where the caller hung up, or
	// the problem's code ("other" for one that is not in the table).
	Outcome  string
	Duration time.Duration
	// Shed says that it was refused because too many were in flight.
	Shed bool
}

// Server serves one service's operations over HTTP.
type Server struct {
	options Options
	echo    *echo.Echo
	http    *http.Server
	routes  []Route
	used    atomic.Int64
}

// Route is an operation and where it is served.
type Route struct {
	Method, Path, Operation string
}

// New makes a Server without operations.
func New(o Options) *Server {
	if o.Observe == nil {
		o.Observe = func(Observation) {}
	}
	s := &Server{options: o, echo: echo.New()}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.Use(s.middleware)
	s.http = &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(o.Logger.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			age := o.MaxConnectionAge + time.Duration((rand.Float64()-0.5)/5*float64(o.MaxConnectionAge))
			return context.WithValue(ctx, closeAfterKey{}, time.Now().Add(age))
		},
	}
	return s
}

type closeAfterKey struct{}

// RouteOption changes how a route's requests are treated.
type RouteOption func(*call)

// AdmitLater leaves taking a place to the handler, which calls [Admit] when it
// knows whether the request has priority.
func AdmitLater(c *call) { c.admitLater = true }

// Stream is for requests that last as long as they have something to send: they
// have no deadline. The server's limits on connections still hold; the handler
// moves them along with [http.ResponseController] as it reads and writes.
func Stream(c *call) { c.stream = true }

// call is what the server knows of one request.
type call struct {
	server     *Server
	operation  string
	admitLater bool
	stream     bool
	admitted   bool
	shed       bool
}

const callKey = "rest.call"

// Handle serves an operation.
func (s *Server) Handle(method, path, operation string, handler echo.HandlerFunc, options ...RouteOption) {
	s.routes = append(s.routes, Route{method, path, operation})
	s.echo.Add(method, path, func(c echo.Context) error {
		// To Echo a parameter at the end of a path is all that follows.
		if strings.Count(c.Request().URL.EscapedPath(), "/") != strings.Count(path, "/") {
			return echo.ErrNotFound
		}
		call := c.Get(callKey).(*call)
		call.operation = operation
		for _, option := range options {
			option(call)
		}
		return s.run(c, call, handler)
	})
}

// Routes lists what is served.
func (s *Server) Routes() []Route { return s.routes }

// ServeHTTP serves one request without a listener.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Serve accepts connections until [Server.Shutdown], and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Shutdown stops accepting and waits for the requests in flight. When ctx is
// done first, their connections are closed.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// middleware surrounds every request, also those that reach no route.
func (s *Server) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		call := &call{server: s, operation: "none"}
		c.Set(callKey, call)
		id := c.Request().Header.Get(exchange.RequestIDHeader)
		if !exchange.ValidRequestID(id) {
			id = exchange.NewRequestID()
		}
		header := c.Response().Header()
		header.Set(exchange.RequestIDHeader, id)
		header.Set("Cache-Control", "no-store")
		ctx := exchange.WithRequestID(c.Request().Context(), id)
		c.SetRequest(c.Request().WithContext(ctx))
		closeAfter, ok := ctx.Value(closeAfterKey{}).(time.Time)
		if ok && s.options.MaxConnectionAge > 0 && time.Now().After(closeAfter) {
			header.Set("Connection", "close")
		}

		err := s.recovered(c, call, next)
		committed := c.Response().Committed
		if committed && err != nil && ctx.Err() != nil {
			// The rest could not be written: net/http cancels the request's context
			// when a write fails.
			err = errors.Join(context.Canceled, err)
		}
		p := AsProblem(err)
		if p != nil && !committed {
			writeProblem(c, p)
		}
		s.done(ctx, call, Observation{
			Operation: call.operation, RequestID: id, Status: c.Response().Status,
			Outcome: outcome(c.Response().Status, p), Duration: time.Since(began), Shed: call.shed,
		}, p)
		if p != nil && committed {
			// What was written so far must not look like the whole.
			panic(http.ErrAbortHandler)
		}
		return nil
	}
}

// recovered turns a handler's panic into an error, and gives its place back. The
// one panic that net/http itself uses to drop a connection goes on.
func (s *Server) recovered(c echo.Context, call *call, next echo.HandlerFunc) (err error) {
	defer func() {
		if call.admitted {
			s.used.Add(-1)
		}
		switch v := recover(); v {
		case nil:
		case http.ErrAbortHandler:
			panic(v)
		default:
			err = problem.From(fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
		}
	}()
	if allow, ok := c.Get(echo.ContextKeyHeaderAllow).(string); ok && c.Request().Method == http.MethodOptions {
		// Echo would answer 204. We serve no pages of other origins.
		c.Response().Header().Set(echo.HeaderAllow, strings.TrimPrefix(allow, "OPTIONS, "))
		return echo.ErrMethodNotAllowed
	}
	return next(c)
}

// run gives a routed request its deadline and its place.
func (s *Server) run(c echo.Context, call *call, handler echo.HandlerFunc) error {
	if !call.stream {
		header := c.Request().Header.Get(exchange.TimeoutHeader)
		timeout, err := exchange.ParseTimeout(header)
		if err != nil {
			return err
		}
		if timeout < exchange.MinTimeout {
			return problem.New(problem.DeadlineExceeded, "Too little time was left to begin.")
		}
		ctx, cancel := context.WithTimeout(c.Request().Context(), timeout)
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
	}
	if c.Request().Method == http.MethodGet {
		if err := NoBody(c); err != nil {
			return err
		}
	}
	if !call.admitLater {
		if err := Admit(c, false); err != nil {
			return err
		}
	}
	return handler(c)
}

// Admit takes the request's place among those in flight, or answers overloaded.
// It is for routes with [AdmitLater], and is called once.
func Admit(c echo.Context, priority bool) error {
	call := c.Get(callKey).(*call)
	limit := int64(call.server.options.MaxInFlight)
	if !priority {
		limit -= limit / 5
	}
	// Never counted above the limit, not even for a moment: a crowd that is being
	// refused would take places from those with priority.
	for {
		used := call.server.used.Load()
		if used >= limit {
			call.shed = true
			return problem.New(problem.Overloaded, "Too many requests are in flight.")
		}
		if call.server.used.CompareAndSwap(used, used+1) {
			call.admitted = true
			return nil
		}
	}
}

// done logs and reports a request that was answered.
func (s *Server) done(ctx context.Context, call *call, o Observation, p *problem.Problem) {
	level := slog.LevelInfo
	attributes := []slog.Attr{
		slog.String("request_id", o.RequestID), slog.String("operation", o.Operation), slog.String("outcome", o.Outcome),
		slog.Int("status", o.Status), slog.Float64("duration_ms", float64(o.Duration.Microseconds())/1000),
	}
	if p != nil && p.Unwrap() != nil {
		attributes = append(attributes, slog.String("error", p.Unwrap().Error()))
		if p.Code == problem.Internal {
			level = slog.LevelError
		}
	}
	s.options.Logger.LogAttrs(ctx, level, "exchange", attributes...)
	s.options.Observe(o)
}

const (
	// canceled is the outcome of a request whose caller hung up before the answer.
	canceled = "canceled"
	// other stands for every code that is not in the table: a stranger, whose
	// problem was passed on, does not name our time series.
	other = "other"
)

func outcome(status int, p *problem.Problem) string {
	switch {
	case p == nil && status == http.StatusAccepted:
		return "unknown"
	case p == nil:
		return "ok"
	case errors.Is(p, context.Canceled):
		return canceled
	case !p.Code.Known():
		return other
	}
	return string(p.Code)
}

// AsProblem is the problem that a handler's error is answered with; nil for none.
func AsProblem(err error) *problem.Problem {
	var fromEcho *echo.HTTPError
	var p *problem.Problem
	switch {
	case err == nil:
		return nil
	case errors.As(err, &p):
		return p
	case errors.As(err, &fromEcho):
		switch code := problem.ForStatus(fromEcho.Code); code {
		case problem.NotFound:
			return problem.New(code, "Nothing is served here.")
		default:
			return problem.New(code, "")
		}
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.DeadlineExceeded, "The deadline passed.")
	case errors.Is(err, context.Canceled):
		return problem.Wrap(err, problem.Unavailable, "The caller hung up.")
	}
	return problem.From(err)
}

// JSON writes a response. Empty lists are written as such, never as null.
func JSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	return c.Blob(status, echo.MIMEApplicationJSON, body)
}

// FormatTime writes a time as every response has it: RFC 3339, UTC, milliseconds.
func FormatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z07:00") }

// OptionalTime is [FormatTime] with "" for the zero time.
func OptionalTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return FormatTime(t)
}

// ID is the path's {id}, without percent-encoding. Echo matches the path as it
// was sent only where [url.URL] keeps that (RawPath); anywhere else the parameter
// is decoded already, and must not be a second time.
func ID(c echo.Context, name string) string {
	id := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return id
	}
	if decoded, err := url.PathUnescape(id); err == nil {
		return decoded
	}
	return id
}
