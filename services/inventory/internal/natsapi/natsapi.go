// Package natsapi serves inventory's operations by request and reply over NATS,
// as contracts/asyncapi/inventory.yaml defines them. It decodes, calls the domain and
// encodes. It has no rules of its own.
package natsapi

import (
	"context"

	"roundtrip/internal/messaging"
	"roundtrip/internal/strictjson"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
)

// Prefix is the start of the operations' subjects. Queue is the group whose members
// share the requests.
const (
	Prefix = "inventory.v1"
	Queue  = "inventory"
)

// Register registers every operation on a server.
func Register(s *messaging.Server, service *stock.Service) {
	a := api{service}
	s.Handle("PutReservation", a.putReservation)
	s.Handle("GetReservation", a.getReservation)
	s.Handle("GetStock", a.getStock)
}

type api struct{ service *stock.Service }

func (a api) putReservation(ctx context.Context, data []byte) (any, error) {
	var request struct {
		ID string `json:"id"`
		payload.PutReservation
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	found, err := a.service.PutReservation(ctx, request.For(request.ID))
	return payload.OfReservation(found), err
}

func (a api) getReservation(ctx context.Context, data []byte) (any, error) {
	var request struct {
		ID string `json:"id"`
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	found, err := a.service.GetReservation(ctx, request.ID)
	return payload.OfReservation(found), err
}

func (a api) getStock(ctx context.Context, data []byte) (any, error) {
	var request struct {
		SKUs []string `json:"skus"`
	}
	if err := strictjson.Unmarshal(data, &request); err != nil {
		return nil, err
	}
	found, err := a.service.GetStock(ctx, request.SKUs)
	return payload.OfLevels(found, ""), err
}
