package messaging

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

const (
	// MaxBody is the largest body of a request, in bytes.
	MaxBody = 1 << 20
	// late is how long after its [DeadlineHeader] a request is still handled, because
	// the caller's clock may differ from this one's.
	late = time.Second
	// pendingBytes is how many bytes of unread requests may wait in this process.
	pendingBytes = 64 << 20
)

// Handler answers a request. It returns the value to encode as the reply, or an error.
type Handler func(ctx context.Context, body []byte) (any, error)

// Server answers requests that come over NATS.
type Server struct {
	connection    *nats.Conn
	prefix, queue string
	responder     *exchange.Responder
	// workers has a place for each request that is worked on. It limits their number
	// before any part of a request is read.
	workers       chan struct{}
	handlers      map[string]Handler
	subscriptions []*nats.Subscription
}

// NewServer makes a Server without operations. Operation Get has the subject prefix.Get.
// Servers with the same queue share its requests. The server owns the connection and
// closes it.
func NewServer(c *nats.Conn, prefix, queue string, workers int, r *exchange.Responder) *Server {
	return &Server{
		connection: c, prefix: prefix, queue: queue, responder: r, workers: make(chan struct{}, workers), handlers: map[string]Handler{},
	}
}

// Handle adds an operation. Call it before [Server.Start].
func (s *Server) Handle(operation string, handler Handler) { s.handlers[operation] = handler }

// Start subscribes to the operations. Requests arrive as soon as there is a connection.
func (s *Server) Start() error {
	for operation, handler := range s.handlers {
		subscription, err := s.connection.QueueSubscribe(s.prefix+"."+operation, s.queue, func(m *nats.Msg) { s.receive(operation, handler, m) })
		if err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
		if err := subscription.SetPendingLimits(cap(s.workers), pendingBytes); err != nil {
			return fmt.Errorf("limit the subscription's pending messages: %w", err)
		}
		s.subscriptions = append(s.subscriptions, subscription)
	}
	return nil
}

// Shutdown takes no more requests, answers those that it has, and disconnects. A second
// call does nothing.
func (s *Server) Shutdown(ctx context.Context) error {
	if s.connection.IsClosed() {
		return nil
	}
	defer s.connection.Close()
	drained := make(chan error, 1)
	go func() { drained <- s.drain() }()
	select {
	case err := <-drained:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Server) drain() error {
	if s.connection.IsConnected() {
		var ended sync.WaitGroup
		for _, subscription := range s.subscriptions {
			ended.Add(1)
			subscription.SetClosedHandler(func(string) { ended.Done() })
			if err := subscription.Drain(); err != nil {
				return fmt.Errorf("drain: %w", err)
			}
		}
		ended.Wait()
	}
	for range cap(s.workers) { // after this loop has taken every place, no worker is busy
		s.workers <- struct{}{}
	}
	if !s.connection.IsConnected() {
		return nil
	}
	return s.connection.Flush()
}

// receive hands a request to a worker. A subscription calls it for one request at a
// time.
func (s *Server) receive(operation string, handler Handler, m *nats.Msg) {
	ctx := exchange.WithTrace(context.Background(), m.Header.Get(exchange.TraceHeader))
	ctx, received := s.responder.Receive(ctx, wire, operation, m.Header.Get(exchange.RequestIDHeader), m.Header.Get(exchange.AttemptHeader))
	select {
	case s.workers <- struct{}{}:
	default:
		s.reply(ctx, received, m, nil, exchange.Problem(received.Shed()))
		return
	}
	go func() {
		defer func() { <-s.workers }()
		var answer []byte
		err := received.Run(func() (err error) {
			answer, err = handle(ctx, received, handler, m)
			return err
		})
		s.reply(ctx, received, m, answer, exchange.Problem(err))
	}()
}

// errTooLate marks a request whose caller is gone. The request gets no reply.
var errTooLate = errors.New("the request arrived after its caller had stopped waiting")

// handle gives a request its deadline and calls its handler.
func handle(ctx context.Context, received *exchange.Received, handler Handler, m *nats.Msg) ([]byte, error) {
	if text := m.Header.Get(DeadlineHeader); text != "" {
		deadline, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			var f problem.Fields
			f.Add("header:"+DeadlineHeader, "must be a number of milliseconds since 1970")
			return nil, f.Err()
		}
		if time.Since(time.UnixMilli(deadline)) > late {
			return nil, problem.Wrap(errTooLate, problem.DeadlineExceeded, "The deadline had passed.")
		}
	}
	timeout, err := exchange.ParseTimeout(m.Header.Get(exchange.TimeoutHeader))
	if err != nil {
		return nil, err
	}
	ctx, cancel, err := exchange.WithTimeout(ctx, timeout)
	if err != nil {
		return nil, err
	}
	defer cancel()
	if len(m.Data) > MaxBody {
		return nil, problem.New(problem.TooLarge, "The body may have at most %d bytes.", MaxBody)
	}
	if err := received.Admit(); err != nil {
		return nil, err
	}
	answer, err := handler(ctx, m.Data)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("encode the reply: %w", err)
	}
	return body, nil
}

// reply sends the reply, and reports the request as answered.
func (s *Server) reply(ctx context.Context, received *exchange.Received, m *nats.Msg, body []byte, p *problem.Problem) {
	defer func() { received.Done(ctx, exchange.Outcome(p), p) }()
	if p != nil && errors.Is(p, errTooLate) {
		return
	}
	reply := nats.NewMsg(m.Reply)
	reply.Header.Set(exchange.RequestIDHeader, received.ID())
	if reply.Data = body; p != nil {
		reply.Data = writeProblem(reply.Header, p)
	}
	err := m.RespondMsg(reply)
	if errors.Is(err, nats.ErrMaxPayload) {
		p = problem.Wrap(err, problem.Internal, "The answer is larger than the NATS server allows.")
		reply.Data = writeProblem(reply.Header, p)
		err = m.RespondMsg(reply)
	}
	if err != nil {
		// The caller waits until its deadline, and does not know the outcome.
		s.responder.Logger().LogAttrs(ctx, slog.LevelWarn, "can't reply", slog.String("request_id", received.ID()), slog.String("error", err.Error()))
	}
}

// writeProblem writes a problem's headers and returns its body.
func writeProblem(header nats.Header, p *problem.Problem) []byte {
	header.Set(ErrorHeader, string(p.Code))
	header.Set(ErrorCodeHeader, strconv.Itoa(p.Code.HTTPStatus()))
	if wait, ok := p.Wait(); ok && p.Code.Retry() == problem.After {
		header.Set(exchange.RetryAfterHeader, exchange.FormatRetryAfter(wait))
	}
	body, err := json.Marshal(p)
	if err != nil { // a problem holds strings and numbers only
		panic(err)
	}
	return body
}
