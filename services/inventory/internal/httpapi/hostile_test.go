package httpapi

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/payload"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/resttest"
)

// replacer returns a function that changes one part of a body. It panics if the
// body does not have that part.
func replacer(body string) func(old, replacement string) string {
	return func(old, replacement string) string {
		changed := strings.Replace(body, old, replacement, 1)
		if changed == body {
			panic("not in the body: " + old)
		}
		return changed
	}
}

// hostileHolds are bodies of PutReservation, each with the pointer of its error.
func hostileHolds() map[string][2]string {
	with := replacer(holdBody)
	line := func(fields string) string { return `{"seq": 1, "state": "held", "lines": [` + fields + `]}` }
	bodies := resttest.Texts(holdBody)
	maps.Copy(bodies, map[string][2]string{
		"an empty object":                  {"{}", "/state"},
		"an unknown field":                 {with(`"seq"`, `"priority": 1, "seq"`), "/priority"},
		"the id":                           {with(`"seq"`, `"id": "x", "seq"`), "/id"},
		"a field of another case":          {with(`"state"`, `"State"`), "/State"},
		"a field twice":                    {with(`"seq"`, `"seq": 1, "seq"`), "/seq"},
		"a line's field twice":             {with(`"sku"`, `"sku": "a", "sku"`), "/lines/0/sku"},
		"an unknown field of a line":       {with(`"sku"`, `"unit_price": 1, "sku"`), "/lines/0/unit_price"},
		"no seq":                           {with(`"seq": 1, `, ``), "/seq"},
		"a seq of 0":                       {with(`1`, `0`), "/seq"},
		"a negative seq":                   {with(`1`, `-1`), "/seq"},
		"a seq above the limit":            {with(`1`, `9007199254740993`), "/seq"},
		"a seq beyond int64":               {with(`1`, `9223372036854775808`), "/seq"},
		"a seq that wraps around":          {with(`1`, `18446744073709551617`), "/seq"},
		"a seq in quotes":                  {with(`1`, `"1"`), "/seq"},
		"a seq written as a float":         {with(`1`, `1.0`), "/seq"},
		"a seq with an exponent":           {with(`1`, `1e0`), "/seq"},
		"a seq that is null":               {with(`1`, `null`), "/seq"},
		"no state":                         {with(`"state": "held", `, ``), "/state"},
		"an empty state":                   {with(`held`, ``), "/state"},
		"a state of another case":          {with(`held`, `Held`), "/state"},
		"a state that cannot be asked for": {with(`held`, `expired`), "/state"},
		"the state none":                   {with(`held`, `none`), "/state"},
		"a state that is a number":         {with(`"held"`, `1`), "/state"},
		"no lines":                         {`{"seq": 1, "state": "held"}`, "/lines"},
		"an empty list of lines":           {line(""), "/lines"},
		"lines that are null":              {`{"seq": 1, "state": "held", "lines": null}`, "/lines"},
		"lines that are an object":         {`{"seq": 1, "state": "held", "lines": {}}`, "/lines"},
		"lines that are a string":          {`{"seq": 1, "state": "held", "lines": "a:1"}`, "/lines"},
		"too many lines":                   {line(strings.TrimSuffix(strings.Repeat(`{"sku": "a", "quantity": 1},`, stock.MaxLines+1), ",")), "/lines"},
		"a line that is null":              {line("null"), "/lines/0"},
		"a line that is a list":            {line(`["a", 1]`), "/lines/0"},
		"an empty line":                    {line("{}"), "/lines/0/sku"},
		"an empty SKU":                     {with(`"a"`, `""`), "/lines/0/sku"},
		"a SKU with a slash":               {with(`"a"`, `"a/b"`), "/lines/0/sku"},
		"a SKU with a newline":             {with(`"a"`, `"a\n"`), "/lines/0/sku"},
		"a SKU with NUL":                   {with(`"a"`, `"a\u0000"`), "/lines/0/sku"},
		"a SKU of another alphabet":        {with(`"a"`, `"а"`), "/lines/0/sku"},
		"a SKU that is too long":           {with(`"a"`, `"`+strings.Repeat("x", 65)+`"`), "/lines/0/sku"},
		"a SKU that is SQL":                {with(`"a"`, `"x'; DROP TABLE levels; --"`), "/lines/0/sku"},
		"a SKU that is no UTF-8":           {with(`"a"`, "\"\xff\""), resttest.AnyPointer},
		"half a surrogate":                 {with(`"a"`, `"\ud800"`), resttest.AnyPointer},
		"a control character":              {with(`"a"`, "\"a\x01\""), resttest.AnyPointer},
		"an empty location":                {with(`main`, ``), "/lines/1/location"},
		"a location with a space":          {with(`main`, `the shop`), "/lines/1/location"},
		"a location that is null":          {with(`"main"`, `null`), "/lines/1/location"},
		"a location that is a number":      {with(`"main"`, `1`), "/lines/1/location"},
		"no quantity":                      {line(`{"sku": "a"}`), "/lines/0/quantity"},
		"a quantity of 0":                  {with(`6`, `0`), "/lines/0/quantity"},
		"a negative quantity":              {with(`6`, `-6`), "/lines/0/quantity"},
		"a quantity above the limit":       {with(`6`, `1000001`), "/lines/0/quantity"},
		"half a unit":                      {with(`6`, `6.5`), "/lines/0/quantity"},
		"a quantity with an exponent":      {with(`6`, `6e5`), "/lines/0/quantity"},
		"a quantity beyond int64":          {with(`6`, `9223372036854775808`), "/lines/0/quantity"},
		"a quantity that wraps around":     {with(`6`, `18446744073709551622`), "/lines/0/quantity"},
		"a quantity in quotes":             {with(`6`, `"6"`), "/lines/0/quantity"},
		"a quantity with a leading zero":   {with(`6`, `06`), resttest.AnyPointer},
		"a quantity with a plus":           {with(`6`, `+6`), resttest.AnyPointer},
		"a quantity in hex":                {with(`6`, `0x6`), resttest.AnyPointer},
		"a quantity that is no number":     {with(`6`, `NaN`), resttest.AnyPointer},
		"an infinite quantity":             {with(`6`, `Infinity`), resttest.AnyPointer},
		"a quantity that is true":          {with(`6`, `true`), "/lines/0/quantity"},
		"a hold of 0 seconds":              {with(`60`, `0`), "/hold_seconds"},
		"a hold of negative seconds":       {with(`60`, `-1`), "/hold_seconds"},
		"a hold of more than a month":      {with(`60`, `2592001`), "/hold_seconds"},
		"a hold of half a second":          {with(`60`, `0.5`), "/hold_seconds"},
		"a hold that is null":              {with(`60`, `null`), "/hold_seconds"},
		"lines to commit":                  {with(`held`, `committed`), "/lines"},
		"no lines to commit":               {`{"seq": 1, "state": "committed", "lines": []}`, "/lines"},
		"lines to release":                 {with(`held`, `released`), "/lines"},
		"no lines to release":              {`{"seq": 1, "state": "released", "lines": []}`, "/lines"},
		"a hold to commit":                 {`{"seq": 1, "state": "committed", "hold_seconds": 60}`, "/hold_seconds"},
		"a hold of 0 seconds to release":   {`{"seq": 1, "state": "released", "hold_seconds": 0}`, "/hold_seconds"},
		"errors in several lines":          {line(`{"sku": "a", "quantity": 1}, {"sku": "!", "quantity": 1}, {"sku": "a", "quantity": 0}`), "/lines/2/quantity"},
	})
	return bodies
}

// hostileAdjustments are bodies of PutAdjustment, each with the pointer of its
// error.
func hostileAdjustments() map[string][2]string {
	with := replacer(adjustBody)
	bodies := resttest.Texts(adjustBody)
	maps.Copy(bodies, map[string][2]string{
		"an empty object":                         {"{}", "/sku"},
		"an unknown field":                        {with(`"sku"`, `"name": "x", "sku"`), "/name"},
		"a field of another case":                 {with(`"sku"`, `"SKU"`), "/SKU"},
		"a field twice":                           {with(`"delta"`, `"delta": -3, "delta"`), "/delta"},
		"no SKU":                                  {with(`"sku": "a", `, ``), "/sku"},
		"a SKU with a space":                      {with(`"a"`, `"a b"`), "/sku"},
		"a location with a slash":                 {with(`main`, `main/1`), "/location"},
		"an empty location":                       {with(`main`, ``), "/location"},
		"a location that is null":                 {with(`"main"`, `null`), "/location"},
		"neither a change nor a quantity":         {with(`"delta": -3, `, ``), ""},
		"a change and a quantity":                 {with(`"delta"`, `"on_hand": 7, "delta"`), ""},
		"a change that is null":                   {with(`-3`, `null`), "/delta"},
		"a change by 0":                           {with(`-3`, `0`), "/delta"},
		"a change by minus 0":                     {with(`-3`, `-0`), "/delta"},
		"a change by half":                        {with(`-3`, `-3.5`), "/delta"},
		"a change in quotes":                      {with(`-3`, `"-3"`), "/delta"},
		"a change above the limit":                {with(`-3`, `1000000000001`), "/delta"},
		"a change below the limit":                {with(`-3`, `-1000000000001`), "/delta"},
		"a change beyond int64":                   {with(`-3`, `-9223372036854775809`), "/delta"},
		"a change to more than the limit":         {with(`-3`, `999999999999`), "/delta"},
		"a negative quantity":                     {with(`"delta": -3`, `"on_hand": -1`), "/on_hand"},
		"a quantity above the limit":              {with(`"delta": -3`, `"on_hand": 1000000000001`), "/on_hand"},
		"a quantity with an exponent":             {with(`"delta": -3`, `"on_hand": 1e3`), "/on_hand"},
		"a negative expectation":                  {with(`"delta"`, `"expected_on_hand": -1, "delta"`), "/expected_on_hand"},
		"an expectation that is null":             {with(`"delta"`, `"expected_on_hand": null, "delta"`), "/expected_on_hand"},
		"an expectation above the limit":          {with(`"delta"`, `"expected_on_hand": 1000000000001, "delta"`), "/expected_on_hand"},
		"no reason":                               {with(`"reason": "damaged", `, ``), "/reason"},
		"an unknown reason":                       {with(`damaged`, `stolen`), "/reason"},
		"a reason that only the service may give": {with(`damaged`, `held`), "/reason"},
		"a reason that is an object":              {with(`"damaged"`, `{}`), "/reason"},
		"a note that is too long":                 {with(`fell`, strings.Repeat("é", stock.MaxNote+1)), "/note"},
		"a note with NUL":                         {with(`fell`, `f\u0000ell`), "/note"},
		"a note that is no UTF-8":                 {with(`fell`, "f\xc3ell"), resttest.AnyPointer},
		"a note that is null":                     {with(`"fell"`, `null`), "/note"},
		"a note that is a list":                   {with(`"fell"`, `["fell"]`), "/note"},
		"errors in several fields, the last":      {`{"sku": "", "delta": 0, "reason": ""}`, "/reason"},
	})
	return bodies
}

func hostileRequests() []resttest.Hostile {
	var all []resttest.Hostile
	add := func(what, method, path, body string, code problem.Code, pointer string, headers ...string) {
		all = append(all, resttest.Hostile{What: what, Method: method, Path: path, Body: body, Headers: headers, Code: code, Pointer: pointer})
	}
	for what, b := range hostileHolds() {
		add(what, "PUT", "/v1/reservations/new", b[0], problem.Invalid, b[1])
	}
	for what, b := range hostileAdjustments() {
		add(what, "PUT", "/v1/adjustments/new", b[0], problem.Invalid, b[1])
	}
	all = append(all, resttest.Writes("PUT", "/v1/reservations/new", holdBody)...)
	all = append(all, resttest.Writes("PUT", "/v1/adjustments/new", adjustBody)...)
	for _, path := range []string{"/v1/reservations/held", "/v1/reservations", "/v1/stock", "/v1/stock/a", "/v1/adjustments/first-a", "/v1/ledger"} {
		all = append(all, resttest.Reads(path)...)
	}

	// Ids and queries.
	for what, name := range resttest.Names() {
		add("an id with "+what, "PUT", "/v1/reservations/"+name, holdBody, problem.Invalid, "path:id")
		add("an id with "+what, "GET", "/v1/reservations/"+name, "", problem.Invalid, "path:id")
		add("an id with "+what, "PUT", "/v1/adjustments/"+name, adjustBody, problem.Invalid, "path:id")
		add("an id with "+what, "GET", "/v1/adjustments/"+name, "", problem.Invalid, "path:id")
		add("a SKU with "+what, "GET", "/v1/stock/"+name, "", problem.Invalid, "path:sku")
	}
	for query, pointer := range resttest.Lists() {
		for _, list := range []string{"/v1/reservations", "/v1/stock", "/v1/ledger"} {
			add("a list with "+query, "GET", list+"?"+query, "", problem.Invalid, pointer)
		}
	}
	for query, pointer := range map[string]string{
		"reservations?state=": "query:state", "reservations?state=Held": "query:state", "reservations?state=lost": "query:state",
		"reservations?state=held&state=none": "query:state", "reservations?sku=a": "query:sku",
		"ledger?sku=": "query:sku", "ledger?sku=a%20b": "query:sku", "ledger?sku=a&sku=b": "query:sku", "ledger?ref=": "query:ref",
		"ledger?ref=%00": "query:ref", "ledger?ref=%ff": "query:ref", "ledger?state=held": "query:state",
		"stock?sku=": "query:sku", "stock?sku=a&sku=b!": "query:sku", "stock?sku=%ff": "query:sku", "stock?SKU=a": "query:SKU",
		"stock?sku=a&limit=1": "query:limit", "stock?cursor=WyJtYWluIiwiYSJd&sku=a": "query:cursor",
		"stock?" + strings.Repeat("sku=a&", 101): "query:sku", "stock?sku=" + strings.Repeat("x", 65): "query:sku",
	} {
		add("a list with "+query, "GET", "/v1/"+query, "", problem.Invalid, pointer)
	}

	// Imports that are refused before their first row.
	csv := func(what, body string, code problem.Code, headers ...string) {
		add("an import of "+what, "POST", "/v1/stock/import", body, code, "", append([]string{"Content-Type", "text/csv"}, headers...)...)
	}
	csv("nothing", "", problem.Invalid)
	csv("empty lines", "\n\r\n\n", problem.Invalid)
	csv("rows without their names", "a,1\n", problem.Invalid)
	csv("rows without SKUs", "name,on_hand\nx,1\n", problem.Invalid)
	csv("rows without quantities", "sku,name\na,x\n", problem.Invalid)
	csv("a column twice", "sku,on_hand,sku\na,1,b\n", problem.Invalid)
	csv("an unknown column", "sku,on_hand,price\na,1,2\n", problem.Invalid)
	csv("a column of another case", "SKU,on_hand\na,1\n", problem.Invalid)
	csv("columns set apart by semicolons", "sku;on_hand\na;1\n", problem.Invalid)
	csv("columns in stray quotes", "s\"ku,on_hand\na,1\n", problem.Invalid)
	csv("columns in an open quote", "\"sku,on_hand\na,1\n", problem.Invalid)
	csv("UTF-16", "\xff\xfes\x00k\x00u\x00,\x00", problem.Invalid)
	csv("a first row without an end", strings.Repeat("x", 2*maxRow), problem.TooLarge)
	csv("a first row with lines without an end", `"`+strings.Repeat("x\n", maxRow), problem.TooLarge)
	csv("a ZIP", "PK\x03\x04"+strings.Repeat("\x00\xff", 40_000), problem.TooLarge)
	csv("JSON", `[{"sku": "a", "on_hand": 1}]`, problem.Invalid)
	csv("Latin-1", "sku,on_hand\na,1\n", problem.UnsupportedMedia, "Content-Type", "text/csv; charset=iso-8859-1")
	csv("compressed rows", "\x1f\x8b", problem.UnsupportedMedia, "Content-Encoding", "gzip")
	for _, media := range []string{"", "application/json", "multipart/form-data; boundary=x", "text/plain", ";"} {
		add("an import of type "+media, "POST", "/v1/stock/import", "sku,on_hand\na,1\n", problem.UnsupportedMedia, "", "Content-Type", media)
	}
	add("an import with a query", "POST", "/v1/stock/import?dry_run=true", "sku,on_hand\na,1\n", problem.Invalid, "query:dry_run", "Content-Type", "text/csv")

	// Paths and methods.
	for _, path := range []string{"/", "/v1", "/v2/stock", "/v1/stock/", "/v1/stock/a/main", "/v1/reservations/held/", "/v1/reservations/held/lines",
		"/v1/reservation/held", "//v1/stock", "/V1/stock", "/metrics", "/v1/stock/../ledger/x/y", "/v1/adjustments", "/debug/pprof/"} {
		add("no such path", "GET", path, "", problem.NotFound, "")
	}
	for _, o := range []string{"DELETE /v1/reservations/held", "POST /v1/reservations", "PUT /v1/reservations", "PATCH /v1/reservations/held", "POST /v1/stock",
		"PUT /v1/stock/a", "DELETE /v1/stock/a", "PUT /v1/stock/import", "POST /v1/ledger", "DELETE /v1/ledger", "DELETE /v1/adjustments/first-a",
		"HEAD /v1/stock", "HEAD /v1/reservations/held", "OPTIONS /v1/stock", "TRACE /v1/stock", "BREW /v1/stock"} {
		method, path, _ := strings.Cut(o, " ")
		add("no such method", method, path, "", problem.MethodNotAllowed, "")
	}
	return all
}

func TestHostileRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	s.ok(t, "PUT", "/v1/reservations/held", holdBody)
	before := s.dump(t)
	all := hostileRequests()
	if len(all) < 60 {
		t.Fatalf("there are only %d requests", len(all))
	}
	for _, h := range all {
		s.Refuse(t, h)
	}
	if after := s.dump(t); after != before {
		t.Errorf("the rows changed from\n%s to\n%s", before, after)
	}
	t.Logf("%d hostile requests", len(all))
}

func addSeeds(f *testing.F, bodies map[string][2]string) {
	for _, b := range bodies {
		if len(b[0]) < 10_000 {
			f.Add([]byte(b[0]))
		}
	}
}

// FuzzPutReservation checks that every body is decided or gets the list of its
// errors.
func FuzzPutReservation(f *testing.F) {
	f.Add([]byte(holdBody))
	f.Add([]byte(`{"seq": 1, "state": "released"}`))
	addSeeds(f, hostileHolds())
	s := startStocked(f)
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		n++
		path := fmt.Sprintf("/v1/reservations/f%d", n)
		r := s.putFuzzed(t, path, b, problem.InsufficientStock, problem.WrongState)
		if r.Status == 200 {
			seq := resttest.Decode[payload.Reservation](t, r).Seq
			s.ok(t, "PUT", path, fmt.Sprintf(`{"seq": %d, "state": "released"}`, seq+1)) // gives the stock back for the next body
		}
	})
}

// FuzzPutAdjustment does the same for adjustments.
func FuzzPutAdjustment(f *testing.F) {
	f.Add([]byte(adjustBody))
	f.Add([]byte(`{"sku": "a", "on_hand": 10, "expected_on_hand": 10, "reason": "counted"}`))
	addSeeds(f, hostileAdjustments())
	s := startStocked(f)
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		n++
		s.putFuzzed(t, fmt.Sprintf("/v1/adjustments/f%d", n), b, problem.BelowReserved, problem.PreconditionFailed)
	})
}

// putFuzzed puts a body. It must succeed, be invalid, or be rejected with one of
// these codes. A repeat must get the same answer.
func (s *service) putFuzzed(t *testing.T, path string, b []byte, rejections ...problem.Code) resttest.Response {
	t.Helper()
	// With this header an empty body has a content type too.
	r := s.Call(t, "PUT", path, string(b), "Content-Type", "application/json")
	rejected := false
	for _, code := range rejections {
		rejected = rejected || r.Problem.Code == code
	}
	switch {
	case r.Status == 200, rejected:
		if again := s.Call(t, "PUT", path, string(b)); again.Body != r.Body {
			t.Errorf("%q: %s, and the repeat got %s", b, r.Body, again.Body)
		}
	case r.Problem.Code == problem.Invalid && len(r.Problem.Errors) > 0, r.Problem.Code == problem.TooLarge:
	default:
		t.Errorf("%q: %d %s", b, r.Status, r.Body)
	}
	return r
}

// FuzzList checks that every query gets a list or the list of its errors.
func FuzzList(f *testing.F) {
	for query := range resttest.Lists() {
		f.Add(query)
	}
	for _, query := range []string{"", "limit=1", "state=held", "sku=a&sku=b", "sku=a&ref=x", "cursor=WzJd", "cursor=WyJtYWluIiwiYSJd", "cursor=WzEsIngiXQ"} {
		f.Add(query)
	}
	s := startStocked(f)
	f.Fuzz(func(t *testing.T, query string) {
		for _, list := range []string{"/v1/reservations", "/v1/stock", "/v1/ledger"} {
			resttest.FuzzQuery(t, s.Client, list, query)
		}
	})
}
