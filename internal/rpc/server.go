// Package rpc is the gRPC side that both services share: the client and the server
// with their limits, and problems as statuses with details (google.rpc, AIP-193).
//
// # Problems
//
// gRPC has 16 codes, which are fewer than this project's codes. So a status alone says
// too little. An ErrorInfo in its details carries the problem's code, and further
// details carry the rest of the problem. The statuses follow AIP-193, so that proxies
// and libraries that do not know this project handle them correctly. A server sends no
// header before an error, because clients and proxies retry and count a response that
// has begun in a different way.
//
// # Connections
//
// One connection carries all calls of a caller. A load balancer of connections would
// therefore leave a caller with one replica for ever. So servers close connections
// that reach a maximum age, and callers resolve all addresses and take turns
// (round_robin over dns:///).
package rpc

import (
	"context"
	"errors"
	"net"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

const (
	// wire is this wire's name.
	wire = "grpc"
	// MaxMessage is the largest request, in bytes.
	MaxMessage = 1 << 20
	// maxHeader is the largest metadata of a request, in bytes.
	maxHeader = 16 << 10
	// maxStreams is the largest number of calls on one connection at the same time.
	maxStreams = 1000
	// connectTimeout is how long a new connection may take for the HTTP/2 handshake.
	connectTimeout = 5 * time.Second
	// After a silence of keepaliveTime a side sends a ping. It closes the connection if
	// no answer comes within keepaliveTimeout. minPing is the shortest time that the
	// server allows between a client's pings. It disconnects a client that sends them
	// more often.
	keepaliveTime    = 20 * time.Second
	keepaliveTimeout = 5 * time.Second
	minPing          = 10 * time.Second
)

// Server serves one service's operations over gRPC.
type Server struct {
	*grpc.Server
	health *health.Server
}

// Options of a [Server].
type Options struct {
	Responder *exchange.Responder
	// Contract encodes the details of problems.
	Contract Details
	// MaxConnectionAge is the age at which a connection is closed, after its calls have
	// ended. It varies by a tenth, up or down. Zero means never.
	MaxConnectionAge time.Duration
	// Reflection enables gRPC server reflection, for tools such as grpcurl.
	Reflection bool
}

// New makes a Server without operations.
func New(o Options) *Server {
	parameters := keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}
	if o.MaxConnectionAge > 0 {
		parameters.MaxConnectionAge, parameters.MaxConnectionAgeGrace = o.MaxConnectionAge, exchange.MaxTimeout
	}
	s := &Server{
		Server: grpc.NewServer(
			grpc.ChainUnaryInterceptor(answer(o.Responder, o.Contract)),
			grpc.MaxConcurrentStreams(maxStreams), grpc.MaxHeaderListSize(maxHeader), grpc.ConnectionTimeout(connectTimeout),
			// Twice the limit, so that a message that is a little too large gets a problem
			// that says so.
			grpc.MaxRecvMsgSize(2*MaxMessage),
			grpc.KeepaliveParams(parameters),
			grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
		),
		health: health.NewServer(),
	}
	healthv1.RegisterHealthServer(s, s.health)
	if o.Reflection {
		reflection.Register(s)
	}
	return s
}

// Serve accepts connections until [Server.Shutdown], and then returns nil.
func (s *Server) Serve(l net.Listener) error {
	if err := s.Server.Serve(l); !errors.Is(err, grpc.ErrServerStopped) {
		return err
	}
	return nil
}

// Shutdown makes health checks fail, stops accepting and waits for the calls in
// flight. If ctx ends first, it closes their connections.
func (s *Server) Shutdown(ctx context.Context) error {
	s.health.Shutdown()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		s.Stop()
		<-done
		return ctx.Err()
	}
}

// answer wraps every call. It gives the call its id and its deadline, admits it, turns
// its problem into a status, and logs a line.
func answer(responder *exchange.Responder, contract Details) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
		if _, ok := info.Server.(*health.Server); ok {
			return handler(ctx, request)
		}
		ctx = exchange.WithTrace(ctx, first(ctx, exchange.TraceHeader))
		ctx, received := responder.Receive(ctx, wire, path.Base(info.FullMethod), first(ctx, exchange.RequestIDHeader), first(ctx, exchange.AttemptHeader))
		err = received.Run(func() error {
			if message, ok := request.(proto.Message); ok && proto.Size(message) > MaxMessage {
				return problem.New(problem.TooLarge, "The message may have at most %d bytes.", MaxMessage)
			}
			left, ok := exchange.Remaining(ctx)
			if !ok {
				left = exchange.DefaultTimeout
			}
			ctx, cancel, err := exchange.WithTimeout(ctx, left)
			if err != nil {
				return err
			}
			defer cancel()
			if err := received.Admit(); err != nil {
				return err
			}
			response, err = handler(ctx, request)
			return err
		})
		p := exchange.Problem(err)
		received.Done(ctx, exchange.Outcome(p), p)
		if p != nil {
			return nil, Status(p, contract).Err()
		}
		return response, nil
	}
}

// first returns the first value of an entry of a request's metadata; "" if there is
// none.
func first(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}
