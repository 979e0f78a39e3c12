// Package httpapi serves inventory's operations over REST, as
// contracts/openapi/inventory.yaml has them. It decodes, calls the domain and
// encodes; it holds no rule of its own.
package httpapi

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
)

// Register serves every operation.
func Register(s *rest.Server, store stock.Store) {
	a := api{store}
	s.Handle(http.MethodPut, "/v1/reservations/:id", "PutReservation", a.putReservation, rest.AdmitLater)
	s.Handle(http.MethodGet, "/v1/reservations/:id", "GetReservation", a.getReservation)
	s.Handle(http.MethodGet, "/v1/reservations", "ListReservations", a.listReservations)
	s.Handle(http.MethodGet, "/v1/stock", "GetStock", a.getStock)
	s.Handle(http.MethodGet, "/v1/stock/:sku", "GetLevels", a.getLevels)
	s.Handle(http.MethodPut, "/v1/adjustments/:id", "PutAdjustment", a.putAdjustment)
	s.Handle(http.MethodGet, "/v1/adjustments/:id", "GetAdjustment", a.getAdjustment)
	s.Handle(http.MethodPost, "/v1/stock/import", "ImportStock", a.importStock, rest.Stream)
	s.Handle(http.MethodGet, "/v1/ledger", "ListLedger", a.listLedger)
}

type api struct{ store stock.Store }

func (a api) putReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	var request payload.PutReservation
	if err := rest.Decode(c, &request); err != nil {
		return err
	}
	put, err := request.Command(rest.ID(c, "id"))
	if err != nil {
		return err
	}
	// What finishes an order gives stock or places back, so it is shed last.
	if err := rest.Admit(c, put.State != stock.Held); err != nil {
		return err
	}
	failpoint.Hit("reservation-received", request.State)
	result := a.do(c, put)
	if result.Err != nil {
		return result.Err
	}
	return rest.JSON(c, http.StatusOK, payload.OfReservation(result.Reservation))
}

func (a api) do(c echo.Context, command stock.Command) stock.Result {
	return a.store.Do(c.Request().Context(), []stock.Command{command})[0]
}

func (a api) getReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	id, err := name(c, "id")
	if err != nil {
		return err
	}
	r, err := a.store.Reservation(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return rest.JSON(c, http.StatusOK, payload.OfReservation(r))
}

func (a api) listReservations(c echo.Context) error {
	query, page, err := pageOf(c, "state")
	if err != nil {
		return err
	}
	state := stock.State(query.Get("state"))
	if query.Has("state") && !slices.Contains(stock.States(), state) {
		var f problem.Fields
		f.Add("query:state", "must be one of %v", stock.States())
		return f.Err()
	}
	reservations, next, err := a.store.Reservations(c.Request().Context(), state, page)
	if err != nil {
		return err
	}
	out := struct {
		Reservations []payload.Reservation `json:"reservations"`
		NextCursor   string                `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, r := range reservations {
		out.Reservations = append(out.Reservations, payload.OfReservation(r))
	}
	return rest.JSON(c, http.StatusOK, out)
}

// getStock gives the levels of the SKUs that the query names, or, where it
// names none, a page of all of them.
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
		all, next, err := a.store.AllLevels(c.Request().Context(), page)
		if err != nil {
			return err
		}
		return rest.JSON(c, http.StatusOK, payload.OfLevels(all, next))
	}
	var f problem.Fields
	for _, parameter := range []string{"cursor", "limit"} {
		if query.Has(parameter) {
			f.Add("query:"+parameter, "may not be given with sku")
		}
	}
	skus := query["sku"]
	if len(skus) > payload.MaxSKUs {
		f.Add("query:sku", "may be given %d times at most", payload.MaxSKUs)
	}
	for _, sku := range skus {
		f.Name("query:sku", sku)
	}
	if err := f.Err(); err != nil {
		return err
	}
	found, err := a.store.Levels(c.Request().Context(), skus)
	if err != nil {
		return err
	}
	return rest.JSON(c, http.StatusOK, payload.OfLevels(found, ""))
}

func (a api) getLevels(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	sku, err := name(c, "sku")
	if err != nil {
		return err
	}
	found, err := a.store.Levels(c.Request().Context(), []string{sku})
	if err == nil && len(found) == 0 {
		err = problem.New(problem.NotFound, "There is no SKU %s.", sku)
	}
	if err != nil {
		return err
	}
	return rest.JSON(c, http.StatusOK, payload.OfLevels(found, ""))
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
		CreatedAt: rest.FormatTime(a.CreatedAt),
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
	result := a.do(c, stock.Adjust{
		ID: rest.ID(c, "id"), SKU: request.SKU, Location: payload.Or(request.Location, stock.MainLocation), Delta: request.Delta, OnHand: request.OnHand,
		ExpectedOnHand: request.ExpectedOnHand, Reason: stock.Reason(request.Reason), Note: request.Note,
	})
	if result.Err != nil {
		return result.Err
	}
	return rest.JSON(c, http.StatusOK, encodeAdjustment(result.Adjustment))
}

func (a api) getAdjustment(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	id, err := name(c, "id")
	if err != nil {
		return err
	}
	found, err := a.store.Adjustment(c.Request().Context(), id)
	if err != nil {
		return err
	}
	return rest.JSON(c, http.StatusOK, encodeAdjustment(found))
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
	var f problem.Fields
	for _, filter := range []string{"sku", "ref"} {
		if query.Has(filter) {
			f.Name("query:"+filter, query.Get(filter))
		}
	}
	if err := f.Err(); err != nil {
		return err
	}
	entries, next, err := a.store.Ledger(c.Request().Context(), query.Get("sku"), query.Get("ref"), page)
	if err != nil {
		return err
	}
	out := struct {
		Entries    []entry `json:"entries"`
		NextCursor string  `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, e := range entries {
		out.Entries = append(out.Entries, entry{e.ID, rest.FormatTime(e.At), e.SKU, e.Location, e.OnHandDelta, e.ReservedDelta,
			e.OnHand, e.Reserved, string(e.Reason), e.Ref, e.Seq})
	}
	return rest.JSON(c, http.StatusOK, out)
}

// name is a path parameter that must look like an id or a SKU.
func name(c echo.Context, parameter string) (string, error) {
	value := rest.ID(c, parameter)
	var f problem.Fields
	f.Name("path:"+parameter, value)
	return value, f.Err()
}

// pageOf reads a list's query: its page and the filters that it has.
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
