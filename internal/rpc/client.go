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
	// maxReconnectWait is the longest time between two attempts to connect again.
	maxReconnectWait = 2 * time.Second
	// resolveAgain is the shortest time between two DNS lookups of a name. The library
	// looks a name up again after it has lost a connection. Its default of 30 s is too
	// long: all replicas may be replaced in that time, and the client would lose the
	// last old one before it knows the address of a new one.
	resolveAgain = 200 * time.Millisecond
)

// setResolveAgain sets resolveAgain for the whole process. The library has no setting
// for a single client.
var setResolveAgain = sync.OnceFunc(func() { dns.SetMinResolutionInterval(resolveAgain) })

// Dial makes a client connection to a service such as dns:///inventory:8082. Its calls
// take turns over all addresses of the name. It does not connect yet. The library's own
// retries are off, because package exchange retries. contract decodes the details of
// problems. dial opens connections. It may be nil.
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

// WithAttempt puts the number of the attempt into the context of a call.
func WithAttempt(ctx context.Context, n int) context.Context {
	return context.WithValue(ctx, attemptKey{}, n)
}

type sentKey struct{}

// ask wraps every call. It adds the metadata, and turns the call's error into a
// *problem.Problem. For a call that was never sent, that is one of
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

// sentHandler records that a call's headers were sent. A call whose headers were not
// sent can't have taken effect.
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
