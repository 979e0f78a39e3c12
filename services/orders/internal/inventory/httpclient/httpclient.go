// Package httpclient is the orders side of the REST wire to inventory.
package httpclient

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/url"

	"roundtrip/internal/exchange"
	"roundtrip/internal/restclient"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/order"
)

// Wire is the REST wire.
type Wire struct{ client *restclient.Client }

var _ inventory.Wire = (*Wire)(nil)

// dialTimeout leaves time to connect to another replica if one does not answer.
const dialTimeout = exchange.DefaultTimeout / 4

// New makes the REST wire to an inventory such as http://inventory:8080. connections is
// how many connections it keeps open at most. dial opens connections; it may be nil. The
// wire connects when it is first used.
func New(base string, connections int, dial inventory.Dial) (*Wire, error) {
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	client, err := restclient.New(base, restclient.Options{Connections: connections, Dial: dial})
	if err != nil {
		return nil, err
	}
	return &Wire{client}, nil
}

// Close closes the connections that are not in use.
func (w *Wire) Close() error {
	w.client.Close()
	return nil
}

// PutReservation makes one attempt of the exchange.
func (w *Wire) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	return decoded[inventory.ReservationBody](ctx, w, attempt, http.MethodPut, "/v1/reservations/"+url.PathEscape(r.ID), inventory.EncodePut(r))
}

// GetReservation makes one attempt of the exchange.
func (w *Wire) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	return decoded[inventory.ReservationBody](ctx, w, attempt, http.MethodGet, "/v1/reservations/"+url.PathEscape(id), nil)
}

// GetStock makes one attempt of the exchange.
func (w *Wire) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	return decoded[inventory.LevelsBody](ctx, w, attempt, http.MethodGet, "/v1/stock?"+url.Values{"sku": skus}.Encode(), nil)
}

// Reservations lists all reservations of inventory, page by page. The audit uses it to
// find reservations that orders does not know.
func (w *Wire) Reservations(ctx context.Context, cursor string) (page []order.Reservation, next string, err error) {
	var answer struct {
		Reservations []inventory.ReservationBody `json:"reservations"`
		NextCursor   string                      `json:"next_cursor"`
	}
	list := func(limit string) error {
		query := url.Values{"limit": {limit}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		return w.exchange(ctx, 1, http.MethodGet, "/v1/reservations?"+query.Encode(), nil, &answer)
	}
	err = list("200")
	if errors.Is(err, restclient.ErrTooLarge) {
		err = list("10") // 10 always fit, even with the most lines
	}
	if err != nil {
		return nil, "", err
	}
	for _, r := range answer.Reservations {
		decoded, err := r.Decode()
		if err != nil {
			return nil, "", err
		}
		page = append(page, decoded)
	}
	return page, answer.NextCursor, nil
}

// decoded makes one attempt and decodes its answer.
func decoded[B inventory.Body[T], T any](ctx context.Context, w *Wire, attempt int, method, path string, body any) (answer T, err error) {
	var encoded B
	if err := w.exchange(ctx, attempt, method, path, body, &encoded); err != nil {
		return answer, err
	}
	return encoded.Decode()
}

func (w *Wire) exchange(ctx context.Context, attempt int, method, path string, body, into any) error {
	return explain(w.client.Exchange(ctx, attempt, method, path, body, into))
}

// explain turns the client's error for an answer that no rule explains into the
// domain's error.
func explain(err error) error {
	if errors.Is(err, restclient.ErrUnexplained) {
		return inventory.Unexplained(err)
	}
	return err
}
