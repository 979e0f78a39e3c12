// Package natsapi serves inventory's operations by request and reply over NATS,
// as contracts/asyncapi/inventory.yaml has them. It decodes, calls the domain and
// encodes; it holds no rule of its own.
package natsapi

import (
	"context"

	"roundtrip/internal/exchange"
	"roundtrip/internal/failpoint"
	"roundtrip/internal/messaging"
	"roundtrip/internal/strictjson"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
)

// Prefix is what the operations' subjects begin with; Queue is the group whose
// members share the requests.
const (
	Prefix = "inventory.v1"
	Queue  = "inventory"
)

// Register serves every operation.
func Register(s *messaging.Server, store stock.Store) {
	a := api{store}
	s.Handle("PutReservation", a.putReservation)
	s.Handle("GetReservation", a.getReservation)
	s.Handle("GetStock", a.getStock)
}

type api struct{ store stock.Store }

func (a api) putReservation(ctx context.Context, data []byte) (any, error) {
	var request struct {
		ID string `json:"id"`
		payload.PutReservation
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	put, err := request.Command(request.ID)
	if err != nil {
		return nil, err
	}
	// What finishes an order gives stock or places back, so it is shed last.
	if err := exchange.Admit(ctx, put.State != stock.Held); err != nil {
		return nil, err
	}
	failpoint.Hit("reservation-received", request.State)
	result := a.store.Do(ctx, []stock.Command{put})[0]
	if result.Err != nil {
		return nil, payload.InBody(result.Err)
	}
	return payload.OfReservation(result.Reservation), nil
}

func (a api) getReservation(ctx context.Context, data []byte) (any, error) {
	if err := exchange.Admit(ctx, false); err != nil {
		return nil, err
	}
	var request struct {
		ID string `json:"id"`
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	if err := payload.CheckID(request.ID); err != nil {
		return nil, err
	}
	found, err := a.store.Reservation(ctx, request.ID)
	if err != nil {
		return nil, err
	}
	return payload.OfReservation(found), nil
}

func (a api) getStock(ctx context.Context, data []byte) (any, error) {
	if err := exchange.Admit(ctx, false); err != nil {
		return nil, err
	}
	var request struct {
		SKUs []string `json:"skus"`
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	if err := payload.CheckSKUs(request.SKUs); err != nil {
		return nil, err
	}
	found, err := a.store.Levels(ctx, request.SKUs)
	if err != nil {
		return nil, err
	}
	return payload.OfLevels(found, ""), nil
}
