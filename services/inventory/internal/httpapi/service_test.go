package httpapi

import (
	"database/sql"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/rest"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
	"roundtrip/test/support/resttest"
)

// service is inventory's HTTP API with a real store.
type service struct {
	resttest.Client
	store stock.Store
	path  string
}

func start(t testing.TB) *service {
	t.Helper()
	s := &service{path: filepath.Join(t.TempDir(), "inventory.db")}
	var err error
	if s.store, _, err = store.Open(t.Context(), database.Options{Source: database.FromAddress("sqlite:" + s.path)}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Client = serve(t, s.store, 512)
	return s
}

func serve(t testing.TB, s stock.Store, maxInFlight int) resttest.Client {
	t.Helper()
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: maxInFlight, Admission: map[string]exchange.Admission{"PutReservation": exchange.AdmitByHandler},
	})})
	Register(server, stock.NewService(s, exchange.Admit))
	listening := httptest.NewUnstartedServer(server)
	listening.Config.ErrorLog = log.New(serverErrors{t}, "", 0)
	listening.Start()
	t.Cleanup(listening.Close)
	return resttest.Client{URL: listening.URL, Contract: openapi.Inventory()}
}

// serverErrors receives the error log of net/http: a panic, or wrong use of it.
type serverErrors struct{ testing.TB }

func (c serverErrors) Write(p []byte) (int, error) {
	c.Errorf("net/http logged: %s", p)
	return len(p), nil
}

// ok is Call for requests that must be answered with 200.
func (s *service) ok(t testing.TB, method, path, body string, headers ...string) resttest.Response {
	t.Helper()
	r := s.Call(t, method, path, body, headers...)
	r.Want(t, method+" "+path, 200, "")
	return r
}

// stock sets the quantity of a SKU on hand at main.
func (s *service) stock(t testing.TB, sku string, onHand int) {
	t.Helper()
	s.ok(t, "PUT", "/v1/adjustments/first-"+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %d, "reason": "counted"}`, sku, onHand))
}

// level returns the quantities of a SKU that has one location.
func (s *service) level(t testing.TB, sku string) (onHand, reserved int64) {
	t.Helper()
	got := resttest.Decode[payload.Levels](t, s.ok(t, "GET", "/v1/stock/"+sku, "")).Levels
	if len(got) != 1 {
		t.Fatalf("levels of %s: %+v", sku, got)
	}
	return got[0].OnHand, got[0].Reserved
}

func (s *service) wantLevel(t testing.TB, when, sku string, onHand, reserved int64) {
	t.Helper()
	if gotOnHand, gotReserved := s.level(t, sku); gotOnHand != onHand || gotReserved != reserved {
		t.Errorf("%s: %d of %s on hand and %d reserved, want %d and %d", when, gotOnHand, sku, gotReserved, onHand, reserved)
	}
}

// ledger returns the reasons of a reference's entries, oldest first.
func (s *service) ledger(t testing.TB, ref string) (reasons []string) {
	t.Helper()
	got := resttest.Decode[struct{ Entries []entry }](t, s.ok(t, "GET", "/v1/ledger?ref="+ref, ""))
	for _, e := range slices.Backward(got.Entries) {
		reasons = append(reasons, e.Reason)
	}
	return reasons
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
			"SELECT json_array(location, sku, name, on_hand, reserved, version) FROM levels",
			"SELECT json_array(id, seq, state, expires_at) FROM reservations",
			"SELECT json_array(reservation_id, location, sku, quantity) FROM reservation_lines",
			"SELECT json_array(reservation_id, seq, asked, fingerprint, problem) FROM outcomes",
			"SELECT json_array(id, sku, delta, on_hand, reason, problem) FROM adjustments",
			"SELECT json_array(id, location, sku, on_hand_delta, reserved_delta, reason, ref, seq) FROM ledger",
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

const (
	holdBody   = `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 6}, {"sku": "b", "location": "main", "quantity": 1}], "hold_seconds": 60}`
	adjustBody = `{"sku": "a", "location": "main", "delta": -3, "reason": "damaged", "note": "fell"}`
)

// startStocked starts a service with ten units of a and of b.
func startStocked(t testing.TB) *service {
	t.Helper()
	s := start(t)
	s.stock(t, "a", 10)
	s.stock(t, "b", 10)
	return s
}
