// Package rest is the serving half of HTTP that both services share: the server
// and its limits, strict reading of what callers send, and problems as RFC 9457 has
// them. It and the services' httpapi packages are the only ones that know Echo.
// Package restclient is the calling half.
//
// # What every request goes through
//
// A [Server] gives each request what an [exchange.Responder] gives on every wire
// (an id, a place among those in flight, one line in the log when it is answered)
// and a deadline: what the caller says is left, within bounds. A handler returns
// an error and the server turns it into a problem: a deadline that passed is
// "deadline-exceeded"; what else has no problem in it, and every panic, becomes
// "internal", with its cause in the log and not in the answer. Routes that do not
// exist and methods that are not allowed are problems like any other.
//
// Requests are read strictly ([Decode], [Query]; package strictjson says why).
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
	"slices"
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

// parting is how long a server that stops waits for its callers to leave: each is
// told with its next answer.
const connectionDrain = time.Second

// wire is this wire's name.
const wire = "http"

// Options of a [Server].
type Options struct {
	Responder *exchange.Responder
	// MaxConnectionAge is when a connection is closed after its next response, so
	// that callers spread over new replicas; it varies by a tenth. Zero is never.
	MaxConnectionAge time.Duration
}

// Server serves one service's operations over HTTP.
type Server struct {
	options Options
	echo    *echo.Echo
	http    *http.Server
	routes  []Route

	draining    atomic.Bool
	connections atomic.Int64
}

// Route is an operation and where it is served.
type Route struct {
	Method, Path, Operation string
}

// New makes a Server without operations.
func New(o Options) *Server {
	s := &Server{options: o, echo: echo.New()}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.Use(s.middleware)
	s.http = &http.Server{
		Handler:           s.echo,
		ReadHeaderTimeout: readHeaderTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(o.Responder.Logger().Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
			age := o.MaxConnectionAge + time.Duration((rand.Float64()-0.5)/5*float64(o.MaxConnectionAge))
			return context.WithValue(ctx, closeAfterKey{}, time.Now().Add(age))
		},
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state {
			case http.StateNew:
				s.connections.Add(1)
			case http.StateClosed, http.StateHijacked:
				s.connections.Add(-1)
			}
		},
	}
	return s
}

type closeAfterKey struct{}

// RouteOption changes how a route's requests are treated.
type RouteOption func(*call)

// Stream is for requests that last as long as they have something to send: they
// have no deadline. The server's limits on connections still hold; the handler
// moves them along with [http.ResponseController] as it reads and writes.
func Stream(c *call) { c.stream = true }

// call is what the server knows of one request.
type call struct {
	*exchange.Received
	stream bool
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
		call.Operation = operation
		for _, option := range options {
			option(call)
		}
		return s.admitAndHandle(c, call, handler)
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

// Shutdown has callers leave, stops accepting and waits for the requests in flight.
// When ctx is done first, their connections are closed.
//
// A connection that is closed while it is idle may have the next request on its way
// already, and its caller can't know whether that was taken. So each caller is told
// with its next answer to close it, for a while.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.drainConnections(ctx)
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// part waits until every connection is closed, for [connectionDrain] at most.
func (s *Server) drainConnections(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectionDrain)
	defer cancel()
	for tick := time.NewTicker(connectionDrain / 100); s.connections.Load() > 0; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// middleware surrounds every request, also those that reach no route.
func (s *Server) middleware(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		given := c.Request().Header
		ctx := exchange.WithTrace(c.Request().Context(), given.Get(exchange.TraceHeader))
		ctx, received := s.options.Responder.Receive(ctx, wire, "none", given.Get(exchange.RequestIDHeader), given.Get(exchange.AttemptHeader))
		call := &call{Received: received}
		c.Set(callKey, call)
		header := c.Response().Header()
		header.Set(exchange.RequestIDHeader, received.ID())
		header.Set("Cache-Control", "no-store")
		c.SetRequest(c.Request().WithContext(ctx))
		closeAfter, ok := ctx.Value(closeAfterKey{}).(time.Time)
		if s.draining.Load() || ok && s.options.MaxConnectionAge > 0 && time.Now().After(closeAfter) {
			header.Set("Connection", "close")
		}

		// http.ErrAbortHandler is net/http's own way to drop a connection.
		err := received.Run(func() error { return handled(c, next) }, http.ErrAbortHandler)
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
		outcome := exchange.Outcome(p)
		if p == nil && c.Response().Status == http.StatusAccepted {
			outcome = "unknown"
		}
		received.Done(ctx, outcome, p, slog.Int("status", c.Response().Status))
		if p != nil && committed {
			// What was written so far must not look like the whole.
			panic(http.ErrAbortHandler)
		}
		return nil
	}
}

// handled calls the handler, but for OPTIONS.
func handled(c echo.Context, next echo.HandlerFunc) error {
	if allow, ok := c.Get(echo.ContextKeyHeaderAllow).(string); ok && c.Request().Method == http.MethodOptions {
		// Echo would answer 204. We serve no pages of other origins.
		c.Response().Header().Set(echo.HeaderAllow, strings.TrimPrefix(allow, "OPTIONS, "))
		return echo.ErrMethodNotAllowed
	}
	return next(c)
}

// run gives a routed request its deadline and its place.
func (s *Server) admitAndHandle(c echo.Context, call *call, handler echo.HandlerFunc) error {
	if !call.stream {
		header := c.Request().Header.Get(exchange.TimeoutHeader)
		timeout, err := exchange.ParseTimeout(header)
		if err != nil {
			return err
		}
		ctx, cancel, err := exchange.WithTimeout(c.Request().Context(), timeout)
		if err != nil {
			return err
		}
		defer cancel()
		c.SetRequest(c.Request().WithContext(ctx))
	}
	if c.Request().Method == http.MethodGet {
		if err := NoBody(c); err != nil {
			return err
		}
	}
	if err := call.Admit(); err != nil {
		return err
	}
	return handler(c)
}

// Locate makes the pointers of a domain's invalid problem say where the request
// has those fields: in its path, in its query when it has no body, or else in its
// body.
func Locate(c echo.Context, err error) error {
	return problem.Relocate(err, func(pointer string) string {
		name, isField := strings.CutPrefix(pointer, "/")
		switch {
		case !isField:
		case slices.Contains(c.ParamNames(), name):
			return "path:" + name
		case c.Request().Method == http.MethodGet:
			return "query:" + name
		}
		return pointer
	})
}

// AsProblem is the problem that a handler's error is answered with; nil for none.
func AsProblem(err error) *problem.Problem {
	var fromEcho *echo.HTTPError
	var p *problem.Problem
	if errors.As(err, &p) || !errors.As(err, &fromEcho) {
		return exchange.Problem(err)
	}
	code := problem.ForStatus(fromEcho.Code)
	if code == problem.NotFound {
		return problem.New(code, "Nothing is served here.")
	}
	return problem.New(code, "")
}

// JSON writes a response. Empty lists are written as such, never as null.
func JSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	return c.Blob(status, echo.MIMEApplicationJSON, body)
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
