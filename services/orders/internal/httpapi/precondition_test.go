package httpapi

import (
	"reflect"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

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
		{"a weak tag of this version", `W/"2"`, 412, problem.PreconditionFailed},
		{"the same version written otherwise", `"02"`, 412, problem.PreconditionFailed},
		{"a tag that is not a version", `"*"`, 412, problem.PreconditionFailed},
		{"a tag with a comma", `"1,2"`, 412, problem.PreconditionFailed},
		{"a list without this version", `"1", "3", W/"2"`, 412, problem.PreconditionFailed},
		{"a value that is not a tag", `2`, 400, problem.Invalid},
		{"a list with this version", `"1", "2"`, 200, ""}, // version 4
		{"the version before", `"2"`, 200, ""},            // the change is already true
		{"any version", `*`, 200, ""},                     // version 6
		{"the current version", `"6"`, 200, ""},           // version 8
	} {
		s.call(t, "PUT", "/v1/orders/a/lines", otherLines, "If-Match", c.ifMatch).want(t, "amend with "+c.what, c.status, c.code)
	}
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"1"`).want(t, "confirm", 412, problem.PreconditionFailed)
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"8"`).want(t, "confirm", 200, "")
	s.call(t, "POST", "/v1/orders/a/confirm", "", "If-Match", `"8"`).want(t, "confirm again", 200, "")
	s.call(t, "POST", "/v1/orders/a/cancel", "", "If-Match", `"8"`).want(t, "cancel", 412, problem.PreconditionFailed)
	s.call(t, "POST", "/v1/orders/a/cancel", "", "If-Match", `"1"`, "If-Match", `"10"`).want(t, "cancel with two headers", 200, "")
	s.call(t, "POST", "/v1/orders/none/cancel", "", "If-Match", `*`).want(t, "cancel an unknown order", 404, problem.NotFound)
}

func TestParseIfMatch(t *testing.T) {
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
		{[]string{`"-1"`}, given(-1)},      // no order has this version
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
