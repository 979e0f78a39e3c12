// Package grpcapi serves inventory's operations over gRPC, as
// contracts/proto/inventory/v1 defines them. It decodes, calls the domain and
// encodes. It has no rules of its own.
package grpcapi

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/rpc"
	"roundtrip/services/inventory/internal/stock"
)

// Register registers every operation on a server.
func Register(s *rpc.Server, service *stock.Service) {
	inventoryv1.RegisterInventoryServiceServer(s, api{service: service})
}

type api struct {
	inventoryv1.UnimplementedInventoryServiceServer
	service *stock.Service
}

// PutReservation asks for a reservation to be in a state.
func (a api) PutReservation(ctx context.Context, r *inventoryv1.PutReservationRequest) (*inventoryv1.PutReservationResponse, error) {
	request := stock.PutRequest{ID: r.GetId(), Seq: r.GetSeq(), State: stock.State(inventoryv1.StateName(r.GetState())), HoldSeconds: r.HoldSeconds}
	for _, l := range r.GetLines() {
		request.Lines = append(request.Lines, stock.LineRequest{SKU: l.GetSku(), Location: l.Location, Quantity: l.GetQuantity()})
	}
	found, err := a.service.PutReservation(ctx, request)
	if err != nil {
		return nil, err
	}
	return &inventoryv1.PutReservationResponse{Reservation: encodeReservation(found)}, nil
}

// GetReservation returns one reservation, or not-found if there is none with that id.
func (a api) GetReservation(ctx context.Context, r *inventoryv1.GetReservationRequest) (*inventoryv1.GetReservationResponse, error) {
	found, err := a.service.GetReservation(ctx, r.GetId())
	if err != nil {
		return nil, err
	}
	return &inventoryv1.GetReservationResponse{Reservation: encodeReservation(found)}, nil
}

// GetStock returns the levels of some SKUs.
func (a api) GetStock(ctx context.Context, r *inventoryv1.GetStockRequest) (*inventoryv1.GetStockResponse, error) {
	found, err := a.service.GetStock(ctx, r.GetSkus())
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
	out := &inventoryv1.Reservation{Id: r.ID, Seq: r.Seq, State: inventoryv1.StateOf(string(r.State))}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, &inventoryv1.Line{Sku: l.SKU, Location: l.Location, Quantity: l.Quantity})
	}
	if !r.ExpiresAt.IsZero() {
		out.ExpiresAt = timestamppb.New(r.ExpiresAt.Truncate(time.Millisecond))
	}
	return out
}
