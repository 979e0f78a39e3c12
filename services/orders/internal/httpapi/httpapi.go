// Package httpapi serves orders' operations over REST, as documented in
// contracts/openapi/orders.yaml. It decodes the request, calls the domain and encodes
// the answer. All rules are in the domain.
package httpapi

import (
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/internal/timestamp"
	"roundtrip/services/orders/internal/order"
)

// askAgain is the Retry-After of an answer without an outcome.
const askAgain = time.Second

// orderIDs is the namespace of the ids that are derived from idempotency keys
// (RFC 9562 §5.5). It must never change: otherwise a repeated key would create a second
// order.
var orderIDs = uuid.MustParse("5f0f3b0e-7d3a-5c86-9a58-2f6f0d7d1c11")

// Register serves every operation.
func Register(s *rest.Server, p *order.Protocol) {
	a := api{p}
	s.Handle(http.MethodPut, "/v1/orders/:id", "PutOrder", a.putOrder)
	s.Handle(http.MethodPost, "/v1/orders", "PostOrder", a.postOrder)
	s.Handle(http.MethodGet, "/v1/orders/:id", "GetOrder", a.getOrder)
	s.Handle(http.MethodGet, "/v1/orders", "ListOrders", a.listOrders)
	s.Handle(http.MethodGet, "/v1/orders/:id/reservation", "GetOrderReservation", a.getReservation)
	s.Handle(http.MethodPut, "/v1/orders/:id/lines", "AmendOrder", a.amendOrder)
	s.Handle(http.MethodPost, "/v1/orders/:id/confirm", "ConfirmOrder", a.confirmOrder)
	s.Handle(http.MethodPost, "/v1/orders/:id/cancel", "CancelOrder", a.cancelOrder)
	s.Handle(http.MethodGet, "/v1/availability", "GetAvailability", a.getAvailability)
}

type api struct{ protocol *order.Protocol }

// placeRequest is the body of PutOrder and PostOrder. A field is a pointer if it is
// optional, or if a missing value must differ from zero.
type placeRequest struct {
	Customer    string        `json:"customer"`
	Currency    string        `json:"currency"`
	HoldSeconds *int64        `json:"hold_seconds"`
	Lines       []requestLine `json:"lines"`
}

type requestLine struct {
	SKU       string  `json:"sku"`
	Location  *string `json:"location"`
	Quantity  int64   `json:"quantity"`
	UnitPrice *int64  `json:"unit_price"`
}

func decodeLines(from []requestLine) ([]order.Line, error) {
	var f problem.Fields
	lines := make([]order.Line, len(from))
	for i, l := range from {
		lines[i] = order.Line{SKU: l.SKU, Location: order.LocationOr(l.Location), Quantity: l.Quantity}
		if l.UnitPrice == nil {
			f.Add(fmt.Sprintf("/lines/%d/unit_price", i), "is missing")
			continue
		}
		lines[i].UnitPrice = *l.UnitPrice
	}
	return lines, f.Err()
}

func (a api) putOrder(c echo.Context) error { return a.place(c, rest.ID(c, "id")) }

// keyPattern is the form of an idempotency key: visible ASCII.
var keyPattern = regexp.MustCompile(`^[!-~]{1,255}$`)

func (a api) postOrder(c echo.Context) error {
	keys := c.Request().Header.Values("Idempotency-Key")
	if len(keys) != 1 || !keyPattern.MatchString(keys[0]) {
		var f problem.Fields
		f.Add("header:Idempotency-Key", "must be given once, with 1 to 255 visible ASCII characters")
		return f.Err()
	}
	const caller = "" // orders does not identify its callers yet
	id := uuid.NewSHA1(orderIDs, fmt.Appendf(nil, "%d:%s%s", len(caller), caller, keys[0]))
	return a.place(c, id.String())
}

func (a api) place(c echo.Context, id string) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	var body placeRequest
	if err := rest.Decode(c, &body); err != nil {
		return err
	}
	lines, err := decodeLines(body.Lines)
	if err != nil {
		return err
	}
	answer, err := a.protocol.Place(c.Request().Context(), order.Place{
		ID: id, Customer: body.Customer, Currency: body.Currency, HoldSeconds: order.HoldSecondsOr(body.HoldSeconds), Lines: lines,
	})
	if err == nil {
		c.Response().Header().Set(echo.HeaderLocation, "/v1/orders/"+id)
	}
	return respond(c, answer, err)
}

func (a api) amendOrder(c echo.Context) error {
	ifMatch, err := changing(c)
	if err != nil {
		return err
	}
	var body struct {
		Lines []requestLine `json:"lines"`
	}
	if err := rest.Decode(c, &body); err != nil {
		return err
	}
	lines, err := decodeLines(body.Lines)
	if err != nil {
		return err
	}
	answer, err := a.protocol.Amend(c.Request().Context(), order.Amend{ID: rest.ID(c, "id"), Lines: lines, IfMatch: ifMatch})
	return respond(c, answer, err)
}

func (a api) confirmOrder(c echo.Context) error {
	ifMatch, err := changingWithoutBody(c)
	if err != nil {
		return err
	}
	answer, err := a.protocol.Confirm(c.Request().Context(), order.Confirm{ID: rest.ID(c, "id"), IfMatch: ifMatch})
	return respond(c, answer, err)
}

func (a api) cancelOrder(c echo.Context) error {
	ifMatch, err := changingWithoutBody(c)
	if err != nil {
		return err
	}
	answer, err := a.protocol.Cancel(c.Request().Context(), order.Cancel{ID: rest.ID(c, "id"), IfMatch: ifMatch})
	return respond(c, answer, err)
}

// changing reads what all changes of an order have in common: there is no query, and
// there may be a precondition.
func changing(c echo.Context) (order.Precondition, error) {
	if _, err := rest.Query(c, nil); err != nil {
		return order.Precondition{}, err
	}
	return parseIfMatch(c.Request().Header.Values("If-Match"))
}

func changingWithoutBody(c echo.Context) (order.Precondition, error) {
	if err := rest.NoBody(c); err != nil {
		return order.Precondition{}, err
	}
	return changing(c)
}

// entityTag matches the entity tag at the start of a list (RFC 9110 §8.8.3). The tag
// may be weak. It may contain commas.
var entityTag = regexp.MustCompile(`^(W/)?"([^"\x00-\x20\x7f]*)"[ \t]*(,|$)`)

// parseIfMatch reads If-Match: * or a list of entity tags. An order's entity tag is its
// version. A weak entity tag never matches (RFC 9110 §13.1.1), and neither does one that
// is not a version.
func parseIfMatch(values []string) (order.Precondition, error) {
	if len(values) == 0 {
		return order.Precondition{}, nil
	}
	p := order.Precondition{Given: true}
	list := strings.Join(values, ",")
	if strings.Trim(list, " \t") == "*" {
		p.Any = true
		return p, nil
	}
	tags := 0
	// A list may have empty elements (RFC 9110 §5.6.1.2).
	for list = strings.TrimLeft(list, ", \t"); list != ""; list = strings.TrimLeft(list, ", \t") {
		tag := entityTag.FindStringSubmatch(list)
		if tag == nil {
			tags = 0
			break
		}
		tags, list = tags+1, list[len(tag[0]):]
		version, err := strconv.ParseInt(tag[2], 10, 64)
		if tag[1] == "" && err == nil && strconv.FormatInt(version, 10) == tag[2] {
			p.Versions = append(p.Versions, version)
		}
	}
	if tags == 0 {
		var f problem.Fields
		f.Add("header:If-Match", `must be * or entity tags such as "3"`)
		return order.Precondition{}, f.Err()
	}
	return p, nil
}

func (a api) getOrder(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	o, err := a.protocol.Order(c.Request().Context(), rest.ID(c, "id"))
	if err != nil {
		return rest.Locate(c, err)
	}
	return writeOrder(c, http.StatusOK, o)
}

func (a api) listOrders(c echo.Context) error {
	query, err := rest.Query(c, []string{"state", "customer", "cursor", "limit"})
	if err != nil {
		return err
	}
	cursor, limit, err := rest.PageOf(query)
	if err != nil {
		return err
	}
	orders, next, err := a.protocol.Orders(c.Request().Context(), rest.Optional(query, "state"), rest.Optional(query, "customer"),
		order.Page{Cursor: cursor, Limit: limit})
	if err != nil {
		return rest.Locate(c, err)
	}
	out := struct {
		Orders     []orderBody `json:"orders"`
		NextCursor string      `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, o := range orders {
		out.Orders = append(out.Orders, encodeOrder(o))
	}
	return rest.JSON(c, http.StatusOK, out)
}

func (a api) getReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	r, err := a.protocol.Reservation(c.Request().Context(), rest.ID(c, "id"))
	if err != nil {
		return rest.Locate(c, err)
	}
	type line struct {
		SKU      string `json:"sku"`
		Location string `json:"location"`
		Quantity int64  `json:"quantity"`
	}
	out := struct {
		ID        string `json:"id"`
		Seq       int64  `json:"seq"`
		State     string `json:"state"`
		Lines     []line `json:"lines"`
		ExpiresAt string `json:"expires_at,omitempty"`
	}{ID: r.ID, Seq: r.Seq, State: string(r.State), ExpiresAt: timestamp.Optional(r.ExpiresAt)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, line(l))
	}
	return rest.JSON(c, http.StatusOK, out)
}

func (a api) getAvailability(c echo.Context) error {
	query, err := rest.Query(c, nil, "sku")
	if err != nil {
		return err
	}
	levels, err := a.protocol.Availability(c.Request().Context(), query["sku"])
	if err != nil {
		return rest.Repeated(err, "skus", "sku")
	}
	type level struct {
		SKU       string `json:"sku"`
		Location  string `json:"location"`
		Available int64  `json:"available"`
	}
	out := struct {
		Levels []level `json:"levels"`
	}{}
	for _, l := range levels {
		out.Levels = append(out.Levels, level(l))
	}
	return rest.JSON(c, http.StatusOK, out)
}

type orderBody struct {
	ID            string         `json:"id"`
	State         string         `json:"state"`
	Version       int64          `json:"version"`
	Customer      string         `json:"customer"`
	Currency      string         `json:"currency"`
	HoldSeconds   int64          `json:"hold_seconds"`
	Lines         []orderLine    `json:"lines"`
	Total         int64          `json:"total"`
	HoldExpiresAt string         `json:"hold_expires_at,omitempty"`
	CreatedAt     string         `json:"created_at"`
	UpdatedAt     string         `json:"updated_at"`
	Intent        *intent        `json:"intent,omitzero"`
	LastOperation *lastOperation `json:"last_operation,omitzero"`
}

type orderLine struct {
	SKU       string `json:"sku"`
	Location  string `json:"location"`
	Quantity  int64  `json:"quantity"`
	UnitPrice int64  `json:"unit_price"`
}

type intent struct {
	Operation string `json:"operation"`
	Seq       int64  `json:"seq"`
	Since     string `json:"since"`
}

type lastOperation struct {
	Operation string           `json:"operation"`
	Seq       int64            `json:"seq"`
	Outcome   string           `json:"outcome"`
	Problem   *problem.Problem `json:"problem,omitzero"`
}

func encodeOrder(o order.Order) orderBody {
	out := orderBody{
		ID: o.ID, State: string(o.State), Version: o.Version, Customer: o.Customer, Currency: o.Currency, HoldSeconds: o.HoldSeconds,
		Total: o.Total, HoldExpiresAt: timestamp.Optional(o.HoldExpiresAt),
		CreatedAt: timestamp.Format(o.CreatedAt), UpdatedAt: timestamp.Format(o.UpdatedAt),
	}
	for _, l := range o.Lines {
		out.Lines = append(out.Lines, orderLine(l))
	}
	if in := o.Intent; in != nil {
		out.Intent = &intent{string(in.Operation), in.Seq, timestamp.Format(in.Since)}
	}
	if last := o.Last; last != nil {
		out.LastOperation = &lastOperation{string(last.Operation), last.Seq, string(last.Outcome), last.Problem}
	}
	return out
}

// respond answers how an operation ended, with 202 if that is not known yet.
func respond(c echo.Context, a order.Response, err error) error {
	if err != nil {
		return rest.Locate(c, err)
	}
	status := http.StatusOK
	switch {
	case !a.Settled:
		status = http.StatusAccepted
		c.Response().Header().Set(echo.HeaderRetryAfter, exchange.FormatRetryAfter(askAgain))
	case a.Created:
		status = http.StatusCreated
	}
	return writeOrder(c, status, a.Order)
}

func writeOrder(c echo.Context, status int, o order.Order) error {
	c.Response().Header().Set("ETag", strconv.Quote(strconv.FormatInt(o.Version, 10)))
	return rest.JSON(c, status, encodeOrder(o))
}
