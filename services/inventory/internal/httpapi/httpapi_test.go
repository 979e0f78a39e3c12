package httpapi

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
	"roundtrip/test/support/resttest"
)

// service is inventory's API on a real store.
type service struct {
	resttest.Client
	store *store.SQLite
	path  string
}

func start(t testing.TB) *service {
	t.Helper()
	s := &service{path: filepath.Join(t.TempDir(), "inventory.db")}
	var err error
	if s.store, err = store.OpenSQLite(t.Context(), s.path, store.Options{Log: slog.New(slog.DiscardHandler)}); err != nil {
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
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: maxInFlight})})
	Register(server, s)
	listening := httptest.NewUnstartedServer(server)
	listening.Config.ErrorLog = log.New(complaints{t}, "", 0)
	listening.Start()
	t.Cleanup(listening.Close)
	return resttest.Client{URL: listening.URL, Contract: openapi.Inventory()}
}

// complaints are what net/http logs: a panic, or a misuse of it.
type complaints struct{ testing.TB }

func (c complaints) Write(p []byte) (int, error) {
	c.Errorf("net/http says: %s", p)
	return len(p), nil
}

// ok is Call where the answer has to be a 200.
func (s *service) ok(t testing.TB, method, path, body string, headers ...string) resttest.Response {
	t.Helper()
	r := s.Call(t, method, path, body, headers...)
	r.Want(t, method+" "+path, 200, "")
	return r
}

// stock puts goods of a SKU at main.
func (s *service) stock(t testing.TB, sku string, onHand int) {
	t.Helper()
	s.ok(t, "PUT", "/v1/adjustments/first-"+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %d, "reason": "counted"}`, sku, onHand))
}

// level is the quantities of a SKU at its one location.
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

// ledger is the reasons of a reference's entries, the oldest first.
func (s *service) ledger(t testing.TB, ref string) (reasons []string) {
	t.Helper()
	got := resttest.Decode[struct{ Entries []entry }](t, s.ok(t, "GET", "/v1/ledger?ref="+ref, ""))
	for _, e := range slices.Backward(got.Entries) {
		reasons = append(reasons, e.Reason)
	}
	return reasons
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

// stocked is a service with ten units of a and of b.
func stocked(t testing.TB) *service {
	t.Helper()
	s := start(t)
	s.stock(t, "a", 10)
	s.stock(t, "b", 10)
	return s
}

func TestAReservationGoesItsWay(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	began := time.Now()
	held := s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	r := resttest.Decode[payload.Reservation](t, held)
	if r.ID != "x" || r.Seq != 1 || r.State != "held" || !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 6}, {SKU: "b", Location: "main", Quantity: 1}}) {
		t.Errorf("held is %s", held.Body)
	}
	expires, err := time.Parse("2006-01-02T15:04:05.000Z", r.ExpiresAt)
	if hold := expires.Sub(began); err != nil || hold < 59*time.Second || hold > 90*time.Second {
		t.Errorf("it is held until %s, %s from now: %v", r.ExpiresAt, hold, err)
	}
	for _, c := range [][2]string{{"PUT", holdBody}, {"GET", ""}} {
		if again := s.ok(t, c[0], "/v1/reservations/x", c[1]); again.Body != held.Body {
			t.Errorf("%s gives\n%s, want\n%s", c[0], again.Body, held.Body)
		}
	}
	s.wantLevel(t, "held", "a", 10, 6)

	amended := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "held", "lines": [{"sku": "a", "quantity": 4}]}`)
	if r := resttest.Decode[payload.Reservation](t, amended); r.Seq != 2 || !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 4}}) {
		t.Errorf("amended is %s", amended.Body)
	}
	s.wantLevel(t, "amended", "a", 10, 4)
	s.wantLevel(t, "amended", "b", 10, 0)

	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 3, "state": "committed"}`).Body,
		`{"id":"x","seq":3,"state":"committed","lines":[{"sku":"a","location":"main","quantity":4}]}`; got != want {
		t.Errorf("committed is %s, want %s", got, want)
	}
	s.wantLevel(t, "committed", "a", 6, 0)
	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 4, "state": "released"}`).Body,
		`{"id":"x","seq":4,"state":"released","lines":[{"sku":"a","location":"main","quantity":4}]}`; got != want {
		t.Errorf("released is %s, want %s", got, want)
	}
	s.wantLevel(t, "released", "a", 10, 0)
	if got, want := s.ledger(t, "x"), []string{"held", "held", "amended", "amended", "committed", "returned"}; !slices.Equal(got, want) {
		t.Errorf("the ledger has %v, want %v", got, want)
	}
}

func TestAHoldThatNamesNoTimeIsForFifteenMinutes(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	began := time.Now()
	r := resttest.Decode[payload.Reservation](t, s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`))
	expires, err := time.Parse(time.RFC3339, r.ExpiresAt)
	if hold := expires.Sub(began).Round(time.Minute); err != nil || hold != 15*time.Minute {
		t.Errorf("it is held for %s: %v", hold, err)
	}
}

func TestLinesForTheSameLevelAreOneDemand(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	got := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 1, "state": "held", "lines": [
		{"sku": "b", "quantity": 2}, {"sku": "a", "quantity": 1}, {"sku": "b", "location": "main", "quantity": 3}]}`)
	if r := resttest.Decode[payload.Reservation](t, got); !slices.Equal(r.Lines, []payload.Line{{SKU: "a", Location: "main", Quantity: 1}, {SKU: "b", Location: "main", Quantity: 5}}) {
		t.Errorf("held is %s", got.Body)
	}
	s.wantLevel(t, "then", "b", 10, 5)
}

func TestAShortageIsToldInFullAndKept(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	const body = `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 11}, {"sku": "b", "quantity": 1}, {"sku": "new", "location": "shop", "quantity": 2}]}`
	first := s.Call(t, "PUT", "/v1/reservations/x", body)
	first.Want(t, "hold more than there is", 409, problem.InsufficientStock)
	want := []problem.Shortage{{SKU: "a", Location: "main", Requested: 11, Available: 10}, {SKU: "new", Location: "shop", Requested: 2}}
	if !slices.Equal(first.Problem.Shortages, want) || *first.Problem.Current != (problem.Current{ID: "x", Seq: 1, State: "none"}) {
		t.Errorf("got %s", first.Body)
	}
	s.wantLevel(t, "then", "b", 10, 0)
	s.ok(t, "PUT", "/v1/adjustments/more", `{"sku": "a", "delta": 90, "reason": "received"}`)
	if again := s.Call(t, "PUT", "/v1/reservations/x", body); again.Body != first.Body {
		t.Errorf("again, with more on hand, it is %s", again.Body)
	}
	if got, want := s.ok(t, "GET", "/v1/reservations/x", "").Body, `{"id":"x","seq":1,"state":"none","lines":[]}`; got != want {
		t.Errorf("it is %s, want %s", got, want)
	}
	s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "held", "lines": [{"sku": "a", "quantity": 11}]}`)
}

func TestWhatTheFenceRefusesSaysWhatIsNow(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 5, "state": "committed"}`)
	before := s.dump(t)
	for _, c := range []struct {
		what, body string
		status     int
		code       problem.Code
	}{
		{"a seq that was decided before", holdBody, 409, problem.StaleSeq},
		{"a seq that was skipped", `{"seq": 4, "state": "released"}`, 409, problem.StaleSeq},
		{"the last seq for something else", `{"seq": 5, "state": "released"}`, 422, problem.SeqReused},
	} {
		r := s.Call(t, "PUT", "/v1/reservations/x", c.body)
		r.Want(t, c.what, c.status, c.code)
		if current := r.Problem.Current; current == nil || *current != (problem.Current{ID: "x", Seq: 5, State: "committed"}) {
			t.Errorf("%s: %s", c.what, r.Body)
		}
	}
	if after := s.dump(t); after != before {
		t.Errorf("they changed\n%s into\n%s", before, after)
	}
	r := s.Call(t, "PUT", "/v1/reservations/x", `{"seq": 6, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`)
	r.Want(t, "hold what is committed", 409, problem.WrongState)
	if *r.Problem.Current != (problem.Current{ID: "x", Seq: 6, State: "committed"}) {
		t.Errorf("got %s", r.Body)
	}
}

func TestATombstoneStopsADelayedHold(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	if got, want := s.ok(t, "PUT", "/v1/reservations/x", `{"seq": 2, "state": "released"}`).Body,
		`{"id":"x","seq":2,"state":"released","lines":[]}`; got != want {
		t.Errorf("the tombstone is %s, want %s", got, want)
	}
	s.Call(t, "PUT", "/v1/reservations/x", holdBody).Want(t, "the hold that was delayed", 409, problem.StaleSeq)
	s.Call(t, "PUT", "/v1/reservations/x", strings.Replace(holdBody, "1", "3", 1)).Want(t, "a hold after it", 409, problem.WrongState)
	s.wantLevel(t, "then", "a", 10, 0)
	s.Call(t, "PUT", "/v1/reservations/y", `{"seq": 1, "state": "committed"}`).Want(t, "commit what was never held", 409, problem.WrongState)
}

func TestFiftyIdenticalPutsAtOnceTakeEffectOnce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		path, body       string
		status           int
		onHand, reserved int64
		ledger           []string
	}{
		"a hold":               {"/v1/reservations/x", holdBody, 200, 10, 6, []string{"held", "held"}},
		"a shortage":           {"/v1/reservations/x", strings.Replace(holdBody, "6", "11", 1), 409, 10, 0, nil},
		"an adjustment":        {"/v1/adjustments/x", adjustBody, 200, 7, 0, []string{"damaged"}},
		"a refused adjustment": {"/v1/adjustments/x", strings.Replace(adjustBody, `"delta"`, `"expected_on_hand": 9, "delta"`, 1), 412, 10, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := stocked(t)
			answers := make([]resttest.Response, 50)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() { answers[i] = s.Call(t, "PUT", c.path, c.body) })
			}
			all.Wait()
			for _, r := range answers {
				if r.Status != c.status || r.Body != answers[0].Body {
					t.Errorf("got %d\n%s and\n%s", r.Status, r.Body, answers[0].Body)
				}
			}
			s.wantLevel(t, "then", "a", c.onHand, c.reserved)
			if got := s.ledger(t, "x"); !slices.Equal(got, c.ledger) {
				t.Errorf("the ledger has %v, want %v", got, c.ledger)
			}
		})
	}
}

func TestTheLastUnitsAreHeldOnce(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	statuses := make([]int, 40)
	var all sync.WaitGroup
	for i := range statuses {
		all.Go(func() {
			statuses[i] = s.Call(t, "PUT", fmt.Sprintf("/v1/reservations/x%d", i), `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`).Status
		})
	}
	all.Wait()
	count := map[int]int{}
	for _, status := range statuses {
		count[status]++
	}
	if count[200] != 10 || count[409] != 30 {
		t.Errorf("40 wanted the last 10: %v", count)
	}
	s.wantLevel(t, "then", "a", 10, 10)
}

func TestAdjustments(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	created := regexp.MustCompile(`"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)
	for _, c := range []struct {
		id, body string
		status   int
		code     problem.Code
		// stored is what GET says, with its time taken out.
		stored string
	}{
		{"delta", adjustBody, 200, "",
			`{"id":"delta","sku":"a","location":"main","delta":-3,"reason":"damaged","note":"fell","outcome":"done","level":{"sku":"a","name":"","location":"main","on_hand":7,"reserved":6,"available":1,"version":3},T}`},
		{"count", `{"sku": "a", "on_hand": 8, "expected_on_hand": 7, "reason": "counted"}`, 200, "",
			`{"id":"count","sku":"a","location":"main","on_hand":8,"expected_on_hand":7,"reason":"counted","outcome":"done","level":{"sku":"a","name":"","location":"main","on_hand":8,"reserved":6,"available":2,"version":4},T}`},
		{"same", `{"sku": "a", "on_hand": 8, "reason": "counted"}`, 200, "",
			`{"id":"same","sku":"a","location":"main","on_hand":8,"reason":"counted","outcome":"done","level":{"sku":"a","name":"","location":"main","on_hand":8,"reserved":6,"available":2,"version":4},T}`},
		{"shop", `{"sku": "new", "location": "shop", "on_hand": 0, "reason": "counted"}`, 200, "",
			`{"id":"shop","sku":"new","location":"shop","on_hand":0,"reason":"counted","outcome":"done","level":{"sku":"new","name":"","location":"shop","on_hand":0,"reserved":0,"available":0,"version":1},T}`},
		{"below", `{"sku": "a", "delta": -3, "reason": "lost"}`, 409, problem.BelowReserved,
			`{"id":"below","sku":"a","location":"main","delta":-3,"reason":"lost","outcome":"rejected","problem":P,"level":{"sku":"a","name":"","location":"main","on_hand":8,"reserved":6,"available":2,"version":4},T}`},
		{"expected", `{"sku": "a", "delta": 1, "expected_on_hand": 7, "reason": "received"}`, 412, problem.PreconditionFailed,
			`{"id":"expected","sku":"a","location":"main","delta":1,"expected_on_hand":7,"reason":"received","outcome":"rejected","problem":P,"level":{"sku":"a","name":"","location":"main","on_hand":8,"reserved":6,"available":2,"version":4},T}`},
	} {
		first := s.Call(t, "PUT", "/v1/adjustments/"+c.id, c.body)
		first.Want(t, c.id, c.status, c.code)
		stored := s.ok(t, "GET", "/v1/adjustments/"+c.id, "")
		want := strings.Replace(c.stored, "P", strings.TrimSpace(first.Body), 1)
		if got := created.ReplaceAllString(stored.Body, "T"); got != want {
			t.Errorf("%s is stored as\n%s, want\n%s", c.id, got, want)
		}
		if c.status == 200 && first.Body != stored.Body {
			t.Errorf("%s: answered is %s, stored is %s", c.id, first.Body, stored.Body)
		}
	}
	// A repeat gets the outcome of then, with the level of then.
	again := s.ok(t, "PUT", "/v1/adjustments/delta", adjustBody)
	if stored := s.ok(t, "GET", "/v1/adjustments/delta", ""); again.Body != stored.Body {
		t.Errorf("again it is\n%s, want\n%s", again.Body, stored.Body)
	}
	s.Call(t, "PUT", "/v1/adjustments/below", `{"sku": "a", "delta": -3, "reason": "lost"}`).Want(t, "the rejected one again", 409, problem.BelowReserved)
	s.Call(t, "PUT", "/v1/adjustments/delta", strings.Replace(adjustBody, "fell", "broke", 1)).Want(t, "its id for another", 422, problem.KeyReused)
	s.Call(t, "GET", "/v1/adjustments/none", "").Want(t, "one that is not there", 404, problem.NotFound)
	r := s.Call(t, "PUT", "/v1/adjustments/full", `{"sku": "a", "delta": 999999999999, "reason": "received"}`)
	if r.Want(t, "more than a level may have", 400, problem.Invalid); r.Problem.Errors[0].Pointer != "/delta" {
		t.Errorf("got %s", r.Body)
	}
	s.wantLevel(t, "in the end", "a", 8, 6)
	for ref, want := range map[string][]string{"delta": {"damaged"}, "count": {"counted"}, "same": nil, "shop": nil, "below": nil, "expected": nil, "full": nil} {
		if got := s.ledger(t, ref); !slices.Equal(got, want) {
			t.Errorf("the ledger of %s has %v, want %v", ref, got, want)
		}
	}
}

func TestWhatThereIsNot(t *testing.T) {
	t.Parallel()
	s := start(t)
	for path, want := range map[string]string{
		"/v1/reservations": `{"reservations":[]}`, "/v1/reservations?state=held": `{"reservations":[]}`, "/v1/stock": `{"levels":[]}`,
		"/v1/stock?sku=none": `{"levels":[]}`, "/v1/ledger": `{"entries":[]}`, "/v1/ledger?sku=none&ref=none": `{"entries":[]}`,
	} {
		if got := s.ok(t, "GET", path, "").Body; got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	for _, path := range []string{"/v1/reservations/none", "/v1/adjustments/none", "/v1/stock/none", "/v1/stock/import"} {
		s.Call(t, "GET", path, "").Want(t, path, 404, problem.NotFound)
	}
}

func TestStockOfSomeSKUs(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	s.ok(t, "PUT", "/v1/adjustments/shop", `{"sku": "a", "location": "a-shop", "on_hand": 2, "reason": "counted"}`)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	const (
		atShop = `{"sku":"a","name":"","location":"a-shop","on_hand":2,"reserved":0,"available":2,"version":1}`
		a      = `{"sku":"a","name":"","location":"main","on_hand":10,"reserved":6,"available":4,"version":2}`
		b      = `{"sku":"b","name":"","location":"main","on_hand":10,"reserved":1,"available":9,"version":2}`
	)
	for path, want := range map[string]string{
		"/v1/stock/a":                                `{"levels":[` + atShop + "," + a + `]}`,
		"/v1/stock?sku=b&sku=none&sku=a&sku=b":       `{"levels":[` + atShop + "," + a + "," + b + `]}`,
		"/v1/stock?sku=b":                            `{"levels":[` + b + `]}`,
		"/v1/stock?" + strings.Repeat("sku=b&", 100): `{"levels":[` + b + `]}`,
		"/v1/stock":                                  `{"levels":[` + atShop + "," + a + "," + b + `]}`,
	} {
		if got := s.ok(t, "GET", path, "").Body; got != want {
			t.Errorf("%.40s is\n%s, want\n%s", path, got, want)
		}
	}
}

// pages follows a list to its end; key tells its things apart.
func pages[T any](t *testing.T, s *service, path string, limit int, key func(T) string) (all []string) {
	t.Helper()
	separator := "?"
	if strings.Contains(path, "?") {
		separator = "&"
	}
	for next := ""; ; {
		query := fmt.Sprintf("%slimit=%d", separator, limit)
		if next != "" {
			query += "&cursor=" + next
		}
		page := resttest.Decode[struct {
			Reservations, Levels, Entries []T
			Next                          string `json:"next_cursor"`
		}](t, s.ok(t, "GET", path+query, ""))
		things := slices.Concat(page.Reservations, page.Levels, page.Entries)
		if len(things) > limit || page.Next != "" && len(things) < limit {
			t.Errorf("%s: a page of %d has %d and the next is %q", path, limit, len(things), page.Next)
		}
		for _, thing := range things {
			all = append(all, key(thing))
		}
		if next = page.Next; next == "" {
			return all
		}
	}
}

func TestListsArePaged(t *testing.T) {
	t.Parallel()
	s := start(t)
	var rows strings.Builder
	rows.WriteString("sku,location,on_hand\n")
	var want []string
	for i := range 60 {
		location := []string{"main", "shop"}[i/30]
		fmt.Fprintf(&rows, "s%02d,%s,5\n", i, location)
		want = append(want, fmt.Sprintf("%s/s%02d", location, i))
	}
	s.ok(t, "POST", "/v1/stock/import", rows.String(), "Content-Type", "text/csv")
	for i := range 8 {
		s.ok(t, "PUT", fmt.Sprintf("/v1/reservations/r%d", i), fmt.Sprintf(`{"seq": 1, "state": "held", "lines": [{"sku": "s0%d", "quantity": 1}]}`, i%2))
	}
	s.ok(t, "PUT", "/v1/reservations/r3", `{"seq": 2, "state": "committed"}`)

	ofLevel := func(l payload.Level) string { return l.Location + "/" + l.SKU }
	ofReservation := func(r payload.Reservation) string { return r.ID }
	ofEntry := func(e entry) string { return fmt.Sprintf("%03d", e.ID) }
	for _, limit := range []int{1, 7, 60, 200} {
		if got := pages(t, s, "/v1/stock", limit, ofLevel); !slices.Equal(got, want) {
			t.Errorf("%d a page, the levels are %v", limit, got)
		}
	}
	if got := resttest.Decode[payload.Levels](t, s.ok(t, "GET", "/v1/stock", "")); len(got.Levels) != 50 || got.NextCursor == "" {
		t.Errorf("without a limit there are %d on a page", len(got.Levels))
	}
	// Some may have been made in one millisecond; then the order is that of ids.
	if got := pages(t, s, "/v1/reservations", 3, ofReservation); !slices.Equal(got, []string{"r7", "r6", "r5", "r4", "r3", "r2", "r1", "r0"}) {
		t.Errorf("the reservations are %v", got)
	}
	for state, want := range map[string]int{"held": 7, "committed": 1, "none": 0, "released": 0, "expired": 0} {
		if got := pages(t, s, "/v1/reservations?state="+state, 2, ofReservation); len(got) != want {
			t.Errorf("%s are %v", state, got)
		}
	}
	newest := func(a, b string) int { return strings.Compare(b, a) }
	for filter, want := range map[string]int{"": 69, "?sku=s00": 5, "?sku=s01": 6, "?ref=r3": 2, "?ref=r3&sku=s01": 2, "?ref=r3&sku=s00": 0} {
		got := pages(t, s, "/v1/ledger"+filter, 4, ofEntry)
		if len(got) != want || !slices.IsSortedFunc(got, newest) || len(slices.Compact(got)) != want {
			t.Errorf("the ledger %s has %d entries, want %d: %v", filter, len(got), want, got)
		}
	}
}

func TestALedgerEntryExplainsAChange(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	got := resttest.Decode[struct{ Entries []entry }](t, s.ok(t, "GET", "/v1/ledger?sku=a&limit=1", "")).Entries
	want := entry{SKU: "a", Location: "main", ReservedDelta: 6, OnHand: 10, Reserved: 6, Reason: "held", Ref: "x", Seq: 1}
	if len(got) != 1 || got[0].ID < 1 || got[0].At == "" {
		t.Fatalf("got %+v", got)
	}
	want.ID, want.At = got[0].ID, got[0].At
	if got[0] != want {
		t.Errorf("got %+v, want %+v", got[0], want)
	}
}

func TestEveryResponseHasItsHeaders(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	for _, o := range []struct{ method, path, body string }{
		{"PUT", "/v1/reservations/x", holdBody}, {"GET", "/v1/reservations/x", ""}, {"GET", "/v1/reservations", ""}, {"GET", "/v1/stock", ""},
		{"GET", "/v1/stock/a", ""}, {"PUT", "/v1/adjustments/x", adjustBody}, {"GET", "/v1/adjustments/x", ""}, {"GET", "/v1/ledger", ""},
		{"GET", "/v1/reservations/none", ""}, {"GET", "/nowhere", ""}, {"PATCH", "/v1/stock", ""},
	} {
		what := o.method + " " + o.path
		r := s.Call(t, o.method, o.path, o.body, "X-Request-Id", "mine", "Request-Attempt", "2", "Accept", "text/html", "Accept-Language", "fr")
		if r.Header.Get("X-Request-Id") != "mine" || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", what, r.Header)
		}
		// There is one way to write an answer, whatever the caller would like best.
		if media := r.Header.Get("Content-Type"); r.Status < 400 && media != "application/json" {
			t.Errorf("%s: the answer is %q", what, media)
		}
		for _, id := range []string{"", "a b", strings.Repeat("x", 65), "é"} {
			if got := s.Call(t, o.method, o.path, o.body, "X-Request-Id", id).Header.Get("X-Request-Id"); len(got) != 36 || got == id {
				t.Errorf("%s: the id %q became %q", what, id, got)
			}
		}
	}
}

func TestContentTypesThatAreTaken(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	for i, media := range []string{"application/json", "application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\""} {
		s.ok(t, "PUT", fmt.Sprintf("/v1/adjustments/x%d", i), adjustBody, "Content-Type", media, "Content-Encoding", "identity")
		for name, rows := range map[string]string{"text/csv": "sku,on_hand\nc,1\n", "application/x-ndjson": `{"sku": "c", "on_hand": 1}`} {
			s.ok(t, "POST", "/v1/stock/import", rows, "Content-Type", name+strings.TrimPrefix(strings.ToLower(media), "application/json"), "Content-Encoding", "identity")
		}
	}
}

func TestMethodsThatAPathDoesNotHave(t *testing.T) {
	t.Parallel()
	s := start(t)
	for path, allowed := range map[string]string{
		"/v1/reservations/x": "GET, PUT", "/v1/reservations": "GET", "/v1/stock": "GET", "/v1/stock/x": "GET", "/v1/adjustments/x": "GET, PUT",
		"/v1/stock/import": "POST", // and GET, of a SKU that is called import: Echo does not list that
		"/v1/ledger":       "GET",
	} {
		for _, method := range []string{"HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "BREW"} {
			if slices.Contains(strings.Split(allowed, ", "), method) {
				continue
			}
			r := s.Call(t, method, path, "")
			got := strings.Split(strings.TrimPrefix(r.Header.Get("Allow"), "OPTIONS, "), ", ")
			slices.Sort(got)
			if r.Status != 405 || strings.Join(got, ", ") != allowed {
				t.Errorf("%s %s: %d and allowed are %v", method, path, r.Status, got)
			}
		}
	}
}

func TestWhatCanNotBeDoneInTimeIsNotBegun(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	before := s.dump(t)
	for _, ms := range []string{"1", "19"} {
		for _, o := range []struct{ method, path, body string }{
			{"PUT", "/v1/reservations/x", holdBody}, {"GET", "/v1/reservations/x", ""}, {"GET", "/v1/reservations", ""}, {"GET", "/v1/stock", ""},
			{"GET", "/v1/stock/a", ""}, {"PUT", "/v1/adjustments/x", adjustBody}, {"GET", "/v1/adjustments/x", ""}, {"GET", "/v1/ledger", ""},
		} {
			s.Call(t, o.method, o.path, o.body, "Request-Timeout-Ms", ms).Want(t, ms+" ms for "+o.path, 504, problem.DeadlineExceeded)
		}
	}
	if after := s.dump(t); after != before {
		t.Errorf("they changed\n%s into\n%s", before, after)
	}
	// More than the most is the most, and an import has no deadline.
	s.ok(t, "GET", "/v1/stock", "", "Request-Timeout-Ms", "9000000000000000000")
	s.ok(t, "POST", "/v1/stock/import", "sku,on_hand\nc,1\n", "Content-Type", "text/csv", "Request-Timeout-Ms", "1")
}

// halting is a store whose Do waits, or fails.
type halting struct {
	stock.Store
	entered, release chan struct{}
	err              error
}

func (h *halting) Do(ctx context.Context, commands []stock.Command) []stock.Result {
	if h.err != nil {
		return slices.Repeat([]stock.Result{{Err: h.err}}, len(commands))
	}
	h.entered <- struct{}{}
	<-h.release
	return h.Store.Do(context.WithoutCancel(ctx), commands)
}

func TestWhatFinishesAnOrderIsShedLast(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	full := &halting{Store: s.store, entered: make(chan struct{}), release: make(chan struct{})}
	client := serve(t, full, 10) // of which two places are kept
	hold := func(i int) resttest.Response {
		return client.Call(t, "PUT", fmt.Sprintf("/v1/reservations/x%d", i), `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`)
	}
	finish := func(i int, state string) resttest.Response {
		return client.Call(t, "PUT", fmt.Sprintf("/v1/reservations/y%d", i), `{"seq": 1, "state": "`+state+`"}`)
	}
	var all sync.WaitGroup
	begin := func(call func() resttest.Response) {
		t.Helper()
		answered := make(chan resttest.Response, 1)
		all.Go(func() { answered <- call() })
		select {
		case <-full.entered:
		case r := <-answered:
			t.Errorf("was not admitted: %d %s", r.Status, r.Body)
		}
	}
	for i := range 8 {
		begin(func() resttest.Response { return hold(i) })
	}
	hold(8).Want(t, "a hold when eight are worked on", 503, problem.Overloaded)
	client.Call(t, "GET", "/v1/stock", "").Want(t, "a read then", 503, problem.Overloaded)
	client.Call(t, "PUT", "/v1/adjustments/x", adjustBody).Want(t, "an adjustment then", 503, problem.Overloaded)
	for i, state := range []string{"released", "committed"} {
		begin(func() resttest.Response { return finish(i, state) })
	}
	finish(2, "released").Want(t, "a release when ten are worked on", 503, problem.Overloaded)
	close(full.release)
	all.Wait()
	s.wantLevel(t, "what was admitted", "a", 10, 8)
	s.Call(t, "GET", "/v1/reservations/x8", "").Want(t, "what was shed", 404, problem.NotFound)
}

func TestWhatIsWrongInsideStaysInside(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	broken := serve(t, &halting{Store: s.store, err: errors.New("sql: secret")}, 8)
	for _, c := range []struct{ path, body string }{{"/v1/reservations/x", holdBody}, {"/v1/adjustments/x", adjustBody}} {
		r := broken.Call(t, "PUT", c.path, c.body)
		if r.Want(t, c.path, 500, problem.Internal); strings.Contains(r.Body, "secret") {
			t.Errorf("%s: %s", c.path, r.Body)
		}
	}
	imported := broken.Call(t, "POST", "/v1/stock/import", "sku,on_hand\na,1\n", "Content-Type", "text/csv")
	if !strings.Contains(imported.Body, `"code":"internal"`) || strings.Contains(imported.Body, "secret") {
		t.Errorf("an import: %s", imported.Body)
	}
}

func TestWithoutADatabase(t *testing.T) {
	t.Parallel()
	s := stocked(t)
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ method, path, body string }{
		{"PUT", "/v1/reservations/x", holdBody}, {"GET", "/v1/reservations/x", ""}, {"GET", "/v1/reservations", ""}, {"GET", "/v1/stock", ""},
		{"GET", "/v1/stock?sku=a", ""}, {"GET", "/v1/stock/a", ""}, {"PUT", "/v1/adjustments/x", adjustBody}, {"GET", "/v1/adjustments/x", ""}, {"GET", "/v1/ledger", ""},
	} {
		s.Call(t, o.method, o.path, o.body).Want(t, o.method+" "+o.path, 503, problem.Unavailable)
	}
}
