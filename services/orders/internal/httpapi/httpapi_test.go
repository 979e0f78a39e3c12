package httpapi

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// fakeInventory answers as its functions say; where one is nil, everything is
// done as it was asked.
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
	return asAsked(r), nil
}

func asAsked(r order.Request) order.Reservation {
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

// fakeGate is open unless the test closes it.
type fakeGate struct{ away, full bool }

func (g *fakeGate) Enter() (leave func(), err error) {
	if g.full {
		return nil, problem.New(problem.Overloaded, "Too many exchanges are in flight.")
	}
	return func() {}, nil
}

func (g *fakeGate) Away() bool { return g.away }

// service is orders' API on a real store, and what is around it.
type service struct {
	resttest.Client
	inventory *fakeInventory
	gate      *fakeGate
	store     *store.SQLite
	path      string
}

func start(t testing.TB) *service {
	t.Helper()
	s := &service{inventory: &fakeInventory{}, gate: &fakeGate{}, path: filepath.Join(t.TempDir(), "orders.db")}
	log := slog.New(slog.DiscardHandler)
	var err error
	if s.store, err = store.OpenSQLite(t.Context(), s.path, store.Options{Log: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: log, MaxInFlight: 512})})
	Register(server, order.NewProtocol(s.store, s.inventory, s.gate, func(string) {}))
	listening := httptest.NewServer(server)
	t.Cleanup(listening.Close)
	s.Client = resttest.Client{URL: listening.URL, Contract: openapi.Orders()}
	return s
}

// response is what came back, with its order decoded.
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

// want checks an answer's status and what else is always true of it.
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

// dump is every row of every table, as text.
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

func TestAnOrderGoesItsWay(t *testing.T) {
	t.Parallel()
	s := start(t)
	placed := s.call(t, "PUT", "/v1/orders/a", body)
	placed.want(t, "place", 201, "")
	if placed.Header.Get("Location") != "/v1/orders/a" {
		t.Errorf("it is at %q", placed.Header.Get("Location"))
	}
	o := placed.order
	if o.ID != "a" || o.State != "placed" || o.Total != 6*255 || o.Intent != nil ||
		!reflect.DeepEqual(o.LastOperation, map[string]any{"operation": "place", "seq": 1.0, "outcome": "done"}) {
		t.Errorf("placed is %s", placed.Body)
	}
	times := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	if !times.MatchString(o.CreatedAt) || !times.MatchString(o.HoldExpiresAt) {
		t.Errorf("its times are %q and %q", o.CreatedAt, o.HoldExpiresAt)
	}
	if o.Lines[0]["location"] != "main" || o.Lines[1]["location"] != "north" {
		t.Errorf("its lines are %v", o.Lines)
	}
	for _, c := range []struct{ method, path, body string }{{"PUT", "/v1/orders/a", body}, {"GET", "/v1/orders/a", ""}} {
		again := s.call(t, c.method, c.path, c.body)
		again.want(t, c.method, 200, "")
		if again.Body != placed.Body {
			t.Errorf("%s gives\n%s, want\n%s", c.method, again.Body, placed.Body)
		}
	}
	asked := s.inventory.asked.Load()
	if asked != 1 {
		t.Errorf("inventory was asked %d times", asked)
	}
	s.call(t, "PUT", "/v1/orders/a", strings.Replace(body, "6", "7", 1)).want(t, "another content", 422, problem.KeyReused)

	amended := s.call(t, "PUT", "/v1/orders/a/lines", otherLines)
	amended.want(t, "amend", 200, "")
	if amended.order.Total != 7*255 || len(amended.order.Lines) != 1 {
		t.Errorf("amended is %s", amended.Body)
	}
	for _, step := range []struct{ operation, state string }{{"confirm", "confirmed"}, {"cancel", "cancelled"}} {
		first := s.call(t, "POST", "/v1/orders/a/"+step.operation, "")
		first.want(t, step.operation, 200, "")
		again := s.call(t, "POST", "/v1/orders/a/"+step.operation, "")
		again.want(t, step.operation+" again", 200, "")
		if first.order.State != step.state || again.Body != first.Body || first.order.HoldExpiresAt != "" {
			t.Errorf("%s: %s, and again %s", step.operation, first.Body, again.Body)
		}
	}
	s.call(t, "POST", "/v1/orders/a/confirm", "").want(t, "confirm what is cancelled", 409, problem.WrongState)
	s.call(t, "PUT", "/v1/orders/a/lines", otherLines).want(t, "amend what is cancelled", 409, problem.WrongState)
	repeat := s.call(t, "PUT", "/v1/orders/a", body)
	if repeat.want(t, "a late repeat of place", 200, ""); repeat.order.State != "cancelled" {
		t.Errorf("a late repeat got %s", repeat.Body)
	}
}

func TestAShortageIsToldInFullAndKept(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.inventory.put = func(r order.Request) (order.Reservation, error) {
		p := problem.New(problem.InsufficientStock, "There is not enough.")
		p.Shortages = []problem.Shortage{{SKU: "71053", Location: "north", Requested: 1, Available: 0}, {SKU: "85123A", Location: "main", Requested: 6, Available: 2}}
		p.Current = &problem.Current{ID: r.ID, Seq: r.Seq, State: "none"}
		return order.Reservation{}, p
	}
	first := s.call(t, "PUT", "/v1/orders/a", body)
	first.want(t, "place", 409, problem.InsufficientStock)
	if len(first.Problem.Shortages) != 2 {
		t.Errorf("got %s", first.Body)
	}
	again := s.call(t, "PUT", "/v1/orders/a", body)
	if again.want(t, "place again", 409, problem.InsufficientStock); again.Body != first.Body {
		t.Errorf("again it is %s", again.Body)
	}
	o := s.call(t, "GET", "/v1/orders/a", "")
	o.want(t, "get", 200, "")
	if o.order.State != "rejected" || o.order.LastOperation["outcome"] != "rejected" || o.order.LastOperation["problem"] == nil {
		t.Errorf("it is %s", o.Body)
	}
	s.call(t, "POST", "/v1/orders/a/cancel", "").want(t, "cancel what is rejected", 409, problem.WrongState)
}

func TestWhatIsNotKnownYetIsAccepted(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.inventory.put = func(order.Request) (order.Reservation, error) {
		return order.Reservation{}, problem.New(problem.Unavailable, "It is gone.")
	}
	first := s.call(t, "PUT", "/v1/orders/a", body)
	first.want(t, "place", 202, "")
	if in := first.order.Intent; first.order.State != "pending" || in["operation"] != "place" || in["seq"] != 1.0 || in["since"] != first.order.CreatedAt {
		t.Errorf("it is %s", first.Body)
	}
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place again", 202, "")
	s.call(t, "GET", "/v1/orders/a", "").want(t, "get", 200, "")
	s.call(t, "POST", "/v1/orders/a/confirm", "").want(t, "confirm meanwhile", 409, problem.OperationPending)
	s.inventory.put = nil
	settled := s.call(t, "PUT", "/v1/orders/a", body)
	if settled.want(t, "place once it is back", 200, ""); settled.order.State != "placed" {
		t.Errorf("it is %s", settled.Body)
	}
}

func TestNothingIsRecordedThatIsRefusedBeforeItBegins(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.gate.full = true
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "too many in flight", 503, problem.Overloaded)
	s.gate.full, s.gate.away = false, true
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "inventory is away", 503, problem.Unavailable)
	s.gate.away = false
	for _, ms := range []string{"1", "19", "100"} {
		s.call(t, "PUT", "/v1/orders/a", body, "Request-Timeout-Ms", ms).want(t, ms+" ms left", 504, problem.DeadlineExceeded)
	}
	if rows, asked := s.dump(t), s.inventory.asked.Load(); rows != "" || asked != 0 {
		t.Errorf("stored is %s, inventory was asked %d times", rows, asked)
	}
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "then", 201, "")
	s.gate.away = true
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "a repeat while it is away", 200, "")
	if err := s.store.Close(); err != nil {
		t.Error(err)
	}
	s.call(t, "PUT", "/v1/orders/b", body).want(t, "without a database", 503, problem.Unavailable)
	s.call(t, "GET", "/v1/orders/a", "").want(t, "get without a database", 503, problem.Unavailable)
}

func TestAKeyMakesOneOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	first := s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", "536365")
	first.want(t, "place", 201, "")
	// UUIDv5 of "0:536365" in a namespace that may never change.
	const derivedID = "3be87009-0ec7-5144-86ed-b3d237b3f16a"
	if first.Header.Get("Location") != "/v1/orders/"+first.order.ID || first.order.ID != derivedID {
		t.Errorf("the order is %s at %s, want %s", first.order.ID, first.Header.Get("Location"), derivedID)
	}
	again := s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", "536365")
	if again.want(t, "again", 200, ""); again.Body != first.Body {
		t.Errorf("again it is %s", again.Body)
	}
	s.call(t, "POST", "/v1/orders", strings.Replace(body, "6", "7", 1), "Idempotency-Key", "536365").want(t, "another content", 422, problem.KeyReused)
	s.call(t, "PUT", "/v1/orders/"+derivedID, body).want(t, "by its id", 200, "")
	longest := strings.Repeat("~", 255)
	s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", longest).want(t, "the longest key", 201, "")
}

func TestTwiceAtOnceIsOneOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method, path string
		headers      []string
	}{
		"PUT":  {"PUT", "/v1/orders/a", nil},
		"POST": {"POST", "/v1/orders", []string{"Idempotency-Key", "k"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			var decided sync.Map
			s.inventory.put = func(r order.Request) (order.Reservation, error) {
				// As inventory does: the same seq gets the stored answer again.
				answer, _ := decided.LoadOrStore(r.Seq, asAsked(r))
				return answer.(order.Reservation), nil
			}
			answers := make([]response, 50)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() {
					// On a busy machine an answer may come too late; then a caller asks again.
					for range 20 {
						if answers[i] = s.call(t, c.method, c.path, body, c.headers...); answers[i].Status < 202 {
							return
						}
					}
				})
			}
			all.Wait()
			created := 0
			for _, r := range answers {
				if r.Status == 201 {
					created++
				}
				if r.Status > 201 || r.Body != answers[0].Body {
					t.Errorf("got %d\n%s and\n%s", r.Status, r.Body, answers[0].Body)
				}
			}
			if created > 1 {
				t.Errorf("%d were told that they created it", created)
			}
			if orders, _, err := s.store.Orders(t.Context(), "", "", order.Page{Limit: 10}); err != nil || len(orders) != 1 || orders[0].Seq != 1 {
				t.Errorf("stored are %+v, %v", orders, err)
			}
		})
	}
}

func TestPreconditions(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place", 201, "") // version 2
	for _, c := range []struct {
		what, ifMatch string
		status        int
		code          problem.Code
	}{
		{"another version", `"1"`, 412, problem.PreconditionFailed},
		{"a weak tag of this one", `W/"2"`, 412, problem.PreconditionFailed},
		{"another way to write it", `"02"`, 412, problem.PreconditionFailed},
		{"a tag that is no version", `"*"`, 412, problem.PreconditionFailed},
		{"a tag with a comma", `"1,2"`, 412, problem.PreconditionFailed},
		{"none that fits", `"1", "3", W/"2"`, 412, problem.PreconditionFailed},
		{"no tag", `2`, 400, problem.Invalid},
		{"a list with this one", `"1", "2"`, 200, ""}, // version 4
		{"the version that was", `"2"`, 200, ""},      // it is already true
		{"any", `*`, 200, ""},                         // version 6
		{"what is next", `"6"`, 200, ""},              // version 8
	} {
		s.call(t, "PUT", "/v1/orders/a/lines", otherLines, "If-Match", c.ifMatch).want(t, "amend with "+c.what, c.status, c.code)
	}
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"1"`).want(t, "confirm", 412, problem.PreconditionFailed)
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"8"`).want(t, "confirm", 200, "")
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"8"`).want(t, "what is already true", 200, "")
	s.call(t, "POST", "/v1/orders/a/cancel", "", "If-Match", `"8"`).want(t, "cancel", 412, problem.PreconditionFailed)
	s.call(t, "POST", "/v1/orders/a/cancel", "", "If-Match", `"1"`, "If-Match", `"10"`).want(t, "cancel with two headers", 200, "")
	s.call(t, "POST", "/v1/orders/none/cancel", "", "If-Match", `*`).want(t, "what is not there", 404, problem.NotFound)
}

func TestIfMatch(t *testing.T) {
	t.Parallel()
	given := func(versions ...int64) order.Precondition { return order.Precondition{Given: true, Versions: versions} }
	for _, c := range []struct {
		values []string
		want   order.Precondition
	}{
		{nil, order.Precondition{}},
		{[]string{"*"}, order.Precondition{Given: true, Any: true}},
		{[]string{" * "}, order.Precondition{Given: true, Any: true}},
		{[]string{`"1"`}, given(1)},
		{[]string{`"1","2" ,	"3"`}, given(1, 2, 3)},
		{[]string{`"1"`, `"2"`}, given(1, 2)},
		{[]string{`, "1",, "2",`}, given(1, 2)}, // RFC 9110 §5.6.1.2: empty elements are ignored
		{[]string{`W/"1"`, `"2"`}, given(2)},
		{[]string{`""`}, given()},
		{[]string{`"a,b"`}, given()},
		{[]string{`"a,"`, `"5"`}, given(5)},
		{[]string{"\"caf\xe9\""}, given()}, // obs-text
		{[]string{`"-1"`}, given(-1)},      // no order has it
		{[]string{`"+1"`}, given()},
		{[]string{`"9223372036854775808"`}, given()},
	} {
		if got, err := parseIfMatch(c.values); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v; want %+v", c.values, got, err, c.want)
		}
	}
	for _, bad := range []string{"", " ", ",", "1", "'1'", `"1`, `1"`, `"1" "2"`, `w/"1"`, `W/ "1"`, `W/1`, `*, "1"`, `"1", *`, `**`, `"a b"`, `"1"x`, "\"\x7f\""} {
		if got, err := parseIfMatch([]string{bad}); problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%q: %+v, %v", bad, got, err)
		}
	}
	if _, err := parseIfMatch([]string{"*", "*"}); problem.CodeOf(err) != problem.Invalid {
		t.Errorf("two stars: %v", err)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	s := start(t)
	empty := s.call(t, "GET", "/v1/orders", "")
	if empty.want(t, "an empty list", 200, ""); empty.Body != `{"orders":[]}` {
		t.Errorf("an empty list is %s", empty.Body)
	}
	var want []string
	for i := range 7 {
		id := fmt.Sprint("o", i)
		s.call(t, "PUT", "/v1/orders/"+id, body).want(t, id, 201, "")
		want = append(want, id)
	}
	s.call(t, "POST", "/v1/orders/o3/confirm", "").want(t, "confirm", 200, "")
	list := func(query string) (got []string, next string) {
		t.Helper()
		r := s.call(t, "GET", "/v1/orders?"+query, "")
		r.want(t, query, 200, "")
		var page struct {
			Orders []struct{ ID string }
			Next   string `json:"next_cursor"`
		}
		if err := json.Unmarshal([]byte(r.Body), &page); err != nil {
			t.Fatal(err)
		}
		for _, o := range page.Orders {
			got = append(got, o.ID)
		}
		return got, page.Next
	}
	var got []string
	for next := ""; ; {
		query := "limit=3"
		if next != "" {
			query += "&cursor=" + next
		}
		var page []string
		if page, next = list(query); len(page) > 3 {
			t.Errorf("a page has %v", page)
		}
		if got = append(got, page...); next == "" {
			break
		}
	}
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("the pages have %v", got)
	}
	for query, want := range map[string]int{
		"state=confirmed": 1, "state=placed": 6, "state=expired": 0, "customer=17850": 7, "customer=1": 0,
		"customer=17850&state=confirmed&limit=200": 1, "limit=1": 1,
	} {
		if got, _ := list(query); len(got) != want {
			t.Errorf("%s: %v", query, got)
		}
	}
}

func TestWhatInventorySays(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place", 201, "")
	at := time.Date(2026, 11, 24, 14, 0, 0, 5e6, time.FixedZone("CET", 3600))
	s.inventory.reservation = func(id string) (order.Reservation, error) {
		return order.Reservation{ID: id, Seq: 1, State: order.ReservationHeld, ExpiresAt: at, Lines: []order.Demand{{SKU: "b", Location: "main", Quantity: 3}}}, nil
	}
	s.inventory.stock = func(skus []string) ([]order.Level, error) {
		if !slices.Equal(skus, []string{"a", "b", "a"}) {
			t.Errorf("asked for %v", skus)
		}
		return []order.Level{{SKU: "b", Location: "main", Available: 3}}, nil
	}
	for path, want := range map[string]string{
		"/v1/orders/a/reservation":           `{"id":"a","seq":1,"state":"held","lines":[{"sku":"b","location":"main","quantity":3}],"expires_at":"2026-11-24T13:00:00.005Z"}`,
		"/v1/availability?sku=a&sku=b&sku=a": `{"levels":[{"sku":"b","location":"main","available":3}]}`,
	} {
		r := s.call(t, "GET", path, "")
		if r.want(t, path, 200, ""); r.Body != want {
			t.Errorf("%s: %s, want %s", path, r.Body, want)
		}
	}
	s.inventory.stock = func([]string) ([]order.Level, error) { return nil, nil }
	if r := s.call(t, "GET", "/v1/availability?sku=a", ""); r.Status != 200 || r.Body != `{"levels":[]}` {
		t.Errorf("no level: %d %s", r.Status, r.Body)
	}
	s.inventory.reservation = func(string) (order.Reservation, error) { return order.Reservation{ID: "b"}, nil }
	s.call(t, "GET", "/v1/orders/a/reservation", "").want(t, "another's reservation", 503, problem.Unavailable)

	// What inventory can't tell us is not passed on as if our caller had asked it.
	for _, code := range append(problem.Codes(), "tomorrow") {
		err := error(problem.New(code, "secret"))
		s.inventory.reservation = func(string) (order.Reservation, error) { return order.Reservation{}, err }
		s.inventory.stock = func([]string) ([]order.Level, error) { return nil, err }
		want := problem.Unavailable
		switch code {
		case problem.Overloaded, problem.DeadlineExceeded:
			want = code
		case problem.NotFound:
			s.call(t, "GET", "/v1/orders/a/reservation", "").want(t, "a reservation that is not there", 404, problem.NotFound)
			continue
		case problem.Invalid: // never by what orders lets through
			continue
		}
		for _, path := range []string{"/v1/orders/a/reservation", "/v1/availability?sku=a"} {
			s.call(t, "GET", path, "").want(t, string(code)+" at "+path, want.HTTPStatus(), want)
		}
	}
	broken := problem.Wrap(errors.Join(order.ErrUnexplained, errors.New("garbage")), problem.Internal, "")
	s.inventory.stock = func([]string) ([]order.Level, error) { return nil, broken }
	r := s.call(t, "GET", "/v1/availability?sku=a", "")
	if r.want(t, "garbage", 503, problem.Unavailable); strings.Contains(r.Body, "garbage") {
		t.Errorf("an inner error got out: %s", r.Body)
	}
	s.call(t, "GET", "/v1/orders/none/reservation", "").want(t, "no such order", 404, problem.NotFound)
	s.gate.full = true
	s.call(t, "GET", "/v1/orders/a/reservation", "").want(t, "too many in flight", 503, problem.Overloaded)
	s.call(t, "GET", "/v1/availability?sku=a", "").want(t, "too many in flight", 503, problem.Overloaded)
	s.call(t, "GET", "/v1/orders/a", "").want(t, "what needs no inventory", 200, "")
}
