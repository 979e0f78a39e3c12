// Package httpapi serves inventory's operations over REST, as
// contracts/openapi/inventory.yaml has them. It decodes, calls the domain and
// encodes; it holds no rule of its own.
package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/inventory/internal/stock"
)

// maxSKUs is how many SKUs one GetStock may name.
const maxSKUs = 100

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

type line struct {
	SKU      string `json:"sku"`
	Location string `json:"location"`
	Quantity int64  `json:"quantity"`
}

type reservation struct {
	ID        string `json:"id"`
	Seq       int64  `json:"seq"`
	State     string `json:"state"`
	Lines     []line `json:"lines"`
	ExpiresAt string `json:"expires_at,omitempty"`
}

func encodeReservation(r stock.Reservation) reservation {
	r = r.At(time.Now())
	out := reservation{ID: r.ID, Seq: r.Seq, State: string(r.State), ExpiresAt: rest.OptionalTime(r.ExpiresAt)}
	for _, l := range r.Lines {
		out.Lines = append(out.Lines, line{l.SKU, l.Location, l.Quantity})
	}
	return out
}

// putRequest is the body of PutReservation. What may be left out is a pointer:
// left out is not the same as zero.
type putRequest struct {
	Seq         int64         `json:"seq"`
	State       string        `json:"state"`
	Lines       []requestLine `json:"lines"`
	HoldSeconds *int64        `json:"hold_seconds"`
}

type requestLine struct {
	SKU      string  `json:"sku"`
	Location *string `json:"location"`
	Quantity int64   `json:"quantity"`
}

// command is what the body asks for. Here, and not in the domain, one can tell
// what was given in vain: an empty list of lines from none, a hold of 0 from none.
func (r putRequest) command(id string) (stock.Put, error) {
	put := stock.Put{ID: id, Seq: r.Seq, State: stock.State(r.State)}
	for _, l := range r.Lines {
		put.Lines = append(put.Lines, stock.Line{SKU: l.SKU, Location: or(l.Location, stock.MainLocation), Quantity: l.Quantity})
	}
	var f problem.Fields
	switch put.State {
	case stock.Held:
		put.HoldSeconds = or(r.HoldSeconds, stock.DefaultHold)
	case stock.Committed, stock.Released:
		if r.Lines != nil {
			f.Add("/lines", "may only be given with state %q", stock.Held)
		}
		if r.HoldSeconds != nil {
			f.Add("/hold_seconds", "may only be given with state %q", stock.Held)
		}
	}
	return put, f.Err()
}

func (a api) putReservation(c echo.Context) error {
	if _, err := rest.Query(c, nil); err != nil {
		return err
	}
	var body putRequest
	if err := rest.Decode(c, &body); err != nil {
		return err
	}
	put, err := body.command(rest.ID(c, "id"))
	if err != nil {
		return err
	}
	// What finishes an order gives stock or places back, so it is shed last.
	if err := rest.Admit(c, put.State != stock.Held); err != nil {
		return err
	}
	failpoint.Hit("reservation-received", body.State)
	result := a.do(c, put)
	if result.Err != nil {
		return result.Err
	}
	return rest.JSON(c, http.StatusOK, encodeReservation(result.Reservation))
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
	return rest.JSON(c, http.StatusOK, encodeReservation(r))
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
		Reservations []reservation `json:"reservations"`
		NextCursor   string        `json:"next_cursor,omitempty"`
	}{NextCursor: next}
	for _, r := range reservations {
		out.Reservations = append(out.Reservations, encodeReservation(r))
	}
	return rest.JSON(c, http.StatusOK, out)
}

type level struct {
	SKU       string `json:"sku"`
	Name      string `json:"name"`
	Location  string `json:"location"`
	OnHand    int64  `json:"on_hand"`
	Reserved  int64  `json:"reserved"`
	Available int64  `json:"available"`
	Version   int64  `json:"version"`
}

func encodeLevel(l stock.Level) level {
	return level{l.SKU, l.Name, l.Location, l.OnHand, l.Reserved, l.Available(), l.Version}
}

type levels struct {
	Levels     []level `json:"levels"`
	NextCursor string  `json:"next_cursor,omitempty"`
}

func encodeLevels(from []stock.Level, next string) levels {
	out := levels{NextCursor: next}
	for _, l := range from {
		out.Levels = append(out.Levels, encodeLevel(l))
	}
	return out
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
		return rest.JSON(c, http.StatusOK, encodeLevels(all, next))
	}
	var f problem.Fields
	for _, parameter := range []string{"cursor", "limit"} {
		if query.Has(parameter) {
			f.Add("query:"+parameter, "may not be given with sku")
		}
	}
	skus := query["sku"]
	if len(skus) > maxSKUs {
		f.Add("query:sku", "may be given %d times at most", maxSKUs)
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
	return rest.JSON(c, http.StatusOK, encodeLevels(found, ""))
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
	return rest.JSON(c, http.StatusOK, encodeLevels(found, ""))
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
	Level          level            `json:"level"`
	CreatedAt      string           `json:"created_at"`
}

func encodeAdjustment(a stock.Adjustment) adjustment {
	out := adjustment{
		ID: a.ID, SKU: a.SKU, Location: a.Location, Delta: a.Delta, OnHand: a.OnHand, ExpectedOnHand: a.ExpectedOnHand,
		Reason: string(a.Reason), Note: a.Note, Outcome: "done", Problem: a.Problem, Level: encodeLevel(a.Level),
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
	var body adjustRequest
	if err := rest.Decode(c, &body); err != nil {
		return err
	}
	result := a.do(c, stock.Adjust{
		ID: rest.ID(c, "id"), SKU: body.SKU, Location: or(body.Location, stock.MainLocation), Delta: body.Delta, OnHand: body.OnHand,
		ExpectedOnHand: body.ExpectedOnHand, Reason: stock.Reason(body.Reason), Note: body.Note,
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

func or[T any](value *T, otherwise T) T {
	if value != nil {
		return *value
	}
	return otherwise
}
