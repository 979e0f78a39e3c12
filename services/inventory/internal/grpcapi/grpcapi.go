// Package grpcapi serves inventory's operations over gRPC, as
// contracts/proto/inventory/v1 has them. It decodes, calls the domain and
// encodes; it holds no rule of its own.
package grpcapi

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/exchange"
	"roundtrip/internal/failpoint"
	"roundtrip/internal/rpc"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
)

// Register serves every operation.
func Register(s *rpc.Server, store stock.Store) {
	inventoryv1.RegisterInventoryServiceServer(s, api{store: store})
}

type api struct {
	inventoryv1.UnimplementedInventoryServiceServer
	store stock.Store
}

// PutReservation asks for a reservation to be in a state.
func (a api) PutReservation(ctx context.Context, r *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
	request := payload.PutReservation{Seq: r.GetSeq(), State: rpc.StateName(r.GetState()), HoldSeconds: r.HoldSeconds}
	for _, l := range r.GetLines() {
		request.Lines = append(request.Lines, payload.RequestLine{SKU: l.GetSku(), Location: l.Location, Quantity: l.GetQuantity()})
	}
	put, err := request.Command(r.GetId())
	if err != nil {
		return nil, err
	}
	// What finishes an order gives stock or places back, so it is shed last.
	if err := exchange.Admit(ctx, put.State != stock.Held); err != nil {
		return nil, err
	}
	failpoint.Hit("reservation-received", string(put.State))
	result := a.store.Do(ctx, []stock.Command{put})[0]
	if result.Err != nil {
		return nil, payload.InBody(result.Err)
	}
	return &inventoryv1.PutReservationResponse{Reservation: encodeReservation(result.Reservation)}, nil
}

// GetReservation answers not-found where there is none with that id.
func (a api) GetReservation(ctx context.Context, r *inventoryv1.GetReservationRequest) (*inventoryv1.GetReservationResponse, error) {
	if err := exchange.Admit(ctx, false); err != nil {
		return nil, err
	}
	if err := payload.CheckID(r.GetId()); err != nil {
		return nil, err
	}
	found, err := a.store.Reservation(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &inventoryv1.GetReservationResponse{Reservation: encodeReservation(found)}, nil
}

// GetStock gives the levels of some SKUs.
func (a api) GetStock(ctx context.Context, r *inventoryv1.GetStockRequest) (*inventoryv1.GetStockResponse, error) {
	if err := exchange.Admit(ctx, false); err != nil {
		return nil, err
	}
	if err := payload.CheckSKUs(r.GetSkus()); err != nil {
		return nil, err
	}
	found, err := a.store.Levels(ctx, r.GetSkus())
	if err != nil {
		return nil, err
	}
	out := new(inventoryv1.GetStockResponse)
	for _, l := range found {
		available := l.Available()
		out.Levels = append(out.Levels, &inventoryv1.Level{
			Sku: l.SKU, Name: l.Name, Location: l.Location, OnHand: &l.OnHand, Reserved: &l.Reserved, Available: &available, Version: l.Version,
		})
	}
	return out, nil
}

func encodeReservation(r stock.Reservation) *inventoryv1.Reservation {
	r = r.At(time.Now())
	out := &inventoryv1.Reservation{Id: r.ID, Seq: r.Seq, State: rpc.State(string(r.State))}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, &inventoryv1.Line{Sku: l.SKU, Location: l.Location, Quantity: l.Quantity})
	}
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt = timestamppb.New(r.ExpiresAt.Truncate(time.Millisecond))
	}
	return out
}
