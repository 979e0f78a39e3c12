// Package rest is the serving half of HTTP that both services share. It has the
// server with its limits, the strict reading of requests, and problems in the format
// of RFC 9457. Only this package and the services' httpapi packages use Echo.
// Package restclient is the calling half.
//
// # What the server does with every request
//
// A [Server] gives each request what an [exchange.Responder] gives on every wire:
// an id, a place below the in-flight limit, and one line in the log when it is
// answered. It also gives the request a deadline: the time that the caller says is
// left, within bounds. If a handler returns an error, the server turns it into a
// problem. A deadline that passed becomes "deadline-exceeded". Any other error
// without a problem, and every panic, becomes "internal": its cause is in the log and
// not in the answer. Routes that do not exist and methods that are not allowed are
// problems too.
//
// Requests are read strictly ([Decode], [Query]). Package strictjson says why.
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

// The server's limits on connections. They are for callers that do not keep to a
// deadline: a caller's deadline is shorter than any of them.
const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 10 * time.Second
	writeTimeout      = 15 * time.Second
	idleTimeout       = 60 * time.Second
	maxHeaderBytes    = 16 << 10
)

// connectionDrain is how long a server that stops waits for its callers to close
// their connections. The server asks each caller to do so with its next answer.
const connectionDrain = time.Second

// wire is this wire's name.
const wire = "http"

// Options of a [Server].
type Options struct {
	Responder *exchange.Responder
	// MaxConnectionAge is the age at which a connection is closed after its next
	// response, so that callers spread over new replicas. It varies by a tenth, up
	// or down. Zero means never.
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

// Route is an operation with its method and path.
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

// Stream is for requests that last as long as they have data to send. They have no
// deadline. The server's limits on connections still apply: the handler extends them
// with [http.ResponseController] as it reads and writes.
func Stream(c *call) { c.stream = true }

// call is what the server knows about one request.
type call struct {
	*exchange.Received
	stream bool
}

const callKey = "rest.call"

// Handle serves an operation.
func (s *Server) Handle(method, path, operation string, handler echo.HandlerFunc, options ...RouteOption) {
	s.routes = append(s.routes, Route{method, path, operation})
	s.echo.Add(method, path, func(c echo.Context) error {
		// In Echo a parameter at the end of a path matches the whole rest, with slashes.
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

// Routes lists the operations that the server has.
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

// Shutdown asks callers to close their connections, stops accepting new ones and
// waits for the requests in flight. If ctx ends first, it closes their connections.
//
// If a server closes an idle connection, the next request may already be on its way,
// and the caller can't know whether the server received it. So for at most
// [connectionDrain] the server asks each caller, with its next answer, to close the
// connection.
func (s *Server) Shutdown(ctx context.Context) error {
	s.draining.Store(true)
	s.drainConnections(ctx)
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	return err
}

// drainConnections waits until every connection is closed, for [connectionDrain] at
// most.
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

// middleware wraps the handling of every request, also of those without a route.
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

		// A panic with http.ErrAbortHandler tells net/http to drop the connection.
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
			// The part that was written must not look like a complete answer.
			panic(http.ErrAbortHandler)
		}
		return nil
	}
}

// handled calls the handler, except for OPTIONS, which is not allowed.
func handled(c echo.Context, next echo.HandlerFunc) error {
	if allow, ok := c.Get(echo.ContextKeyHeaderAllow).(string); ok && c.Request().Method == http.MethodOptions {
		// Echo would answer 204. Pages of other origins are not served.
		c.Response().Header().Set(echo.HeaderAllow, strings.TrimPrefix(allow, "OPTIONS, "))
		return echo.ErrMethodNotAllowed
	}
	return next(c)
}

// admitAndHandle gives a request its deadline, admits it and calls its handler.
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

// Locate changes the pointers of a domain's invalid problem to the places of the
// fields in the request: in its path, in its query if it is a GET, or else in its
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

// AsProblem returns the problem that answers a handler's error; nil if there is no
// error.
func AsProblem(err error) *problem.Problem {
	var fromEcho *echo.HTTPError
	var p *problem.Problem
	if errors.As(err, &p) || !errors.As(err, &fromEcho) {
		return exchange.Problem(err)
	}
	code := problem.ForStatus(fromEcho.Code)
	if code == problem.NotFound {
		return problem.New(code, "There is nothing at this path.")
	}
	return problem.New(code, "")
}

// JSON writes a response. It writes empty lists as [], never as null.
func JSON(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the response: %w", err)
	}
	return c.Blob(status, echo.MIMEApplicationJSON, body)
}

// ID returns a parameter of the path, without percent-encoding. Echo matches the path
// as it was sent only if [url.URL] keeps it (in RawPath). Otherwise the parameter is
// already decoded, and must not be decoded again.
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
