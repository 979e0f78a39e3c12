// Package httpapi serves inventory's operations over REST, as
// contracts/openapi/inventory.yaml defines them. It decodes, calls the domain and
// encodes. It has no rules of its own.
package httpapi

import (
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/internal/timestamp"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
)

// Register registers every operation on a server.
func Register(s *rest.Server, service *stock.Service) {
	a := api{service}
	s.Handle(http.MethodPut, "/v1/reservations/:id", "PutReservation", a.putReservation)
	s.Handle(http.MethodGet, "/v1/reservations/:id", "GetReservation", a.getReservation)
	s.Handle(http.MethodGet, "/v1/reservations", "ListReservations", a.listReservations)
	s.Handle(http.MethodGet, "/v1/stock", "GetStock", a.getStock)
	s.Handle(http.MethodGet, "/v1/stock/:sku", "GetLevels", a.getLevels)
	s.Handle(http.MethodPut, "/v1/adjustments/:id", "PutAdjustment", a.putAdjustment)
	s.Handle(http.MethodGet, "/v1/adjustments/:id", "GetAdjustment", a.getAdjustment)
	s.Handle(http.MethodPost, "/v1/stock/import", "ImportStock", a.importStock, rest.Stream)
	s.Handle(http.MethodGet, "/v1/ledger", "ListLedger", a.listLedger)
}

type api struct{ service *stock.Service }

func (a api) putReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	var request payload.PutReservation
	if err := rest.Decode(c, &request); err != nil {
		return err
	}
	r, err := a.service.PutReservation(c.Request().Context(), request.For(rest.ID(c, "id")))
	return respond(c, payload.OfReservation(r), err)
}

func (a api) getReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	r, err := a.service.GetReservation(c.Request().Context(), rest.ID(c, "id"))
	return respond(c, payload.OfReservation(r), err)
}

func (a api) listReservations(c echo.Context) error {
	query, page, err := pageOf(c, "state")
	if err != nil {
		return err
	}
	reservations, next, err := a.service.ListReservations(c.Request().Context(), rest.Optional(query, "state"), page)
	out := struct {
		Reservations []payload.Reservation `json:"reservations"`
		NextCursor   string                `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, r := range reservations {
		out.Reservations = append(out.Reservations, payload.OfReservation(r))
	}
	return respond(c, out, err)
}

// getStock returns the levels of the SKUs that the query names, or a page of all
// levels if it names none.
func (a api) getStock(c echo.Context) error {
	query, err := rest.Query(c, []string{"cursor", "limit"}, "sku")
	if err != nil {
		return err
	}
	if !query.Has("sku") {
		page, err := page(query)
		if err != nil {
			return err
		}
		all, next, err := a.service.ListLevels(c.Request().Context(), page)
		return respond(c, payload.OfLevels(all, next), err)
	}
	var f problem.Fields
	for _, parameter := range []string{"cursor", "limit"} {
		if query.Has(parameter) {
			f.Add("query:"+parameter, "may not be given with sku")
		}
	}
	if err := f.Err(); err != nil {
		return err
	}
	found, err := a.service.GetStock(c.Request().Context(), query["sku"])
	return respond(c, payload.OfLevels(found, ""), rest.Repeated(err, "skus", "sku"))
}

func (a api) getLevels(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	found, err := a.service.GetLevels(c.Request().Context(), rest.ID(c, "sku"))
	return respond(c, payload.OfLevels(found, ""), err)
}

// adjustRequest is the body of PutAdjustment.
type adjustRequest struct {
	SKU            string  `json:"sku"`
	Location       *string `json:"location"`
	Delta          *int64  `json:"delta"`
	OnHand         *int64  `json:"on_hand"`
	ExpectedOnHand *int64  `json:"expected_on_hand"`
	Reason         string  `json:"reason"`
	Note           string  `json:"note"`
}

type adjustment struct {
	ID             string           `json:"id"`
	SKU            string           `json:"sku"`
	Location       string           `json:"location"`
	Delta          *int64           `json:"delta,omitzero"`
	OnHand         *int64           `json:"on_hand,omitzero"`
	ExpectedOnHand *int64           `json:"expected_on_hand,omitzero"`
	Reason         string           `json:"reason"`
	Note           string           `json:"note,omitempty"`
	Outcome        string           `json:"outcome"`
	Problem        *problem.Problem `json:"problem,omitzero"`
	Level          payload.Level    `json:"level"`
	CreatedAt      string           `json:"created_at"`
}

func encodeAdjustment(a stock.Adjustment) adjustment {
	out := adjustment{
		ID: a.ID, SKU: a.SKU, Location: a.Location, Delta: a.Delta, OnHand: a.OnHand, ExpectedOnHand: a.ExpectedOnHand,
		Reason: string(a.Reason), Note: a.Note, Outcome: "done", Problem: a.Problem, Level: payload.OfLevel(a.Level),
		CreatedAt: timestamp.Format(a.CreatedAt),
	}
	if a.Problem != nil {
		out.Outcome = "rejected"
	}
	return out
}

func (a api) putAdjustment(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	var request adjustRequest
	if err := rest.Decode(c, &request); err != nil {
		return err
	}
	made, err := a.service.PutAdjustment(c.Request().Context(), stock.Adjust{
		ID: rest.ID(c, "id"), SKU: request.SKU, Location: stock.LocationOr(request.Location), Delta: request.Delta, OnHand: request.OnHand,
		ExpectedOnHand: request.ExpectedOnHand, Reason: stock.Reason(request.Reason), Note: request.Note,
	})
	return respond(c, encodeAdjustment(made), err)
}

func (a api) getAdjustment(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	found, err := a.service.GetAdjustment(c.Request().Context(), rest.ID(c, "id"))
	return respond(c, encodeAdjustment(found), err)
}

type entry struct {
	ID            int64  `json:"id"`
	At            string `json:"at"`
	SKU           string `json:"sku"`
	Location      string `json:"location"`
	OnHandDelta   int64  `json:"on_hand_delta"`
	ReservedDelta int64  `json:"reserved_delta"`
	OnHand        int64  `json:"on_hand"`
	Reserved      int64  `json:"reserved"`
	Reason        string `json:"reason"`
	Ref           string `json:"ref"`
	Seq           int64  `json:"seq"`
}

func (a api) listLedger(c echo.Context) error {
	query, page, err := pageOf(c, "sku", "ref")
	if err != nil {
		return err
	}
	entries, next, err := a.service.ListLedger(c.Request().Context(), rest.Optional(query, "sku"), rest.Optional(query, "ref"), page)
	out := struct {
		Entries    []entry `json:"entries"`
		NextCursor string  `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, e := range entries {
		out.Entries = append(out.Entries, entry{e.ID, timestamp.Format(e.At), e.SKU, e.Location, e.OnHandDelta, e.ReservedDelta,
			e.OnHand, e.Reserved, string(e.Reason), e.Ref, e.Seq})
	}
	return respond(c, out, err)
}

// respond sends the body with status 200, or returns the service's error.
func respond(c echo.Context, body any, err error) error {
	if err != nil {
		return rest.Locate(c, err)
	}
	return rest.JSON(c, http.StatusOK, body)
}

// pageOf reads the query of a list with these filters. It returns the query and its
// page.
func pageOf(c echo.Context, filters ...string) (url.Values, stock.Page, error) {
	query, err := rest.Query(c, append(filters, "cursor", "limit"))
	if err != nil {
		return nil, stock.Page{}, err
	}
	p, err := page(query)
	return query, p, err
}

func page(query url.Values) (stock.Page, error) {
	cursor, limit, err := rest.PageOf(query)
	return stock.Page{Cursor: cursor, Limit: limit}, err
}
