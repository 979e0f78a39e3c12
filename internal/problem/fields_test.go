package problem_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"roundtrip/internal/problem"
)

func TestNoFieldErrorsIsNoError(t *testing.T) {
	t.Parallel()
	var f problem.Fields
	if err := f.Err(); err != nil {
		t.Errorf("got %v", err)
	}
}

func TestFieldErrorsAreSortedByPointer(t *testing.T) {
	t.Parallel()
	var f problem.Fields
	f.Add("path:id", "is %q", "?")
	f.Add("/seq", "first")
	f.Add("/lines", "none")
	f.Add("/seq", "second")
	p := problem.From(f.Err())
	want := []problem.FieldError{{Pointer: "/lines", Detail: "none"}, {Pointer: "/seq", Detail: "first"}, {Pointer: "/seq", Detail: "second"}, {Pointer: "path:id", Detail: `is "?"`}}
	if p.Code != problem.Invalid || p.Detail == "" || !slices.Equal(p.Errors, want) {
		t.Errorf("got %v: %+v", p, p.Errors)
	}
}

func TestFieldErrorsAreCapped(t *testing.T) {
	t.Parallel()
	for given, want := range map[int]int{1: 1, problem.MaxFields: problem.MaxFields, 2000: problem.MaxFields} {
		var f problem.Fields
		for i := range given {
			f.Add(fmt.Sprintf("/lines/%04d", i), "wrong")
		}
		errs := problem.From(f.Err()).Errors
		if len(errs) != want || errs[0].Pointer != "/lines/0000" {
			t.Errorf("of %d errors %d are listed, from %s", given, len(errs), errs[0].Pointer)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for name, good := range map[string]bool{
		"a": true, "Z": true, "0": true, ".": true, "..": true, "_": true, "-": true, "85123A": true, "Az09._-": true,
		strings.Repeat("x", 64): true, strings.Repeat("x", 65): false, "": false,
		" ": false, "a b": false, "a ": false, "a\n": false, "\na": false, "a\x00": false, "a/b": false, "a:b": false, "a@": false, "a[": false,
		"a`": false, "a{": false, "a+b": false, "a,b": false, "é": false, "\xff": false, "٣": false, "ｂ": false,
	} {
		var f problem.Fields
		f.Name("path:id", name)
		if err := f.Err(); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		} else if err != nil && problem.From(err).Errors[0].Pointer != "path:id" {
			t.Errorf("%q: the errors are %+v", name, problem.From(err).Errors)
		}
	}
}

func TestBetweenIncludesItsEnds(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		value, least, most int64
		good               bool
	}{
		{1, 1, 10, true}, {10, 1, 10, true}, {5, 1, 10, true}, {7, 7, 7, true},
		{0, 1, 10, false}, {11, 1, 10, false}, {-5, 1, 10, false},
		{math.MinInt64, 0, math.MaxInt64, false}, {math.MaxInt64, 0, math.MaxInt64, true}, {math.MaxInt64, 0, 1, false},
	} {
		var f problem.Fields
		f.Between("/seq", test.value, test.least, test.most)
		err := f.Err()
		if (err == nil) != test.good {
			t.Errorf("%+v: %v", test, err)
			continue
		}
		if err == nil {
			continue
		}
		want := problem.FieldError{Pointer: "/seq", Detail: fmt.Sprintf("must be between %d and %d", test.least, test.most)}
		if got := problem.From(err).Errors; !slices.Equal(got, []problem.FieldError{want}) {
			t.Errorf("%+v: got %+v", test, got)
		}
	}
}
