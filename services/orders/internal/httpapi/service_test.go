package httpapi

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/orders/internal/order"
	"roundtrip/services/orders/internal/store"
	"roundtrip/test/support/resttest"
)

// fakeInventory answers with its functions. Without put it grants every request.
type fakeInventory struct {
	put         func(order.Request) (order.Reservation, error)
	reservation func(id string) (order.Reservation, error)
	stock       func(skus []string) ([]order.Level, error)
	asked       atomic.Int64
}

func (f *fakeInventory) PutReservation(_ context.Context, r order.Request) (order.Reservation, error) {
	f.asked.Add(1)
	if f.put != nil {
		return f.put(r)
	}
	return grantedReservation(r), nil
}

func grantedReservation(r order.Request) order.Reservation {
	out := order.Reservation{ID: r.ID, Seq: r.Seq, State: r.State, Lines: r.Lines}
	if r.State == order.ReservationHeld {
		out.ExpiresAt = time.Now().Add(time.Duration(r.HoldSeconds) * time.Second)
	}
	return out
}

func (f *fakeInventory) Reservation(_ context.Context, id string) (order.Reservation, error) {
	f.asked.Add(1)
	return f.reservation(id)
}

func (f *fakeInventory) Stock(_ context.Context, skus []string) ([]order.Level, error) {
	f.asked.Add(1)
	return f.stock(skus)
}

// service is orders' HTTP API with a real store and a fake inventory.
type service struct {
	resttest.Client
	inventory *fakeInventory
	// unreachable makes orders believe that it can't connect to inventory.
	unreachable atomic.Bool
	store       order.Store
	path        string
}

func start(t testing.TB) *service {
	t.Helper()
	s := &service{inventory: &fakeInventory{}, path: filepath.Join(t.TempDir(), "orders.db")}
	log := slog.New(slog.DiscardHandler)
	var err error
	if s.store, _, err = store.Open(t.Context(), database.Options{Source: database.FromAddress("sqlite:" + s.path)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: log, MaxInFlight: 512})})
	Register(server, order.NewProtocol(s.store, s.inventory, s.unreachable.Load, func(string) {}))
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	s.Client = resttest.Client{URL: listening.URL, Contract: openapi.Orders()}
	return s
}

// response is an answer, with its order decoded.
type response struct {
	resttest.Response
	order orderView
}

type orderView struct {
	ID            string
	State         string
	Version       int64
	Total         int64
	Lines         []map[string]any
	HoldExpiresAt string         `json:"hold_expires_at"`
	CreatedAt     string         `json:"created_at"`
	Intent        map[string]any `json:"intent"`
	LastOperation map[string]any `json:"last_operation"`
}

func (s *service) call(t testing.TB, method, path, body string, headers ...string) response {
	t.Helper()
	r := response{Response: s.Call(t, method, path, body, headers...)}
	if r.Status < 400 {
		r.order = resttest.Decode[orderView](t, r.Response)
	}
	return r
}

// want checks the status, and the headers that every answer has.
func (r response) want(t testing.TB, what string, status int, code problem.Code) {
	t.Helper()
	r.Want(t, what, status, code)
	if status < 300 && r.order.Version > 0 {
		if etag := r.Header.Get("ETag"); etag != fmt.Sprintf("%q", fmt.Sprint(r.order.Version)) {
			t.Errorf("%s: the ETag of version %d is %s", what, r.order.Version, etag)
		}
	}
	wait := status == http.StatusAccepted || code.Retry() == problem.After && code != ""
	if got := r.Header.Get("Retry-After"); wait != (got == "1") {
		t.Errorf("%s: Retry-After is %q", what, got)
	}
	if r.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s: the answer has no request id", what)
	}
}

// dump returns every row of every table as text.
func (s *service) dump(t testing.TB) string {
	t.Helper()
	db, err := database.OpenSQLiteReadOnly(s.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var out strings.Builder
	err = db.Read(t.Context(), func(tx *sql.Tx) error {
		for _, rows := range []string{
			"SELECT json_array(id, state, version, lines, seq, updated_at, leased_until, last_seq) FROM orders",
			"SELECT json_array(order_id, seq, operation, settled_at, outcome) FROM intents",
		} {
			found, err := tx.Query(rows)
			if err != nil {
				return err
			}
			defer found.Close()
			for found.Next() {
				var row string
				if err := found.Scan(&row); err != nil {
					return err
				}
				out.WriteString(row + "\n")
			}
			if err := found.Err(); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

const body = `{"customer": "17850", "currency": "GBP", "lines": [
	{"sku": "85123A", "quantity": 6, "unit_price": 255}, {"sku": "71053", "location": "north", "quantity": 1, "unit_price": 0}]}`

const otherLines = `{"lines": [{"sku": "85123A", "quantity": 7, "unit_price": 255}]}`
