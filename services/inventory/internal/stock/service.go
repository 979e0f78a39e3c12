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

// Service is what inventory does for its callers. It fills in defaults, validates
// what a request says, decides what has priority, and asks the store. The adapters
// of the wires translate requests to it and its answers back.
//
// An invalid problem points at fields by their names, such as /id; an adapter
// knows where on its wire it found them.
type Service struct {
	store Store
	admit func(ctx context.Context, priority bool) error
}

// NewService makes a Service. It calls admit where a request's priority is known
// only once the request has been read.
func NewService(store Store, admit func(ctx context.Context, priority bool) error) *Service {
	return &Service{store, admit}
}

// PutRequest is a [Put] as a caller sends it. What may be left out is nil then,
// which is not the same as empty.
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

// LocationOr is the location that a request names, or [MainLocation] when it
// names none.
func LocationOr(given *string) string {
	if given == nil {
		return MainLocation
	}
	return *given
}

// put fills in the defaults. Lines and hold seconds that are given with another
// state than held are invalid, empty ones too.
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

// PutReservation asks for a reservation to be in a state, and returns it as it is
// afterwards.
func (s *Service) PutReservation(ctx context.Context, request PutRequest) (Reservation, error) {
	p, err := request.put()
	if err != nil {
		return Reservation{}, err
	}
	// What finishes an order gives stock or capacity back, so it is shed last.
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

// GetReservation returns not-found if there is none with that id.
func (s *Service) GetReservation(ctx context.Context, id string) (Reservation, error) {
	if err := validateName("/id", id); err != nil {
		return Reservation{}, err
	}
	r, err := s.store.Reservation(ctx, id)
	return r.At(time.Now()), err
}

// ListReservations lists the newest first; a state that is nil means every state.
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

// GetLevels returns the levels of one SKU; not-found if there are none.
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

// ListLevels lists every level, by location and SKU.
func (s *Service) ListLevels(ctx context.Context, page Page) ([]Level, string, error) {
	return s.store.AllLevels(ctx, page)
}

// PutAdjustment changes what is on hand, once per id.
func (s *Service) PutAdjustment(ctx context.Context, a Adjust) (Adjustment, error) {
	result := s.do(ctx, a)
	return result.Adjustment, result.Err
}

// GetAdjustment returns not-found if there is none with that id.
func (s *Service) GetAdjustment(ctx context.Context, id string) (Adjustment, error) {
	if err := validateName("/id", id); err != nil {
		return Adjustment{}, err
	}
	return s.store.Adjustment(ctx, id)
}

// Import sets levels and gives each row its result, in order.
func (s *Service) Import(ctx context.Context, rows []ImportRow) []Result {
	commands := make([]Command, len(rows))
	for i, row := range rows {
		commands[i] = row
	}
	return s.store.Do(ctx, commands)
}

// ListLedger lists the newest entries first; a filter that is nil matches
// everything.
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
