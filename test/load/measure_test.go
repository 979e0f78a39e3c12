package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestQuantileIsAMeasuredLatency(t *testing.T) {
	t.Parallel()
	upTo := func(n int) (s summary) {
		for i := range n {
			s.latencies = append(s.latencies, time.Duration(i+1))
		}
		return s
	}
	for _, test := range []struct {
		n     int
		share float64
		want  time.Duration
	}{
		{0, 0.5, 0}, {1, 0, 1}, {1, 0.5, 1}, {1, 1, 1},
		{2, 0.5, 1}, {2, 0.51, 2}, {3, 0.5, 2}, {100, 0.99, 99}, {100, 0.999, 100}, {100, 0, 1},
		{1000, 0.5, 500}, {1000, 0.99, 990}, {1000, 0.999, 999}, {1000, 1, 1000},
	} {
		if got := upTo(test.n).quantile(test.share); got != test.want {
			t.Errorf("%g of 1…%d: got %d, want %d", test.share, test.n, got, test.want)
		}
	}
}

func TestEveryResponseIsCountedOnce(t *testing.T) {
	t.Parallel()
	r := summarize([]sample{
		{"place", done, 2500 * time.Millisecond, 3, ""},
		{"get", done, 100 * time.Millisecond, 1, ""},
		{"place", rejected, 200 * time.Millisecond, 2, "first"},
		{"place", failed, 300 * time.Millisecond, 9, "second"},
		{"place", unknown, 400 * time.Millisecond, 4, ""},
		{"place", refused, 400 * time.Millisecond, 5, ""},
	})
	if want := [responseKinds]int{2, 1, 1, 1, 1}; r.total.counts != want {
		t.Errorf("counts are %v, want %v", r.total.counts, want)
	}
	if want := []int{1, 0, 1}; !slices.Equal(r.perSecond, want) {
		t.Errorf("in each second %v, want %v", r.perSecond, want)
	}
	if r.took != 2500*time.Millisecond || r.throughput(r.total) != 0.8 {
		t.Errorf("%s, %g/s", r.took, r.throughput(r.total))
	}
	var names []string
	for _, row := range r.rows() {
		names = append(names, row[0])
	}
	if want := []string{"get", "place", "all"}; !slices.Equal(names, want) {
		t.Errorf("rows are %v, want %v", names, want)
	}
	if want := []time.Duration{2, 3, 4, 5, 9}; !slices.Equal(r.operations[1].latencies, want) {
		t.Errorf("latencies of place are %v, want %v", r.operations[1].latencies, want)
	}
	if want := []time.Duration{1, 2, 3, 4, 5, 9}; !slices.Equal(r.total.latencies, want) {
		t.Errorf("all latencies are %v, want %v", r.total.latencies, want)
	}
	if err := r.violation(); err == nil || !strings.Contains(err.Error(), "first") {
		t.Errorf("violation: %v", err)
	}
}

func TestViolations(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		samples   []sample
		violation bool
	}{
		{[]sample{{responseKind: done}, {responseKind: unknown}, {responseKind: refused}}, false},
		{[]sample{{responseKind: done}, {responseKind: rejected}}, true},
		{[]sample{{responseKind: done}, {responseKind: failed}}, true},
		{[]sample{{responseKind: refused}}, true},
		{nil, true},
	} {
		if err := summarize(test.samples).violation(); (err != nil) != test.violation {
			t.Errorf("%v: %v", test.samples, err)
		}
	}
}

func TestHTTPStatusDeterminesResponseKind(t *testing.T) {
	t.Parallel()
	for status, want := range map[int]responseKind{
		200: done, 201: done, 202: unknown, 409: rejected, 503: refused, 504: refused,
		204: failed, 400: failed, 404: failed, 412: failed, 422: failed, 429: failed, 500: failed,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }))
		got, failure := send(t.Context(), server.Client(), server.URL, place("x", placeBody{}))
		server.Close()
		if got != want || (failure != "") != (want == rejected || want == failed) {
			t.Errorf("%d: got %d %q, want %d", status, got, failure, want)
		}
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	if got, failure := send(t.Context(), gone.Client(), gone.URL, place("x", placeBody{})); got != failed || failure == "" {
		t.Errorf("no answer: got %d %q", got, failure)
	}
}
