// Package grpcclient is the orders side of the gRPC wire to inventory.
package grpcclient

import (
	"context"

	"google.golang.org/grpc"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/rpc"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/order"
)

// Wire is the gRPC wire.
type Wire struct {
	connection *grpc.ClientConn
	client     inventoryv1.InventoryServiceClient
}

var _ inventory.Wire = (*Wire)(nil)

// New makes the gRPC wire to an inventory such as dns:///inventory:8082. dial opens
// connections; it may be nil. The wire connects when it is first used.
func New(target string, dial inventory.Dial) (*Wire, error) {
	connection, err := rpc.Dial(target, inventoryv1.ProblemDetails{}, dial)
	if err != nil {
		return nil, err
	}
	return &Wire{connection, inventoryv1.NewInventoryServiceClient(connection)}, nil
}

// Close closes the connections.
func (w *Wire) Close() error { return w.connection.Close() }

// PutReservation makes one attempt of the exchange.
func (w *Wire) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	request := &inventoryv1.PutReservationRequest{Id: r.ID, Seq: r.Seq, State: inventoryv1.StateOf(string(r.State))}
	for _, l := range r.Lines {
		request.Lines = append(request.Lines, &inventoryv1.DemandLine{Sku: l.SKU, Location: &l.Location, Quantity: l.Quantity})
	}
	if r.HoldSeconds != 0 {
		request.HoldSeconds = &r.HoldSeconds
	}
	answer, err := w.client.PutReservation(rpc.WithAttempt(ctx, attempt), request)
	if err != nil {
		return order.Reservation{}, err
	}
	return decode(answer.GetReservation())
}

// GetReservation makes one attempt of the exchange.
func (w *Wire) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	answer, err := w.client.GetReservation(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetReservationRequest{Id: id})
	if err != nil {
		return order.Reservation{}, err
	}
	return decode(answer.GetReservation())
}

// GetStock makes one attempt of the exchange.
func (w *Wire) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	answer, err := w.client.GetStock(rpc.WithAttempt(ctx, attempt), &inventoryv1.GetStockRequest{Skus: skus})
	if err != nil {
		return nil, err
	}
	levels := inventory.LevelsBody{Levels: make([]inventory.LevelBody, len(answer.GetLevels()))}
	for i, l := range answer.GetLevels() {
		levels.Levels[i] = inventory.LevelBody{SKU: present(l.GetSku()), Location: present(l.GetLocation()), Available: l.Available}
	}
	return levels.Decode()
}

func decode(r *inventoryv1.Reservation) (order.Reservation, error) {
	body := inventory.ReservationBody{ID: present(r.GetId()), Seq: present(r.GetSeq()), State: present(inventoryv1.StateName(r.GetState()))}
	for _, l := range r.GetLines() {
		body.Lines = append(body.Lines, inventory.LineBody{SKU: l.GetSku(), Location: l.GetLocation(), Quantity: l.GetQuantity()})
	}
	if at := r.GetExpiresAt(); at != nil {
		body.ExpiresAt = new(at.AsTime())
	}
	return body.Decode()
}

// present returns nil for the zero value, which protobuf does not send.
func present[T comparable](value T) *T {
	if value == *new(T) {
		return nil
	}
	return &value
}
