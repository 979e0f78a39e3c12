package grpcclient

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/wiretest"
	"roundtrip/services/orders/internal/order"
)

// stub is a fake inventory that answers with its fields.
type stub struct {
	inventoryv1.UnimplementedInventoryServiceServer
	put   func(context.Context, *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error)
	stock *inventoryv1.GetStockResponse
}

func (s stub) PutReservation(ctx context.Context, r *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
	return s.put(ctx, r)
}

func (s stub) GetStock(context.Context, *inventoryv1.GetStockRequest) (*inventoryv1.GetStockResponse, error) {
	return s.stock, nil
}

// serveGRPC starts the stub and connects the wire to it.
func serveGRPC(t *testing.T, s stub) (*Wire, *grpc.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	inventoryv1.RegisterInventoryServiceServer(server, s)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return grpcTo(t, "dns:///"+l.Addr().String(), nil), server
}

func grpcTo(t *testing.T, target string, dial inventory.Dial) *Wire {
	t.Helper()
	wire, err := New(target, dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := wire.Close(); err != nil {
			t.Error(err)
		}
	})
	return wire
}

func heldMessage() *inventoryv1.Reservation {
	return &inventoryv1.Reservation{
		Id: "a", Seq: 1, State: inventoryv1.StateOf("held"), ExpiresAt: timestamppb.New(wiretest.ExpiresAt),
		Lines: []*inventoryv1.Line{{Sku: "85123A", Location: "main", Quantity: 8}},
	}
}

func TestRequests(t *testing.T) {
	t.Parallel()
	var got *inventoryv1.PutReservationRequest
	wire, _ := serveGRPC(t, stub{put: func(ctx context.Context, r *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
		got = r
		headers, _ := metadata.FromIncomingContext(ctx)
		if id, n := headers.Get("x-request-id"), headers.Get("request-attempt"); len(id) != 1 || id[0] != wiretest.RequestID || len(n) != 1 || n[0] != "2" {
			t.Errorf("sent the metadata %v", headers)
		}
		if left, ok := exchange.Remaining(ctx); !ok || left > 5*time.Second {
			t.Errorf("the context has %s left", left)
		}
		return &inventoryv1.PutReservationResponse{Reservation: heldMessage()}, nil
	}})
	main, seconds := "main", int64(900)
	for _, c := range []struct {
		ask  order.Request
		want *inventoryv1.PutReservationRequest
	}{
		{wiretest.Hold, &inventoryv1.PutReservationRequest{Id: "a", Seq: 1, State: inventoryv1.StateOf("held"), HoldSeconds: &seconds, Lines: []*inventoryv1.DemandLine{
			{Sku: "85123A", Location: &main, Quantity: 6}, {Sku: "85123A", Location: &main, Quantity: 2},
		}}},
		{order.Request{ID: "a", Seq: 2, State: order.ReservationCommitted}, &inventoryv1.PutReservationRequest{Id: "a", Seq: 2, State: inventoryv1.StateOf("committed")}},
		{order.Request{ID: "a", Seq: 3, State: order.ReservationReleased}, &inventoryv1.PutReservationRequest{Id: "a", Seq: 3, State: inventoryv1.StateOf("released")}},
	} {
		r, err := wire.PutReservation(wiretest.Deadline(t, 5*time.Second), 2, c.ask)
		if err != nil || r.ID != "a" || !r.ExpiresAt.Equal(wiretest.ExpiresAt) {
			t.Errorf("%+v, %v", r, err)
		}
		if !proto.Equal(got, c.want) {
			t.Errorf("sent %v, want %v", got, c.want)
		}
	}
}

func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	change := func(f func(*inventoryv1.Reservation)) *inventoryv1.PutReservationResponse {
		r := heldMessage()
		f(r)
		return &inventoryv1.PutReservationResponse{Reservation: r}
	}
	for name, c := range map[string]struct {
		answer      *inventoryv1.PutReservationResponse
		err         error
		code        problem.Code
		unexplained bool
	}{
		"nothing":               {&inventoryv1.PutReservationResponse{}, nil, problem.Internal, true},
		"no id":                 {change(func(r *inventoryv1.Reservation) { r.Id = "" }), nil, problem.Internal, true},
		"no seq":                {change(func(r *inventoryv1.Reservation) { r.Seq = 0 }), nil, problem.Internal, true},
		"no state":              {change(func(r *inventoryv1.Reservation) { r.State = 0 }), nil, problem.Internal, true},
		"a hold without an end": {change(func(r *inventoryv1.Reservation) { r.ExpiresAt = nil }), nil, problem.Internal, true},
		"unavailable":           {nil, status.Error(codes.Unavailable, "no"), problem.Unavailable, false},
		"deadline":              {nil, status.Error(codes.DeadlineExceeded, "no"), problem.DeadlineExceeded, false},
		"unimplemented":         {nil, status.Error(codes.Unimplemented, "no"), problem.MethodNotAllowed, false},
		"unknown":               {nil, errors.New("no"), problem.Internal, false},
		"too much":              {change(func(r *inventoryv1.Reservation) { r.Id = string(make([]byte, 5<<20)) }), nil, problem.TooLarge, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wire, _ := serveGRPC(t, stub{put: func(context.Context, *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
				return c.answer, c.err
			}})
			_, err := wire.PutReservation(wiretest.Deadline(t, 5*time.Second), 1, wiretest.Hold)
			if problem.CodeOf(err) != c.code || errors.Is(err, order.ErrUnexplained) != c.unexplained {
				t.Errorf("got %v; want %s, unexplained: %v", err, c.code, c.unexplained)
			}
		})
	}
	wire, _ := serveGRPC(t, stub{stock: &inventoryv1.GetStockResponse{Levels: []*inventoryv1.Level{{Sku: "a", Location: "main"}}}})
	if _, err := wire.GetStock(wiretest.Deadline(t, 5*time.Second), 1, []string{"a"}); !errors.Is(err, order.ErrUnexplained) {
		t.Errorf("a level without its availability: %v", err)
	}
}

// Inventory is unreachable (away) if no connection can be made. A call that broke after it
// was sent does not count.
func TestUnreachableServerIsAway(t *testing.T) {
	t.Parallel()
	unplugged := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("unplugged") }
	caller := exchange.NewCaller(exchange.Options{})
	client := inventory.NewResending(grpcTo(t, "dns:///127.0.0.1:1", unplugged), caller)
	for range 5 {
		if _, err := client.PutReservation(wiretest.Deadline(t, 5*time.Second), wiretest.Hold); problem.CodeOf(err) != problem.Unavailable {
			t.Errorf("got %v", err)
		}
	}
	if !caller.Unreachable() {
		t.Error("the caller is not away without a connection")
	}

	caller = exchange.NewCaller(exchange.Options{})
	var server *grpc.Server
	wire, server := serveGRPC(t, stub{put: func(context.Context, *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
		go server.Stop() // in the middle of the call
		select {}
	}})
	if _, err := inventory.NewResending(wire, caller).PutReservation(wiretest.Deadline(t, 5*time.Second), wiretest.Hold); problem.CodeOf(err) != problem.Unavailable || caller.Unreachable() {
		t.Errorf("after a broken call: %v, away: %t", err, caller.Unreachable())
	}
}

func TestLateAnswerIsNotAwaited(t *testing.T) {
	t.Parallel()
	wire, _ := serveGRPC(t, stub{put: func(ctx context.Context, _ *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	if _, err := wire.PutReservation(wiretest.Deadline(t, 100*time.Millisecond), 1, wiretest.Hold); problem.CodeOf(err) != problem.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
}
