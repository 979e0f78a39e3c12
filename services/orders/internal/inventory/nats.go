package inventory

import (
	"context"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/nats-io/nats.go"

	"roundtrip/internal/messaging"
	"roundtrip/services/orders/internal/order"
)

// subjects is what inventory's subjects begin with.
const subjects = "inventory.v1."

// NATS is the wire over NATS.
type NATS struct{ connection *nats.Conn }

// NewNATS makes the wire by way of a NATS server such as nats://nats:4222, with
// the credentials in a file, or "" for none. It connects in the background.
func NewNATS(url, credentials string, log *slog.Logger) (*NATS, error) {
	connection, err := messaging.Connect(url, "orders", credentials, log)
	if err != nil {
		return nil, err
	}
	return &NATS{connection}, nil
}

// Close disconnects.
func (n *NATS) Close() error {
	n.connection.Close()
	return nil
}

// PutReservation makes one attempt of the exchange.
func (n *NATS) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	request := struct {
		ID string `json:"id"`
		putRequest
	}{r.ID, encode(r)}
	var answer reservation
	if err := n.exchange(ctx, attempt, "PutReservation", request, &answer); err != nil {
		return order.Reservation{}, err
	}
	return answer.decode()
}

// GetReservation makes one attempt of the exchange.
func (n *NATS) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	request := struct {
		ID string `json:"id"`
	}{id}
	var answer reservation
	if err := n.exchange(ctx, attempt, "GetReservation", request, &answer); err != nil {
		return order.Reservation{}, err
	}
	return answer.decode()
}

// GetStock makes one attempt of the exchange.
func (n *NATS) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	request := struct {
		SKUs []string `json:"skus"`
	}{skus}
	var answer levels
	if err := n.exchange(ctx, attempt, "GetStock", request, &answer); err != nil {
		return nil, err
	}
	return answer.decode()
}

func (n *NATS) exchange(ctx context.Context, attempt int, operation string, request, into any) error {
	answer, err := messaging.Request(ctx, n.connection, subjects+operation, attempt, request)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return unexplained(err)
	}
	return nil
}
