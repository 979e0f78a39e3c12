// Package natsclient is the orders side of the NATS wire to inventory.
package natsclient

import (
	"context"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/messaging"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/order"
)

// subjects is the prefix of inventory's subjects.
const subjects = "inventory.v1."

// Wire is the NATS wire.
type Wire struct{ connection *nats.Conn }

var _ inventory.Wire = (*Wire)(nil)

// New makes the NATS wire over a NATS server such as nats://nats:4222. credentials is a
// file with the credentials, or "" for none. The wire connects in the background.
func New(url, credentials string, log *slog.Logger) (*Wire, error) {
	connection, err := messaging.Connect(url, "orders", credentials, log)
	if err != nil {
		return nil, err
	}
	return &Wire{connection}, nil
}

// Close disconnects.
func (w *Wire) Close() error {
	w.connection.Close()
	return nil
}

// PutReservation makes one attempt of the exchange.
func (w *Wire) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	request := struct {
		ID string `json:"id"`
		inventory.PutBody
	}{r.ID, inventory.EncodePut(r)}
	return decoded[inventory.ReservationBody](ctx, w, attempt, "PutReservation", request)
}

// GetReservation makes one attempt of the exchange.
func (w *Wire) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	request := struct {
		ID string `json:"id"`
	}{id}
	return decoded[inventory.ReservationBody](ctx, w, attempt, "GetReservation", request)
}

// GetStock makes one attempt of the exchange.
func (w *Wire) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	request := struct {
		SKUs []string `json:"skus"`
	}{skus}
	return decoded[inventory.LevelsBody](ctx, w, attempt, "GetStock", request)
}

// decoded makes one attempt and decodes its answer.
func decoded[B inventory.Body[T], T any](ctx context.Context, w *Wire, attempt int, operation string, request any) (answer T, err error) {
	reply, err := messaging.Request(ctx, w.connection, subjects+operation, attempt, request)
	if err != nil {
		return answer, err
	}
	var encoded B
	if err := json.Unmarshal(reply, &encoded); err != nil {
		return answer, inventory.Unexplained(err)
	}
	return encoded.Decode()
}
