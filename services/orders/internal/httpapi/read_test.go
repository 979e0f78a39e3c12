package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

func TestOrdersArePaged(t *testing.T) {
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

func TestReadsFromInventory(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place", 201, "")
	at := time.Date(2026, 11, 24, 14, 0, 0, 5e6, time.FixedZone("CET", 3600))
	s.inventory.reservation = func(id string) (order.Reservation, error) {
		return order.Reservation{ID: id, Seq: 1, State: order.ReservationHeld, ExpiresAt: at, Lines: []order.Demand{{SKU: "b", Location: "main", Quantity: 3}}}, nil
	}
	s.inventory.stock = func(skus []string) ([]order.Level, error) {
		if !slices.Equal(skus, []string{"a", "b", "a"}) {
			t.Errorf("inventory was asked for %v", skus)
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
		t.Errorf("without a level: %d %s", r.Status, r.Body)
	}
	s.inventory.reservation = func(string) (order.Reservation, error) { return order.Reservation{ID: "b"}, nil }
	s.call(t, "GET", "/v1/orders/a/reservation", "").want(t, "the reservation of another order", 503, problem.Unavailable)

	// Problems between orders and inventory are not passed on to orders' caller.
	for _, code := range append(problem.Codes(), "tomorrow") {
		err := error(problem.New(code, "secret"))
		s.inventory.reservation = func(string) (order.Reservation, error) { return order.Reservation{}, err }
		s.inventory.stock = func([]string) ([]order.Level, error) { return nil, err }
		want := problem.Unavailable
		switch code {
		case problem.Overloaded, problem.DeadlineExceeded:
			want = code
		case problem.NotFound:
			s.call(t, "GET", "/v1/orders/a/reservation", "").want(t, "an unknown reservation", 404, problem.NotFound)
			continue
		case problem.Invalid: // orders sends no invalid request
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
		t.Errorf("the answer discloses an internal error: %s", r.Body)
	}
	s.call(t, "GET", "/v1/orders/none/reservation", "").want(t, "an unknown order", 404, problem.NotFound)
	s.call(t, "GET", "/v1/orders/a", "").want(t, "a read of the order alone", 200, "")
}
