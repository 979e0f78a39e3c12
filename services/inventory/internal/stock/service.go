package stock

import (
	"context"
	"fmt"
	"slices"
	"time"

	"roundtrip/internal/failpoint"
	"roundtrip/internal/problem"
)

// MaxSKUs is the most SKUs that one GetStock may name.
const MaxSKUs = 100

// Service has the operations that inventory offers to its callers. It fills in defaults,
// validates requests, decides which have priority, and calls the store. The adapter of
// each wire translates requests and answers.
//
// An invalid problem points at fields by their names, such as /id. An adapter knows
// where the field is on its wire.
type Service struct {
	store Store
	admit func(ctx context.Context, priority bool) error
}

// NewService makes a Service. The Service calls admit for a request whose priority is
// known only after it has been read.
func NewService(store Store, admit func(ctx context.Context, priority bool) error) *Service {
	return &Service{store, admit}
}

// PutRequest is a [Put] as a caller sends it. An optional field that is missing is nil.
// That is not the same as an empty field.
type PutRequest struct {
	ID          string
	Seq         int64
	State       State
	Lines       []LineRequest
	HoldSeconds *int64
}

// LineRequest is a [Line] as a caller sends it.
type LineRequest struct {
	SKU      string
	Location *string
	Quantity int64
}

// LocationOr returns the location that a request names, or [MainLocation] if it names
// none.
func LocationOr(given *string) string {
	if given == nil {
		return MainLocation
	}
	return *given
}

// put fills in the defaults. Lines and hold seconds, even empty ones, are invalid with
// any state other than held.
func (r PutRequest) put() (Put, error) {
	p := Put{ID: r.ID, Seq: r.Seq, State: r.State}
	for _, l := range r.Lines {
		p.Lines = append(p.Lines, Line{SKU: l.SKU, Location: LocationOr(l.Location), Quantity: l.Quantity})
	}
	var f problem.Fields
	switch {
	case r.State == Held && r.HoldSeconds == nil:
		p.HoldSeconds = DefaultHold
	case r.State == Held:
		p.HoldSeconds = *r.HoldSeconds
	case r.State == Committed || r.State == Released:
		if r.Lines != nil {
			f.Add("/lines", onlyWithHeld, Held)
		}
		if r.HoldSeconds != nil {
			f.Add("/hold_seconds", onlyWithHeld, Held)
		}
	}
	return p, f.Err()
}

// PutReservation asks for a reservation to be in a state, and returns the reservation
// after that.
func (s *Service) PutReservation(ctx context.Context, request PutRequest) (Reservation, error) {
	p, err := request.put()
	if err != nil {
		return Reservation{}, err
	}
	// Commit and release free stock or capacity, so they are shed last.
	if err := s.admit(ctx, p.State != Held); err != nil {
		return Reservation{}, err
	}
	failpoint.Hit("reservation-received", string(p.State))
	result := s.do(ctx, p)
	return result.Reservation.At(time.Now()), result.Err
}

func (s *Service) do(ctx context.Context, c Command) Result {
	return s.store.Do(ctx, []Command{c})[0]
}

// GetReservation returns one reservation, or not-found if there is none with that id.
func (s *Service) GetReservation(ctx context.Context, id string) (Reservation, error) {
	if err := validateName("/id", id); err != nil {
		return Reservation{}, err
	}
	r, err := s.store.Reservation(ctx, id)
	return r.At(time.Now()), err
}

// ListReservations lists reservations, the newest first. A nil state means every state.
func (s *Service) ListReservations(ctx context.Context, state *string, page Page) ([]Reservation, string, error) {
	var wanted State
	if state != nil {
		if wanted = State(*state); !slices.Contains(States(), wanted) {
			var f problem.Fields
			f.Add("/state", "must be one of %v", States())
			return nil, "", f.Err()
		}
	}
	found, next, err := s.store.Reservations(ctx, wanted, page)
	now := time.Now()
	for i, r := range found {
		found[i] = r.At(now)
	}
	return found, next, err
}

// GetStock returns the levels of 1 to [MaxSKUs] SKUs at every location. An unknown
// SKU has none.
func (s *Service) GetStock(ctx context.Context, skus []string) ([]Level, error) {
	var f problem.Fields
	if n := len(skus); n < 1 || n > MaxSKUs {
		f.Add("/skus", "must have 1 to %d SKUs; this has %d", MaxSKUs, n)
	}
	for i, sku := range skus {
		f.Name(fmt.Sprintf("/skus/%d", i), sku)
	}
	if err := f.Err(); err != nil {
		return nil, err
	}
	return s.store.Levels(ctx, skus)
}

// GetLevels returns the levels of one SKU, or not-found if there are none.
func (s *Service) GetLevels(ctx context.Context, sku string) ([]Level, error) {
	if err := validateName("/sku", sku); err != nil {
		return nil, err
	}
	found, err := s.store.Levels(ctx, []string{sku})
	if err == nil && len(found) == 0 {
		err = problem.New(problem.NotFound, "There is no SKU %s.", sku)
	}
	return found, err
}

// ListLevels lists every level, sorted by location and SKU.
func (s *Service) ListLevels(ctx context.Context, page Page) ([]Level, string, error) {
	return s.store.AllLevels(ctx, page)
}

// PutAdjustment changes the quantity on hand of a level, once for each id.
func (s *Service) PutAdjustment(ctx context.Context, a Adjust) (Adjustment, error) {
	result := s.do(ctx, a)
	return result.Adjustment, result.Err
}

// GetAdjustment returns one adjustment, or not-found if there is none with that id.
func (s *Service) GetAdjustment(ctx context.Context, id string) (Adjustment, error) {
	if err := validateName("/id", id); err != nil {
		return Adjustment{}, err
	}
	return s.store.Adjustment(ctx, id)
}

// Import sets levels and returns the result of each row, in order.
func (s *Service) Import(ctx context.Context, rows []ImportRow) []Result {
	commands := make([]Command, len(rows))
	for i, row := range rows {
		commands[i] = row
	}
	return s.store.Do(ctx, commands)
}

// ListLedger lists entries, the newest first. A nil filter matches everything.
func (s *Service) ListLedger(ctx context.Context, sku, ref *string, page Page) ([]Entry, string, error) {
	var f problem.Fields
	filter := func(pointer string, given *string) string {
		if given == nil {
			return ""
		}
		f.Name(pointer, *given)
		return *given
	}
	wantedSKU, wantedRef := filter("/sku", sku), filter("/ref", ref)
	if err := f.Err(); err != nil {
		return nil, "", err
	}
	return s.store.Ledger(ctx, wantedSKU, wantedRef, page)
}

func validateName(pointer, value string) error {
	var f problem.Fields
	f.Name(pointer, value)
	return f.Err()
}
