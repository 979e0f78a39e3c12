// Package caller calls the services as their callers do. It validates every response
// against the contract. A [Load] also remembers the responses that its callers got
// and compares them with the orders afterwards. The process, integration and e2e
// suites share it.
package caller

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

// Client sends requests to one service.
type Client struct {
	URL  string
	HTTP *http.Client
}

// NewClient makes a client that validates every response, and every accepted
// request, against the contract, and reports violations.
func NewClient(url string, contract *openapi.Document, report func(error)) *Client {
	// Each request has its own connection. A service that stops could close a
	// kept connection just as the next request is sent. A new connection also goes
	// to the next replica.
	transport := &http.Transport{DisableKeepAlives: true}
	return &Client{url, &http.Client{Timeout: 20 * time.Second, Transport: contract.Transport(transport, report)}}
}

// Response has the fields of every response that tests use.
type Response struct {
	Status int         `json:"-"`
	Header http.Header `json:"-"`
	Text   string      `json:"-"`
	// Err says why there is no response, or why its body can't be decoded.
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

// Line is a line of an order or a reservation.
type Line struct {
	SKU      string
	Quantity int64
}

// Level is the stock of one SKU.
type Level struct {
	SKU       string
	OnHand    int64 `json:"on_hand"`
	Reserved  int64
	Available int64
}

// Entry is an entry of the ledger.
type Entry struct {
	Reason, Ref   string
	Seq           int64
	OnHandDelta   int64 `json:"on_hand_delta"`
	ReservedDelta int64 `json:"reserved_delta"`
}

// Done says that the operation was done: the status is 200 or 201.
func (r Response) Done() bool { return r.Status == http.StatusOK || r.Status == http.StatusCreated }

// Call sends one request. Headers are alternating names and values.
func (c *Client) Call(ctx context.Context, method, path, body string, headers ...string) (r Response) {
	request, err := http.NewRequestWithContext(ctx, method, c.URL+path, strings.NewReader(body))
	if err != nil {
		return Response{Err: err}
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	// The longest timeout: tests do not measure how fast the machine is.
	request.Header.Set("Request-Timeout-Ms", "5000")
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := c.HTTP.Do(request)
	if err != nil {
		return Response{Err: err}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil {
		err = json.Unmarshal(text, &r)
	}
	r.Status, r.Header, r.Text, r.Err = response.StatusCode, response.Header, string(text), err
	return r
}

// Services sends the requests of both services.
type Services struct{ Orders, Inventory *Client }

func lines(sku string, quantity int64) string {
	return fmt.Sprintf(`"lines":[{"sku":%q,"quantity":%d,"unit_price":100}]`, sku, quantity)
}

// Place places an order for one SKU.
func (s Services) Place(ctx context.Context, id, sku string, quantity int64, headers ...string) Response {
	return s.Orders.Call(ctx, "PUT", "/v1/orders/"+id, `{"customer":"c","currency":"GBP",`+lines(sku, quantity)+`}`, headers...)
}

// Amend replaces an order's lines by one line.
func (s Services) Amend(ctx context.Context, id, sku string, quantity int64, headers ...string) Response {
	return s.Orders.Call(ctx, "PUT", "/v1/orders/"+id+"/lines", `{`+lines(sku, quantity)+`}`, headers...)
}

// Confirm confirms an order.
func (s Services) Confirm(ctx context.Context, id string, headers ...string) Response {
	return s.Orders.Call(ctx, "POST", "/v1/orders/"+id+"/confirm", "", headers...)
}

// Cancel cancels an order.
func (s Services) Cancel(ctx context.Context, id string, headers ...string) Response {
	return s.Orders.Call(ctx, "POST", "/v1/orders/"+id+"/cancel", "", headers...)
}

// Order gets an order. Orders does not call inventory for it.
func (s Services) Order(ctx context.Context, id string, headers ...string) Response {
	return s.Orders.Call(ctx, "GET", "/v1/orders/"+id, "", headers...)
}

// Count sets the stock on hand of a SKU. It can be repeated.
func (s Services) Count(ctx context.Context, sku string, onHand int64) Response {
	return s.Inventory.Call(ctx, "PUT", "/v1/adjustments/first-"+sku, fmt.Sprintf(`{"sku":%q,"on_hand":%d,"reason":"counted"}`, sku, onHand))
}

// Level gets the level of a SKU. An unknown SKU has level 0.
func (s Services) Level(ctx context.Context, sku string) (Level, error) {
	r := s.Inventory.Call(ctx, "GET", "/v1/stock/"+sku, "")
	switch {
	case r.Err != nil:
		return Level{}, r.Err
	case r.Status == http.StatusNotFound:
		return Level{SKU: sku}, nil
	case len(r.Levels) != 1:
		return Level{}, fmt.Errorf("get the level of %s: %d %s", sku, r.Status, r.Text)
	}
	return r.Levels[0], nil
}
