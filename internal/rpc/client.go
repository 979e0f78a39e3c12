package rpc

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/resolver/dns"
	"google.golang.org/grpc/stats"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

const (
	// maxReconnectWait is the most time between two attempts to connect again.
	maxReconnectWait = 2 * time.Second
	// resolveAgain is how soon after a name was looked up a lost connection may have it
	// looked up again. The library's 30 s are longer than it takes to replace every
	// replica: the last old one would go before anybody has asked for the new ones.
	resolveAgain = 200 * time.Millisecond
)

// setResolveAgain is for the whole process, for the library has it nowhere else.
var setResolveAgain = sync.OnceFunc(func() { dns.SetMinResolutionInterval(resolveAgain) })

// Dial makes a connection to a service such as dns:///inventory:8082, in turns to
// every address that the name has. Nothing is connected yet. The library's own
// repeats are off: package exchange has the one loop. contract reads the details of
// problems. dial opens connections; it may be nil.
func Dial(target string, contract Details, dial func(ctx context.Context, network, address string) (net.Conn, error)) (*grpc.ClientConn, error) {
	if rest, ok := strings.CutPrefix(target, "dns:///"); !ok || rest == "" {
		return nil, fmt.Errorf("the address must look like dns:///HOST:PORT, not %q", target)
	}
	setResolveAgain()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxReconnectWait},
			MinConnectTimeout: connectTimeout,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithStatsHandler(sentHandler{}), grpc.WithUnaryInterceptor(ask(contract)),
	}
	if dial != nil {
		options = append(options, grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return dial(ctx, "tcp", address)
		}))
	}
	return grpc.NewClient(target, options...)
}

type attemptKey struct{}

// WithAttempt says which attempt of its exchange a call is.
func WithAttempt(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, attemptKey{}, n)
}

type sentKey struct{}

// ask surrounds every call: what it carries beside the message, and its error as
// a *problem.Problem; one of a call that was never sent is made by
// [exchange.Unreachable].
func ask(contract Details) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, c *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		attempt, _ := ctx.Value(attemptKey{}).(int)
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(exchange.RequestIDHeader), exchange.RequestID(ctx),
			strings.ToLower(exchange.AttemptHeader), strconv.Itoa(attempt))
		if trace := exchange.Trace(ctx); trace != "" {
			ctx = metadata.AppendToOutgoingContext(ctx, exchange.TraceHeader, trace)
		}
		sent := new(atomic.Bool)
		err := invoke(context.WithValue(ctx, sentKey{}, sent), method, request, reply, c, options...)
		if err == nil {
			return nil
		}
		p := ReadProblem(err, contract)
		switch {
		case p.Unwrap() == nil: // an answer
			return p
		case ctx.Err() != nil:
			return problem.Wrap(err, problem.DeadlineExceeded, "There was no answer in time.")
		case !sent.Load():
			return exchange.Unreachable(err)
		}
		return p
	}
}

// sentHandler notes that a call's headers went out: before that nothing of it can
// have taken effect.
type sentHandler struct{}

func (sentHandler) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (sentHandler) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.OutHeader); ok {
		if sent, ok := ctx.Value(sentKey{}).(*atomic.Bool); ok {
			sent.Store(true)
		}
	}
}

func (sentHandler) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (sentHandler) HandleConn(context.Context, stats.ConnStats) {}
