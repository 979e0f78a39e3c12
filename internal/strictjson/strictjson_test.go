package strictjson

import (
	stdjson "encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"roundtrip/internal/problem"
)

// request has the shape of the requests of the services.
type request struct {
	Customer    string        `json:"customer"`
	HoldSeconds *int64        `json:"hold_seconds,omitzero"`
	Seq         int64         `json:"seq"`
	Lines       []requestLine `json:"lines,omitzero"`
}

type requestLine struct {
	SKU      string  `json:"sku"`
	Location *string `json:"location,omitzero"`
	Quantity int64   `json:"quantity"`
}

const good = `{"customer":"Ada","hold_seconds":900,"seq":1,"lines":[{"sku":"85123A","location":"main","quantity":6}]}`

// accepted are valid bodies.
var accepted = []string{
	good,
	`{}`,
	" \t\r\n{ \"seq\" : 1 } \n",
	`{"seq":9223372036854775807}`,
	`{"seq":-9223372036854775808}`,
	`{"seq":0,"lines":[]}`,
	`{"customer":"Zo\u00eb \ud83d\ude00 <&>"}`,
	`{"customer":"\\u0000 is not a NUL"}`,
	`{"\u0073eq":1}`, // an escaped name is the same name
}

// refused are invalid bodies, with the pointers of their errors.
var refused = []struct {
	name, body string
	pointers   []string
}{
	{"empty", ``, []string{""}},
	{"white space only", " \n", []string{""}},
	{"null", `null`, []string{""}},
	{"an array", `[]`, []string{""}},
	{"a string", `"x"`, []string{""}},
	{"a number", `1`, []string{""}},
	{"true", `true`, []string{""}},
	{"cut off after a brace", `{`, []string{""}},
	{"cut off in a name", `{"seq`, []string{""}},
	{"cut off after a name", `{"seq"`, []string{"/seq"}},
	{"cut off after a colon", `{"seq":`, []string{"/seq"}},
	{"cut off after a value", `{"seq":1`, []string{""}},
	{"cut off in a string", `{"customer":"A`, []string{"/customer"}},
	{"cut off in a list", `{"lines":[`, []string{"/lines"}},
	{"a second value", `{} {}`, []string{""}},
	{"a second value without a space", `{}{}`, []string{""}},
	{"rubbish after the end", `{}x`, []string{""}},
	{"a brace too many", `{}}`, []string{""}},
	{"a NUL after the end", "{}\x00", []string{""}},
	{"a byte order mark", "\ufeff{}", []string{""}},
	{"UTF-16", "{\x00}\x00", []string{""}},
	{"a trailing comma", `{"seq":1,}`, []string{""}},
	{"a trailing comma in a list", `{"lines":[{},]}`, []string{"/lines"}},
	{"a comment", `{/* */}`, []string{""}},
	{"single quotes", `{'seq':1}`, []string{""}},
	{"a name without quotes", `{seq:1}`, []string{""}},
	{"a name that is a number", `{1:1}`, []string{""}},
	{"no comma", `{"seq":1 "customer":"A"}`, []string{""}},
	{"no colon", `{"seq" 1}`, []string{"/seq"}},
	{"the wrong bracket", `{"lines":[}`, []string{"/lines/0"}},
	{"NaN", `{"seq":NaN}`, []string{"/seq"}},
	{"Infinity", `{"seq":-Infinity}`, []string{"/seq"}},
	{"a leading zero", `{"seq":01}`, []string{""}},
	{"a leading plus", `{"seq":+1}`, []string{"/seq"}},
	{"hexadecimal", `{"seq":0x10}`, []string{""}},
	{"a point without a digit", `{"seq":1.}`, []string{"/seq"}},
	{"a control character", "{\"customer\":\"a\nb\"}", []string{"/customer"}},
	{"a bad escape", `{"customer":"\x41"}`, []string{"/customer"}},
	{"a lone surrogate", `{"customer":"\ud800"}`, []string{"/customer"}},
	{"invalid UTF-8 in a value", "{\"customer\":\"\xff\"}", []string{"/customer"}},
	{"overlong UTF-8", "{\"customer\":\"\xc0\xaf\"}", []string{"/customer"}},
	{"a NUL in a value", `{"customer":"A\u0000"}`, []string{"/customer"}},
	{"a NUL in a name", `{"seq\u0000":1}`, []string{"/seq\x00", "/seq\x00"}},
	{"a NUL far inside", `{"lines":[{"sku":"a"},{"sku":"\u0000"}]}`, []string{"/lines/1/sku"}},
	{"a null", `{"customer":null}`, []string{"/customer"}},
	{"a null for what may be left out", `{"hold_seconds":null}`, []string{"/hold_seconds"}},
	{"a null in a list", `{"lines":[null]}`, []string{"/lines/0"}},
	{"a null in an unknown field", `{"x":{"y":[null]}}`, []string{"/x", "/x/y/0"}},
	{"two nulls and a NUL", `{"customer":"\u0000","seq":null,"lines":null}`, []string{"/customer", "/lines", "/seq"}},
	{"a field twice", `{"seq":1,"seq":2}`, []string{"/seq"}},
	{"a field twice, once escaped", `{"seq":1,"\u0073eq":1}`, []string{"/seq"}},
	{"a line's field twice", `{"lines":[{"sku":"a","sku":"a"}]}`, []string{"/lines/0/sku"}},
	{"an unknown field", `{"price":1}`, []string{"/price"}},
	{"another case", `{"Seq":1}`, []string{"/Seq"}},
	{"another case, next to the right one", `{"seq":1,"SEQ":2}`, []string{"/SEQ"}},
	{"an underscore left out", `{"holdseconds":1}`, []string{"/holdseconds"}},
	{"an empty name", `{"":1}`, []string{"/"}},
	{"names that a pointer escapes", `{"a/b":1,"c~d":2}`, []string{"/a~1b", "/c~0d"}},
	{"__proto__", `{"__proto__":{}}`, []string{"/__proto__"}},
	{"an unknown field in a line", `{"lines":[{"sku":"a"},{"skus":"b"}]}`, []string{"/lines/1/skus"}},
	{"a fraction", `{"seq":1.5}`, []string{"/seq"}},
	{"a whole number with a fraction", `{"seq":1.0}`, []string{"/seq"}},
	{"an exponent", `{"seq":1e3}`, []string{"/seq"}},
	{"an exponent beyond floats", `{"seq":1e999}`, []string{"/seq"}},
	{"one above int64", `{"seq":9223372036854775808}`, []string{"/seq"}},
	{"one below int64", `{"seq":-9223372036854775809}`, []string{"/seq"}},
	{"a very long number", `{"seq":` + strings.Repeat("9", 400) + `}`, []string{"/seq"}},
	{"a string for a number", `{"seq":"1"}`, []string{"/seq"}},
	{"true for a number", `{"seq":true}`, []string{"/seq"}},
	{"a list for a number", `{"seq":[1]}`, []string{"/seq"}},
	{"a number for a string", `{"customer":1}`, []string{"/customer"}},
	{"an object for a string", `{"customer":{}}`, []string{"/customer"}},
	{"a string for what may be left out", `{"hold_seconds":"900"}`, []string{"/hold_seconds"}},
	{"an object for a list", `{"lines":{}}`, []string{"/lines"}},
	{"a string for a list", `{"lines":"x"}`, []string{"/lines"}},
	{"lists for lines", `{"lines":[[],[]]}`, []string{"/lines/0", "/lines/1"}},
	{"three fields of the wrong kind", `{"customer":1,"seq":"x","lines":2}`, []string{"/customer", "/lines", "/seq"}},
	{"errors of every kind",
		`{"x":1,"customer":1,"y":{"seq":1},"seq":1.0,"lines":[{"sku":2},{"quantity":"a","z":[]}],"w":0}`,
		[]string{"/customer", "/lines/0/sku", "/lines/1/quantity", "/lines/1/z", "/seq", "/w", "/x", "/y"}},
	{"large numbers next to an error are valid", `{"customer":1,"seq":9223372036854775807,"hold_seconds":9007199254740993}`,
		[]string{"/customer"}},
	{"a fraction next to an error is still found", `{"customer":1,"seq":1.0}`, []string{"/customer", "/seq"}},
	{"an unknown field before others, with spaces", `{ "x" : 1 , "customer" : 1 , "y" : 2 }`, []string{"/customer", "/x", "/y"}},
	{"a name that is like an index", `{"0":1,"lines":[1]}`, []string{"/0", "/lines/0"}},
	{"lists deep inside one another", `{"lines":` + strings.Repeat("[", 500) + strings.Repeat("]", 500) + `}`, []string{"/lines/0"}},
}

func TestUnmarshalAcceptsValidBodies(t *testing.T) {
	t.Parallel()
	var got request
	if err := Unmarshal([]byte(good), &got); err != nil {
		t.Fatal(err)
	}
	hold, location := int64(900), "main"
	want := request{Customer: "Ada", HoldSeconds: &hold, Seq: 1, Lines: []requestLine{{"85123A", &location, 6}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, body := range accepted {
		if err := Unmarshal([]byte(body), new(request)); err != nil {
			t.Errorf("%s: %v", body, err)
		}
	}
}

func TestUnmarshalPointsAtEveryError(t *testing.T) {
	t.Parallel()
	for _, test := range refused {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			body := []byte(test.body)
			errs := fieldErrors(t, Unmarshal(body, new(request)))
			if string(body) != test.body {
				t.Error("the body was changed")
			}
			var pointers []string
			for _, e := range errs {
				pointers = append(pointers, e.Pointer)
			}
			if !slices.Equal(pointers, test.pointers) {
				t.Errorf("got %q, want the pointers %q", errs, test.pointers)
			}
		})
	}
}

func TestUnmarshalDetails(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		``:                               "the body is empty",
		`{`:                              "the body ends too early",
		`{} {}`:                          "there is data after the end of the body",
		`{"seq":null}`:                   "must not be null; leave it out",
		`{"customer":"\u0000"}`:          "must not contain NUL",
		`{"x":1}`:                        "there is no such field",
		`{"seq":1.0}`:                    "must be an integer, written with digits only",
		`{"hold_seconds":""}`:            "must be an integer, written with digits only",
		`{"seq":-9223372036854775809}`:   "the number is out of range",
		`{"customer":1}`:                 "must be a string",
		`{"lines":[{"location":false}]}`: "must be a string",
		`{"lines":1}`:                    "must be an array",
		`{"lines":[1]}`:                  "must be an object",
		`[]`:                             "must be an object",
	} {
		if errs := fieldErrors(t, Unmarshal([]byte(body), new(request))); errs[0].Detail != want {
			t.Errorf("%s: got %q, want %q", body, errs[0].Detail, want)
		}
	}
}

// A hostile body must not cause a huge answer or minutes of work.
func TestUnmarshalLimitsItsReport(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 300_000)
	deep := strings.Repeat("[", 9_000) + strings.Repeat("null,", 200_000) + "null" + strings.Repeat("]", 9_000)
	var unknown []string
	for i := range 5_000 {
		unknown = append(unknown, fmt.Sprintf(`"f%d":1`, i))
	}
	for _, body := range []string{
		`{"lines":[` + strings.Repeat("null,", 200_000) + `null]}`,
		`{"lines":[` + strings.Repeat("1,", 200_000) + `1]}`,
		`{"` + name + `":[` + strings.Repeat("null,", 140_000) + `null]}`,
		`{"` + name + `":1}`,
		`{"` + name + `":1,"` + name + `":1}`,
		`{"lines":` + deep + `}`,
		`{` + strings.Join(unknown, ",") + `}`,
		`{"seq":` + strings.Repeat("9", 1_000_000) + `}`,
		`{"lines":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `}`,
		strings.Repeat("[", 1<<20),
		strings.Repeat(`{"a":`, (1<<20)/5),
	} {
		began := time.Now()
		errs := fieldErrors(t, Unmarshal([]byte(body), new(request)))
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%.20s…: it took %s", body, took)
		}
		encoded, err := stdjson.Marshal(errs)
		if err != nil {
			t.Fatal(err)
		}
		if len(errs) > problem.MaxFields || len(encoded) > 16<<10 {
			t.Errorf("%.20s…: %d errors in %d bytes", body, len(errs), len(encoded))
		}
	}
}

func TestLongPointerIsShortenedToAParent(t *testing.T) {
	t.Parallel()
	got := fieldErrors(t, Unmarshal([]byte(`{"lines":[{"sku":"a","`+strings.Repeat("n", 1_000)+`":1}]}`), new(request)))
	if got[0].Pointer != "/lines/0" {
		t.Errorf("got %q", got)
	}
}

// fieldErrors returns the field errors of an invalid problem.
func fieldErrors(t *testing.T, err error) []problem.FieldError {
	t.Helper()
	var p *problem.Problem
	if !errors.As(err, &p) || p.Code != problem.Invalid || len(p.Errors) == 0 {
		t.Fatalf("got %v, want an invalid problem with field errors", err)
	}
	return p.Errors
}

func FuzzUnmarshal(f *testing.F) {
	for _, body := range accepted {
		f.Add([]byte(body))
	}
	for _, test := range refused {
		f.Add([]byte(test.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := string(body)
		var got request
		err := Unmarshal(body, &got)
		if string(body) != before {
			t.Fatal("the body was changed")
		}
		if err != nil {
			errs := fieldErrors(t, err)
			if len(errs) > problem.MaxFields {
				t.Errorf("%d errors", len(errs))
			}
			for _, e := range errs {
				if len(e.Pointer) > maxPointer || len(e.Detail) > 200 || strings.Contains(e.Detail, "strictjson.") || e.Detail == "" {
					t.Errorf("the error does not suit a caller: %q", e)
				}
			}
			return
		}
		// Another JSON reader gives the same value for an accepted body.
		var other request
		if err := stdjson.Unmarshal(body, &other); err != nil || !reflect.DeepEqual(got, other) {
			t.Errorf("got %+v; encoding/json reads %+v, %v", got, other, err)
		}
		// The value stays the same when it is written and read again.
		encoded, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		var again request
		if err := Unmarshal(encoded, &again); err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%s is read as %+v, %v", encoded, again, err)
		}
	})
}
