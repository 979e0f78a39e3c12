package inventory

import (
	"context"
	"errors"

	"google.golang.org/grpc"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/rpc"
	"roundtrip/services/orders/internal/order"
)

// GRPC is the gRPC wire.
type GRPC struct {
	connection *grpc.ClientConn
	client     inventoryv1.InventoryServiceClient
}

// NewGRPC makes the gRPC wire to an inventory such as dns:///inventory:8082.
// Nothing is connected yet.
func NewGRPC(target string, dial Dial) (*GRPC, error) {
	connection, err := rpc.Dial(target, dial)
	if err != nil {
		return nil, err
	}
	return &GRPC{connection, inventoryv1.NewInventoryServiceClient(connection)}, nil
}

// Close closes the connections.
func (g *GRPC) Close() error { return g.connection.Close() }

// PutReservation makes one attempt of the exchange.
func (g *GRPC) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	request := &inventoryv1.PutReservationRequest{Id: r.ID, Seq: r.Seq, State: rpc.State(string(r.State))}
	for _, l := range r.Lines {
		request.Lines = append(request.Lines, &inventoryv1.DemandLine{Sku: l.SKU, Location: &l.Location, Quantity: l.Quantity})
	}
	if r.HoldSeconds != 0 {
		request.HoldSeconds = &r.HoldSeconds
	}
	answer, err := g.client.PutReservation(rpc.WithAttempt(ctx, attempt), request)
	if err != nil {
		return order.Reservation{}, err
	}
	return decode(answer.GetReservation())
}

// GetReservation makes one attempt of the exchange.
func (g *GRPC) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	answer, err := g.client.GetReservation(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetReservationRequest{Id: id})
	if err != nil {
		return order.Reservation{}, err
	}
	return decode(answer.GetReservation())
}

// GetStock makes one attempt of the exchange.
func (g *GRPC) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	answer, err := g.client.GetStock(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetStockRequest{Skus: skus})
	if err != nil {
		return nil, err
	}
	levels := make([]order.Level, len(answer.GetLevels()))
	for i, l := range answer.GetLevels() {
		if l.GetSku() == "" || l.GetLocation() == "" || l.Available == nil {
			return nil, unexplained(errors.New("a level without sku, location or available"))
		}
		levels[i] = order.Level{SKU: l.GetSku(), Location: l.GetLocation(), Available: l.GetAvailable()}
	}
	return levels, nil
}

func decode(r *inventoryv1.Reservation) (order.Reservation, error) {
	state := order.ReservationState(rpc.StateName(r.GetState()))
	if r.GetId() == "" || r.GetSeq() == 0 || state == "" {
		return order.Reservation{}, unexplained(errors.New("a reservation without id, seq or state"))
	}
	out := order.Reservation{ID: r.GetId(), Seq: r.GetSeq(), State: state}
	for _, l := range r.GetLines() {
		out.Lines = append(out.Lines, order.Demand{SKU: l.GetSku(), Location: l.GetLocation(), Quantity: l.GetQuantity()})
	}
	if r.ExpiresAt != nil {
		out.ExpiresAt = r.GetExpiresAt().AsTime()
	} else if state == order.ReservationHeld {
		return order.Reservation{}, unexplained(errors.New("a hold without expires_at"))
	}
	return out, nil
}
