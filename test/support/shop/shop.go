// Package shop is a shop in front of the pair: it makes orders' requests, holds
// every answer to the contract, and, under load, remembers what it was told and
// holds the pair to that. The tests of processes and those of containers share it.
package shop

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"roundtrip/contracts/openapi"
)

// Client makes requests to one service, wherever its URL is at the moment.
type Client struct {
	URL  string
	HTTP *http.Client
}

// NewClient checks every response, and every request that was accepted, against
// the contract, and reports what breaks it.
func NewClient(url string, contract *openapi.Document, report func(error)) *Client {
	// A connection for each request: one that is kept could be closed by a
	// service that stops at the very moment when the next request goes out. It
	// also takes each request to the next replica.
	transport := &http.Transport{DisableKeepAlives: true}
	return &Client{url, &http.Client{Timeout: 20 * time.Second, Transport: contract.Transport(transport, report)}}
}

// Reply is an answer: what every answer has, and what tests look at in its body.
type Reply struct {
	Status int         `json:"-"`
	Header http.Header `json:"-"`
	Text   string      `json:"-"`
	// Err is why there is no answer, or none that can be read.
	Err error `json:"-"`

	ID, State    string
	Seq, Version int64
	Code         string
	Intent       *struct {
		Operation string
		Seq       int64
	}
	Last *struct {
		Operation, Outcome string
		Seq                int64
	} `json:"last_operation"`
	Lines    []Line
	OnHand   int64 `json:"on_hand"`
	Reserved int64
	Levels   []Level
	Entries  []Entry
	Orders   []struct {
		ID, State string
		Lines     []Line
	}
	NextCursor string `json:"next_cursor"`
	ExpiresAt  string `json:"expires_at"`
}

// Line is one of an order's or a reservation's.
type Line struct {
	SKU      string
	Quantity int64
}

// Level is stock of one SKU.
type Level struct {
	SKU       string
	OnHand    int64 `json:"on_hand"`
	Reserved  int64
	Available int64
}

// Entry is one of the ledger's.
type Entry struct {
	Reason, Ref   string
	Seq           int64
	OnHandDelta   int64 `json:"on_hand_delta"`
	ReservedDelta int64 `json:"reserved_delta"`
}

// Done says that what was asked for is done.
func (r Reply) Done() bool { return r.Status == http.StatusOK || r.Status == http.StatusCreated }

// Call makes one request; headers are names and values in turn.
func (c *Client) Call(ctx context.Context, method, path, body string, headers ...string) (r Reply) {
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return Reply{Err: err}
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	// The most that there is: a test is not about how fast the machine is.
	request.Header.Set("Request-Timeout-Ms", "5000")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Reply{Err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	r.Status, r.Header, r.Text, r.Err = response.StatusCode, response.Header, string(text), err
	return r
}

// Shop makes a shop's requests.
type Shop struct{ Orders, Inventory *Client }

func lines(sku string, quantity int64) string {
	return fmt.Sprintf(`"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]`, sku, quantity)
}

// Place places an order for one SKU.
func (s Shop) Place(ctx context.Context, id, sku string, quantity int64, headers ...string) Reply {
	return s.Orders.Call(ctx, "PUT", "/v1/orders/"+id, `{"customer":"c","currency":"GBP",`+lines(sku, quantity)+`}`, headers...)
}

// Amend replaces an order's lines by one.
func (s Shop) Amend(ctx context.Context, id, sku string, quantity int64, headers ...string) Reply {
	return s.Orders.Call(ctx, "PUT", "/v1/orders/"+id+"/lines", `{`+lines(sku, quantity)+`}`, headers...)
}

// Confirm confirms an order.
func (s Shop) Confirm(ctx context.Context, id string, headers ...string) Reply {
	return s.Orders.Call(ctx, "POST", "/v1/orders/"+id+"/confirm", "", headers...)
}

// Cancel cancels an order.
func (s Shop) Cancel(ctx context.Context, id string, headers ...string) Reply {
	return s.Orders.Call(ctx, "POST", "/v1/orders/"+id+"/cancel", "", headers...)
}

// Order asks orders alone.
func (s Shop) Order(ctx context.Context, id string, headers ...string) Reply {
	return s.Orders.Call(ctx, "GET", "/v1/orders/"+id, "", headers...)
}

// Count says how much of an SKU is on hand, once.
func (s Shop) Count(ctx context.Context, sku string, onHand int64) Reply {
	return s.Inventory.Call(ctx, "PUT", "/v1/adjustments/first-"+sku, fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand))
}

// Level asks inventory for the level of an SKU; one that it does not know is 0.
func (s Shop) Level(ctx context.Context, sku string) (Level, error) {
	r := s.Inventory.Call(ctx, "GET", "/v1/stock/"+sku, "")
	switch {
	case r.Err != nil:
		return Level{}, r.Err
	case r.Status == http.StatusNotFound:
		return Level{SKU: sku}, nil
	case len(r.Levels) != 1:
		return Level{}, fmt.Errorf("level of %s: %d %s", sku, r.Status, r.Text)
	}
	return r.Levels[0], nil
}
