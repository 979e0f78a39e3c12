// Package rpc is the gRPC side that both services share: the server and its
// limits, and problems as statuses with details (google.rpc, AIP-193).
//
// # Problems
//
// gRPC has 16 codes and we have more, so a status alone says too little: an
// ErrorInfo carries ours, and what belongs to it is in further details. The
// statuses follow AIP-193, so that proxies and libraries that know nothing of us
// do what is right. A server sends no header before an error: a response that
// has begun is retried and counted differently by clients and proxies.
//
// # Connections
//
// One connection carries every call, which makes it the wrong thing to balance:
// behind one address a caller would stay with one replica for ever. So servers
// close connections of some age, and callers resolve all addresses and take
// turns (round_robin over dns:///).
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
	// MaxMessage is the most bytes that a request may have.
	MaxMessage = 1 << 20
	// maxHeader is the most bytes of its metadata.
	maxHeader = 16 << 10
	// maxStreams is how many calls one connection carries at the same time.
	maxStreams = 1000
	// connectTimeout is how long a connection may take to say that it is HTTP/2.
	connectTimeout = 5 * time.Second
	// keepaliveTime is after how much silence a peer is asked whether it is there,
	// and keepaliveTimeout how long it may take to say so. A peer that asks more
	// often than minPing is not served.
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
	// Contract writes the details of problems.
	Contract Details
	// MaxConnectionAge is when a connection is closed after its calls; it varies by
	// a tenth. Zero is never.
	MaxConnectionAge time.Duration
	// Reflection lets anybody ask what is served.
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
			// Twice what is allowed: what is a little too large gets a problem that says so.
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

// Shutdown says that it does not serve any more, and waits for the calls in
// flight. When ctx is done first, their connections are closed.
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

// answer surrounds every call: its id, its deadline, its place in flight, its
// line in the log, and its problem as a status.
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

// first is the first value of a request's metadata.
func first(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}
