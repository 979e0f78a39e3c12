package httpapi

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
)

func TestAdjustments(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	s.ok(t, "PUT", "/v1/reservations/x", holdBody)
	created := regexp.MustCompile(`"created_at":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"`)
	for _, c := range []struct {
		id, body string
		status   int
		code     problem.Code
		// stored is the body of GET, with T for its time and P for the problem.
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
			t.Errorf("%s: the answer is %s, the stored one is %s", c.id, first.Body, stored.Body)
		}
	}
	// A repeat gets the stored outcome and the level of that time.
	again := s.ok(t, "PUT", "/v1/adjustments/delta", adjustBody)
	if stored := s.ok(t, "GET", "/v1/adjustments/delta", ""); again.Body != stored.Body {
		t.Errorf("the repeat got\n%s, want\n%s", again.Body, stored.Body)
	}
	s.Call(t, "PUT", "/v1/adjustments/below", `{"sku": "a", "delta": -3, "reason": "lost"}`).Want(t, "the rejected adjustment again", 409, problem.BelowReserved)
	s.Call(t, "PUT", "/v1/adjustments/delta", strings.Replace(adjustBody, "fell", "broke", 1)).Want(t, "its id for another adjustment", 422, problem.KeyReused)
	s.Call(t, "GET", "/v1/adjustments/none", "").Want(t, "an unknown id", 404, problem.NotFound)
	r := s.Call(t, "PUT", "/v1/adjustments/full", `{"sku": "a", "delta": 999999999999, "reason": "received"}`)
	if r.Want(t, "an adjustment above the limit", 400, problem.Invalid); r.Problem.Errors[0].Pointer != "/delta" {
		t.Errorf("got %s", r.Body)
	}
	s.wantLevel(t, "in the end", "a", 8, 6)
	for ref, want := range map[string][]string{"delta": {"damaged"}, "count": {"counted"}, "same": nil, "shop": nil, "below": nil, "expected": nil, "full": nil} {
		if got := s.ledger(t, ref); !slices.Equal(got, want) {
			t.Errorf("the ledger of %s has %v, want %v", ref, got, want)
		}
	}
}
