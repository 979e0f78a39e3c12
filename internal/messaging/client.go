package messaging

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// Request sends a request and returns the reply's body. Its error is a
// *problem.Problem. If the request was not sent, or no responder is subscribed, it is
// that of [exchange.Unreachable].
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
		// Without this check the client would keep an entry for each request that it
		// can't send.
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
		errors.Is(err, nats.ErrHeadersNotSupported): // the error before the first connection, when the server is unknown
		return nil, exchange.Unreachable(err)
	}
	return nil, problem.Wrap(err, problem.Unavailable, "The connection failed.")
}

// readProblem reads a reply that is a problem. It is tolerant: if the body is not a
// problem of this project, only the status counts.
func readProblem(reply *nats.Msg) *problem.Problem {
	p := new(problem.Problem)
	if err := json.Unmarshal(reply.Data, p); err != nil {
		status, _ := strconv.Atoi(reply.Header.Get(ErrorCodeHeader)) // an invalid status is 0, which becomes internal
		p = problem.Foreign(status)
	}
	p.RetryAfter = exchange.ParseRetryAfter(reply.Header.Get(exchange.RetryAfterHeader))
	return p
}
