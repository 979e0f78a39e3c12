// Package messaging is the NATS side that both services share: connections, a
// responder for request and reply, and problems as replies.
//
// # Request and reply over a broker
//
// NATS delivers at most once, and a request that nobody answers is only silence.
// What that leaves to do is small. Responders share a queue group, so that each
// request goes to one of them. Nobody subscribed is an answer of the server's
// own, at once, and means that nothing took effect. A reply that is lost leaves
// the outcome unknown, as everywhere; but nothing tells that whoever had the request
// is gone, so an attempt does not wait for all of the time (exchange.Options.Silent).
//
// A broker can also keep a request for too long: in its buffers, or in those of a
// client that reconnects. So clients here buffer nothing while they are not
// connected, and a request names the moment after which nobody waits for it
// ([DeadlineHeader]), by which a responder drops what comes later.
//
// # Problems
//
// A problem is a reply with the headers of the NATS service API (ADR-32):
// Nats-Service-Error has the code, Nats-Service-Error-Code the HTTP status. Its
// body is the same JSON as on REST, and so is Retry-After.
package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// Headers of requests and replies, beside those of package exchange.
const (
	// DeadlineHeader is when the caller stops waiting, in milliseconds since 1970 UTC.
	DeadlineHeader = "Request-Deadline"
	// ErrorHeader has a problem's code, ErrorCodeHeader its HTTP status.
	ErrorHeader     = "Nats-Service-Error"
	ErrorCodeHeader = "Nats-Service-Error-Code"
)

const (
	wire = "nats"
	// connectTimeout bounds one attempt to connect; pings find a server that is
	// gone without a word within pingInterval * (maxPings + 1).
	connectTimeout = 2 * time.Second
	pingInterval   = 5 * time.Second
	maxPings       = 2
	// reconnectWait and maxReconnectWait are the least and the most time between two
	// attempts to connect again.
	reconnectWait    = 100 * time.Millisecond
	maxReconnectWait = 2 * time.Second
)

// Connect makes a connection that stays: it connects in the background, also the
// first time, and again whenever it is lost. The name tells a service's
// connections from others', in the server's monitoring and in the names of its
// inboxes, so that a server can allow it those alone. credentials is a file
// (.creds) that is read at every connect, or "" for none.
func Connect(url, name, credentials string, log *slog.Logger) (*nats.Conn, error) {
	log = log.With("nats", name)
	options := []nats.Option{
		nats.Name(name), nats.CustomInboxPrefix("_INBOX_" + name), nats.Timeout(connectTimeout),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.CustomReconnectDelay(reconnectDelay),
		// Who is refused twice goes on: the credentials may be on their way.
		nats.IgnoreAuthErrorAbort(),
		// Nothing is kept for later: what is sent while there is no connection fails.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(func(c *nats.Conn) { log.Info("connected", "server", c.ConnectedUrlRedacted()) }),
		nats.ReconnectHandler(func(c *nats.Conn) { log.Info("connected again", "server", c.ConnectedUrlRedacted()) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("the connection was lost", "error", err)
			}
		}),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { log.Warn("can't connect", "error", err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { log.Error("from NATS", "error", err) }),
	}
	if credentials != "" {
		options = append(options, nats.UserCredentials(credentials))
	}
	c, err := nats.Connect(url, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to NATS: %w", err)
	}
	return c, nil
}

// reconnectDelay doubles with each round of attempts, with a random part so that
// clients who lost one server together do not come back together.
func reconnectDelay(rounds int) time.Duration {
	ceiling := min(reconnectWait<<min(rounds, 5), maxReconnectWait)
	return ceiling/2 + rand.N(ceiling/2)
}

// Request sends a request and gives the reply's body. Its error is a
// *problem.Problem; where nothing was sent, or nobody was there to take it, it is
// made by [exchange.Unreachable].
func Request(ctx context.Context, c *nats.Conn, subject string, attempt int, body any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	request := nats.NewMsg(subject)
	request.Data = data
	request.Header.Set(exchange.RequestIDHeader, exchange.RequestID(ctx))
	request.Header.Set(exchange.AttemptHeader, strconv.Itoa(attempt))
	if trace := exchange.Trace(ctx); trace != "" {
		request.Header.Set(exchange.TraceHeader, trace)
	}
	if deadline, ok := ctx.Deadline(); ok {
		request.Header.Set(exchange.TimeoutHeader, exchange.FormatTimeout(time.Until(deadline)))
		request.Header.Set(DeadlineHeader, strconv.FormatInt(deadline.UnixMilli(), 10))
	}
	if !c.IsConnected() {
		// The client would keep an entry of each request that it can't send.
		return nil, exchange.Unreachable(nats.ErrDisconnected)
	}
	reply, err := c.RequestMsgWithContext(ctx, request)
	switch {
	case err == nil && reply.Header.Get(ErrorHeader) != "":
		return nil, readProblem(reply)
	case err == nil:
		return reply.Data, nil
	case ctx.Err() != nil:
		return nil, problem.Wrap(err, problem.DeadlineExceeded, "There was no answer in time.")
	case errors.Is(err, nats.ErrMaxPayload):
		return nil, problem.New(problem.TooLarge, "The message may have at most %d bytes.", c.MaxPayload())
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrHeadersNotSupported): // which no server has said that it does before the first is connected to
		return nil, exchange.Unreachable(err)
	}
	return nil, problem.Wrap(err, problem.Unavailable, "The connection failed.")
}

// readProblem reads a reply that is a problem, tolerantly: a body that is none of
// ours is read by the status alone.
func readProblem(reply *nats.Msg) *problem.Problem {
	p := new(problem.Problem)
	if err := json.Unmarshal(reply.Data, p); err != nil {
		status, _ := strconv.Atoi(reply.Header.Get(ErrorCodeHeader)) // 0 is no status we know, and is read as internal
		p = problem.Foreign(status)
	}
	p.RetryAfter = exchange.ParseRetryAfter(reply.Header.Get(exchange.RetryAfterHeader))
	return p
}
