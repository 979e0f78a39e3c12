package httpapi

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/test/support/resttest"
)

func TestEmptyListsAndUnknownIDs(t *testing.T) {
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

func TestStockBySKU(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
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

// pages reads a list page by page and returns the key of each item.
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
		items := slices.Concat(page.Reservations, page.Levels, page.Entries)
		if len(items) > limit || page.Next != "" && len(items) < limit {
			t.Errorf("%s: a page with limit %d has %d items and the next cursor %q", path, limit, len(items), page.Next)
		}
		for _, item := range items {
			all = append(all, key(item))
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
			t.Errorf("with limit %d the levels are %v", limit, got)
		}
	}
	if got := resttest.Decode[payload.Levels](t, s.ok(t, "GET", "/v1/stock", "")); len(got.Levels) != 50 || got.NextCursor == "" {
		t.Errorf("without a limit a page has %d levels", len(got.Levels))
	}
	// Reservations of the same millisecond are in the order of their ids.
	if got := pages(t, s, "/v1/reservations", 3, ofReservation); !slices.Equal(got, []string{"r7", "r6", "r5", "r4", "r3", "r2", "r1", "r0"}) {
		t.Errorf("the reservations are %v", got)
	}
	for state, want := range map[string]int{"held": 7, "committed": 1, "none": 0, "released": 0, "expired": 0} {
		if got := pages(t, s, "/v1/reservations?state="+state, 2, ofReservation); len(got) != want {
			t.Errorf("the %s reservations are %v", state, got)
		}
	}
	newest := func(a, b string) int { return strings.Compare(b, a) }
	for filter, want := range map[string]int{"": 69, "?sku=s00": 5, "?sku=s01": 6, "?ref=r3": 2, "?ref=r3&sku=s01": 2, "?ref=r3&sku=s00": 0} {
		got := pages(t, s, "/v1/ledger"+filter, 4, ofEntry)
		if len(got) != want || !slices.IsSortedFunc(got, newest) || len(slices.Compact(got)) != want {
			t.Errorf("the ledger with %q has %d entries, want %d: %v", filter, len(got), want, got)
		}
	}
}

func TestLedgerEntryFields(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
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
