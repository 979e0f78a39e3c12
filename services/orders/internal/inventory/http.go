package inventory

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/orders/internal/order"
)

// maxAnswer is the most bytes of an answer that are read.
const maxAnswer = 4 << 20

var errTooMuch = fmt.Errorf("an answer of more than %d bytes", maxAnswer)

// HTTP is the REST wire.
type HTTP struct {
	base   string
	client *http.Client
}

// dialTimeout leaves time to connect to another replica where one does not answer.
const dialTimeout = exchange.DefaultTimeout / 4

// Dial opens a connection; tests bring one of their own.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// NewHTTP makes the REST wire to an inventory such as http://inventory:8080. It
// keeps up to connections open. Nothing is connected yet.
func NewHTTP(base string, connections int, dial Dial) (*HTTP, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("inventory's address must look like http://HOST:PORT, not %q", base)
	}
	if dial == nil {
		dial = (&net.Dialer{Timeout: dialTimeout}).DialContext
	}
	return &HTTP{
		base: strings.TrimSuffix(base, "/"),
		client: &http.Client{
			Transport: &http.Transport{
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					conn, err := dial(ctx, network, address)
					if err != nil {
						err = dialError{err}
					}
					return conn, err
				},
				MaxIdleConns: connections, MaxIdleConnsPerHost: connections, IdleConnTimeout: 30 * time.Second,
				MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// dialError marks that no request was sent.
type dialError struct{ error }

func (e dialError) Unwrap() error { return e.error }

// Close closes the connections that are not in use.
func (h *HTTP) Close() error {
	h.client.CloseIdleConnections()
	return nil
}

// PutReservation makes one attempt of the exchange.
func (h *HTTP) PutReservation(ctx context.Context, attempt int, r order.Request) (order.Reservation, error) {
	var answer reservation
	if err := h.exchange(ctx, attempt, http.MethodPut, "/v1/reservations/"+url.PathEscape(r.ID), encode(r), &answer); err != nil {
		return order.Reservation{}, err
	}
	return answer.decode()
}

// GetReservation makes one attempt of the exchange.
func (h *HTTP) GetReservation(ctx context.Context, attempt int, id string) (order.Reservation, error) {
	var answer reservation
	if err := h.exchange(ctx, attempt, http.MethodGet, "/v1/reservations/"+url.PathEscape(id), nil, &answer); err != nil {
		return order.Reservation{}, err
	}
	return answer.decode()
}

// GetStock makes one attempt of the exchange.
func (h *HTTP) GetStock(ctx context.Context, attempt int, skus []string) ([]order.Level, error) {
	var answer levels
	if err := h.exchange(ctx, attempt, http.MethodGet, "/v1/stock?"+url.Values{"sku": skus}.Encode(), nil, &answer); err != nil {
		return nil, err
	}
	return answer.decode()
}

// Reservations lists what inventory has, page by page: for the audit, which
// also looks for what orders does not know of.
func (h *HTTP) Reservations(ctx context.Context, cursor string) (page []order.Reservation, next string, err error) {
	var answer struct {
		Reservations []reservation `json:"reservations"`
		NextCursor   string        `json:"next_cursor"`
	}
	list := func(limit string) error {
		query := url.Values{"limit": {limit}}
		if cursor != "" {
			query.Set("cursor", cursor)
		}
		return h.exchange(ctx, 1, http.MethodGet, "/v1/reservations?"+query.Encode(), nil, &answer)
	}
	err = list("200")
	if errors.Is(err, errTooMuch) {
		err = list("10") // which fit, with as many lines as there may be
	}
	if err != nil {
		return nil, "", err
	}
	for _, r := range answer.Reservations {
		decoded, err := r.decode()
		if err != nil {
			return nil, "", err
		}
		page = append(page, decoded)
	}
	return page, answer.NextCursor, nil
}

// exchange sends one request and reads its answer. A PUT is sent once: net/http
// repeats one by itself only where a kept connection turned out to be closed
// before a byte of it was written, which nobody can have acted on. (A GET it
// also repeats where such a connection closes before the answer; that changes
// nothing.)
func (h *HTTP) exchange(ctx context.Context, attempt int, method, path string, body, into any) error {
	var content io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("encode the request: %w", err)
		}
		content = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, h.base+path, content)
	if err != nil {
		return fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", "application/json, "+problem.MediaType)
	request.Header.Set(exchange.RequestIDHeader, exchange.RequestID(ctx))
	request.Header.Set(exchange.AttemptHeader, strconv.Itoa(attempt))
	if trace := exchange.Trace(ctx); trace != "" {
		request.Header.Set(exchange.TraceHeader, trace)
	}
	if left, ok := exchange.Remaining(ctx); ok {
		request.Header.Set(exchange.TimeoutHeader, exchange.FormatTimeout(left))
	}
	response, err := h.client.Do(request)
	if err != nil {
		return fault(ctx, err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return fault(ctx, err)
	}
	if err = read(response, answer, into); !exchange.Answered(err) {
		// Whoever this is, it may not be inventory, such as where a cluster has not
		// set up the way to it yet: the next attempt connects anew.
		h.client.CloseIdleConnections()
	}
	return err
}

// read reads an answer.
func read(response *http.Response, answer []byte, into any) error {
	switch {
	case len(answer) > maxAnswer:
		return unexplained(errTooMuch)
	case response.StatusCode != http.StatusOK && response.StatusCode < 400:
		return unexplained(fmt.Errorf("an answer with status %d", response.StatusCode))
	case response.StatusCode != http.StatusOK:
		return rest.ReadProblem(response.StatusCode, response.Header, answer)
	}
	if err := json.Unmarshal(answer, into); err != nil {
		return unexplained(err)
	}
	return nil
}

// fault makes a problem of an attempt that got no whole answer.
func fault(ctx context.Context, err error) error {
	var dial dialError
	switch {
	case ctx.Err() != nil:
		return problem.Wrap(err, problem.DeadlineExceeded, "Inventory did not answer in time.")
	case errors.As(err, &dial):
		return exchange.Unreachable(err)
	}
	return problem.Wrap(err, problem.Unavailable, "The connection to inventory failed.")
}
