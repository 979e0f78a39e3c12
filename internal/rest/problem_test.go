package rest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/restclient"
)

func TestEveryProblemIsReadAsItWasSent(t *testing.T) {
	t.Parallel()
	var sent *problem.Problem
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/", "Get", func(echo.Context) error { return fmt.Errorf("on the way: %w", sent) })
	})
	for _, code := range problem.Codes() {
		sent = &problem.Problem{
			Code: code, Detail: "What <happened> & why.",
			Shortages: []problem.Shortage{{SKU: "85123A", Location: "main", Requested: 6, Available: 1<<63 - 1}},
			Errors:    []problem.FieldError{{Pointer: "/lines/0/sku", Detail: "must be a string"}},
			Current:   &problem.Current{ID: "o1", Seq: 1<<63 - 1, State: "held"},
		}
		if code.Retry() == problem.After {
			sent.RetryAfter = 3 * time.Second
		}
		response, body := s.do(t, "GET", "/", "")
		got := restclient.Answer{Status: response.StatusCode, Header: response.Header, Body: []byte(body)}.Problem()
		if !reflect.DeepEqual(got, sent) {
			t.Errorf("got %+v, want %+v", got, sent)
		}
	}
}

func TestRetryAfterIsWholeSecondsRoundedUp(t *testing.T) {
	t.Parallel()
	for wait, want := range map[time.Duration]string{
		-time.Second: "1", 0: "1", 1: "1", time.Second: "1", time.Second + 1: "2", 90 * time.Second: "90",
	} {
		if got := exchange.FormatRetryAfter(wait); got != want {
			t.Errorf("%s: got %s, want %s", wait, got, want)
		}
	}
}

func TestQueryIsStrict(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]string{
		"":                            "",
		"limit=1&cursor=x":            "",
		"sku=a&sku=b&limit=1":         "",
		"customer=Zo%C3%AB":           "query:customer",
		"Limit=1":                     "query:Limit",
		"limit=1&limit=2":             "query:limit",
		"limit=1;cursor=x":            "query:",
		"cursor=%zz":                  "query:",
		"cursor=%00":                  "query:cursor",
		"cursor=%ff":                  "query:cursor",
		"sku=a&sku=%00":               "query:sku",
		"&&":                          "",
		"=1":                          "query:",
		strings.Repeat("n", 10_000):   "query:" + strings.Repeat("n", maxParameter),
		"a" + strings.Repeat("&a", 9): "query:a",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		r.URL.RawQuery = raw
		_, err := Query(echo.New().NewContext(r, httptest.NewRecorder()), []string{"cursor", "limit"}, "sku")
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", raw, err)
		case want != "" && (err == nil || fieldErrors(t, err)[0].Pointer != want):
			t.Errorf("%.100s: got %v, want %s", raw, err, want)
		}
	}
	var many []string
	for i := range 3_000 {
		many = append(many, fmt.Sprint(i))
	}
	r := httptest.NewRequest("GET", "/?"+strings.Join(many, "&"), nil)
	_, err := Query(echo.New().NewContext(r, httptest.NewRecorder()), nil)
	if errs := fieldErrors(t, err); len(errs) != problem.MaxFields {
		t.Errorf("%d errors are listed", len(errs))
	}
}

func TestPageOf(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]int{"1": 1, "200": 200} {
		cursor, limit, err := PageOf(map[string][]string{"limit": {given}, "cursor": {"c"}})
		if err != nil || limit != want || cursor != "c" {
			t.Errorf("%s: got %q, %d, %v", given, cursor, limit, err)
		}
	}
	if cursor, limit, err := PageOf(nil); cursor != "" || limit != defaultLimit || err != nil {
		t.Errorf("got %q, %d, %v", cursor, limit, err)
	}
	for _, given := range []string{"", "0", "201", "-1", "+1", "1.0", "1e2", " 1", "x", "99999999999999999999"} {
		_, _, err := PageOf(map[string][]string{"limit": {given}})
		if errs := fieldErrors(t, err); errs[0].Pointer != "query:limit" {
			t.Errorf("%q: got %v", given, errs)
		}
	}
}

// fieldErrors returns the field errors of an invalid problem.
func fieldErrors(t *testing.T, err error) []problem.FieldError {
	t.Helper()
	p := problem.From(err)
	if p.Code != problem.Invalid || len(p.Errors) == 0 {
		t.Fatalf("got %v, want an invalid problem with field errors", err)
	}
	return p.Errors
}
