package httpapi

import (
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/resttest"
)

const key = "Idempotency-Key"

// hostileBodies are bodies of a place, each with the pointer of its error.
func hostileBodies() map[string][2]string {
	with := func(old, replacement string) string {
		changed := strings.Replace(body, old, replacement, 1)
		if changed == body {
			panic("not in the body: " + old)
		}
		return changed
	}
	line := func(fields string) string {
		return `{"customer": "c", "currency": "GBP", "lines": [` + fields + `]}`
	}
	many := strings.Repeat(`{"sku": "s", "quantity": 1, "unit_price": 0},`, order.MaxLines+1)
	bodies := resttest.Texts(body)
	maps.Copy(bodies, map[string][2]string{
		"an unknown field":                    {with(`"customer"`, `"coupon": 1, "customer"`), "/coupon"},
		"the id":                              {with(`"customer"`, `"id": "a", "customer"`), "/id"},
		"a field in another case":             {with(`"customer"`, `"Customer"`), "/Customer"},
		"a field twice":                       {with(`"customer"`, `"customer": "1", "customer"`), "/customer"},
		"a line's field twice":                {with(`"quantity"`, `"quantity": 1, "quantity"`), "/lines/0/quantity"},
		"an unknown field of a line":          {with(`"quantity"`, `"discount": 1, "quantity"`), "/lines/0/discount"},
		"no customer":                         {with(`"customer": "17850", `, ``), "/customer"},
		"an empty customer":                   {with(`17850`, ``), "/customer"},
		"a customer that is too long":         {with(`17850`, strings.Repeat("é", order.MaxCustomer+1)), "/customer"},
		"a customer that is null":             {with(`"17850"`, `null`), "/customer"},
		"a customer that is a number":         {with(`"17850"`, `17850`), "/customer"},
		"a customer with NUL":                 {with(`17850`, `17\u0000850`), "/customer"},
		"a customer not in UTF-8":             {with(`17850`, "17\xff850"), resttest.AnyPointer},
		"half a surrogate":                    {with(`17850`, `17\ud800850`), resttest.AnyPointer},
		"a control character":                 {with(`17850`, "17\n850"), resttest.AnyPointer},
		"no currency":                         {with(`"currency": "GBP", `, ``), "/currency"},
		"a currency in lower case":            {with(`GBP`, `gbp`), "/currency"},
		"a currency's sign":                   {with(`GBP`, `£`), "/currency"},
		"a currency with a newline":           {with(`GBP`, `GBP\n`), "/currency"},
		"a hold of 0 seconds":                 {with(`"lines"`, `"hold_seconds": 0, "lines"`), "/hold_seconds"},
		"a hold of negative seconds":          {with(`"lines"`, `"hold_seconds": -1, "lines"`), "/hold_seconds"},
		"a hold of more than a month":         {with(`"lines"`, `"hold_seconds": 2592001, "lines"`), "/hold_seconds"},
		"a hold of half a second":             {with(`"lines"`, `"hold_seconds": 0.5, "lines"`), "/hold_seconds"},
		"a hold that is null":                 {with(`"lines"`, `"hold_seconds": null, "lines"`), "/hold_seconds"},
		"no lines":                            {`{"customer": "c", "currency": "GBP"}`, "/lines"},
		"an empty list of lines":              {line(""), "/lines"},
		"lines that are null":                 {`{"customer": "c", "currency": "GBP", "lines": null}`, "/lines"},
		"lines that are an object":            {`{"customer": "c", "currency": "GBP", "lines": {}}`, "/lines"},
		"too many lines":                      {line(strings.TrimSuffix(many, ",")), "/lines"},
		"a line that is null":                 {line("null"), "/lines/0"},
		"a line that is a number":             {line("7"), "/lines/0"},
		"an empty line":                       {line("{}"), "/lines/0/unit_price"},
		"a line without a SKU":                {line(`{"quantity": 1, "unit_price": 1}`), "/lines/0/sku"},
		"an empty SKU":                        {with(`85123A`, ``), "/lines/0/sku"},
		"a SKU with a space":                  {with(`85123A`, `85123 A`), "/lines/0/sku"},
		"a SKU with a newline":                {with(`85123A`, `85123A\n`), "/lines/0/sku"},
		"a SKU in another alphabet":           {with(`85123A`, `85123А`), "/lines/0/sku"},
		"a SKU that is too long":              {with(`85123A`, strings.Repeat("x", 65)), "/lines/0/sku"},
		"a SKU that is SQL":                   {with(`85123A`, `x'; DROP TABLE orders; --`), "/lines/0/sku"},
		"an empty location":                   {with(`north`, ``), "/lines/1/location"},
		"a location with a slash":             {with(`north`, `north/2`), "/lines/1/location"},
		"a location that is null":             {with(`"north"`, `null`), "/lines/1/location"},
		"no quantity":                         {line(`{"sku": "s", "unit_price": 1}`), "/lines/0/quantity"},
		"a quantity of 0":                     {with(`"quantity": 6`, `"quantity": 0`), "/lines/0/quantity"},
		"a negative quantity":                 {with(`"quantity": 6`, `"quantity": -6`), "/lines/0/quantity"},
		"a quantity above the limit":          {with(`"quantity": 6`, `"quantity": 1000001`), "/lines/0/quantity"},
		"half a unit":                         {with(`"quantity": 6`, `"quantity": 6.5`), "/lines/0/quantity"},
		"a quantity written as a float":       {with(`"quantity": 6`, `"quantity": 6.0`), "/lines/0/quantity"},
		"a quantity with an exponent":         {with(`"quantity": 6`, `"quantity": 6e0`), "/lines/0/quantity"},
		"a quantity beyond int64":             {with(`"quantity": 6`, `"quantity": 9223372036854775808`), "/lines/0/quantity"},
		"a quantity that wraps around":        {with(`"quantity": 6`, `"quantity": 18446744073709551622`), "/lines/0/quantity"},
		"a quantity in quotes":                {with(`"quantity": 6`, `"quantity": "6"`), "/lines/0/quantity"},
		"a quantity with a leading zero":      {with(`"quantity": 6`, `"quantity": 06`), resttest.AnyPointer},
		"a quantity in hex":                   {with(`"quantity": 6`, `"quantity": 0x6`), resttest.AnyPointer},
		"a quantity that is NaN":              {with(`"quantity": 6`, `"quantity": NaN`), resttest.AnyPointer},
		"a quantity that is true":             {with(`"quantity": 6`, `"quantity": true`), "/lines/0/quantity"},
		"no price":                            {line(`{"sku": "s", "quantity": 1}`), "/lines/0/unit_price"},
		"a negative price":                    {with(`255`, `-1`), "/lines/0/unit_price"},
		"a price with pennies":                {with(`255`, `2.55`), "/lines/0/unit_price"},
		"a price above the limit":             {with(`255`, `1000000000001`), "/lines/0/unit_price"},
		"a total beyond int64":                {line(strings.TrimSuffix(strings.Repeat(`{"sku": "s", "quantity": 1000000, "unit_price": 1000000000000},`, 10), ",")), "/lines"},
		"errors in several lines, each named": {line(`{"sku": "s", "quantity": 1, "unit_price": 1}, {"sku": "!", "quantity": 1, "unit_price": 1}, {"sku": "s", "quantity": 0, "unit_price": 1}`), "/lines/2/quantity"},
	})
	return bodies
}

func hostileRequests() []resttest.Hostile {
	var all []resttest.Hostile
	add := func(what, method, path, body string, code problem.Code, pointer string, headers ...string) {
		all = append(all, resttest.Hostile{What: what, Method: method, Path: path, Body: body, Headers: headers, Code: code, Pointer: pointer})
	}
	for what, b := range hostileBodies() {
		add(what, "PUT", "/v1/orders/new", b[0], problem.Invalid, b[1])
		add(what, "POST", "/v1/orders", b[0], problem.Invalid, b[1], key, "new")
	}
	for what, b := range map[string][2]string{
		"a place's body": {body, "/customer"}, "no lines": {"{}", "/lines"}, "an empty list": {`{"lines": []}`, "/lines"},
		"a line without a price": {`{"lines": [{"sku": "s", "quantity": 1}]}`, "/lines/0/unit_price"},
		"a quantity of 0":        {`{"lines": [{"sku": "s", "quantity": 0, "unit_price": 1}]}`, "/lines/0/quantity"},
		"a hold":                 {`{"hold_seconds": 1, "lines": [{"sku": "s", "quantity": 1, "unit_price": 1}]}`, "/hold_seconds"},
		"the bare list":          {`[{"sku": "s", "quantity": 1, "unit_price": 1}]`, ""},
	} {
		add("amend with "+what, "PUT", "/v1/orders/placed/lines", b[0], problem.Invalid, b[1])
	}

	// Content types and sizes.
	all = append(all, resttest.Writes("PUT", "/v1/orders/new", body)...)
	all = append(all, resttest.Writes("PUT", "/v1/orders/placed/lines", otherLines)...)
	add("a form", "POST", "/v1/orders", "customer=c", problem.UnsupportedMedia, "", "Content-Type", "application/x-www-form-urlencoded", key, "new")

	// Ids.
	for what, id := range resttest.Names() {
		add("an id with "+what, "PUT", "/v1/orders/"+id, body, problem.Invalid, "path:id")
		add("an id with "+what, "GET", "/v1/orders/"+id, "", problem.Invalid, "path:id")
		add("an id with "+what, "GET", "/v1/orders/"+id+"/reservation", "", problem.Invalid, "path:id")
		add("an id with "+what, "PUT", "/v1/orders/"+id+"/lines", otherLines, problem.Invalid, "path:id")
		add("an id with "+what, "POST", "/v1/orders/"+id+"/confirm", "", problem.Invalid, "path:id")
		add("an id with "+what, "POST", "/v1/orders/"+id+"/cancel", "", problem.Invalid, "path:id")
	}

	// Headers.
	add("no key", "POST", "/v1/orders", body, problem.Invalid, "header:"+key)
	add("an empty key", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, "")
	add("two keys", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, "a", key, "b")
	add("a key twice", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, "a", key, "a")
	add("a key with a space", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, "a b")
	add("a key with an accent", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, "é")
	add("a key that is too long", "POST", "/v1/orders", body, problem.Invalid, "header:"+key, key, strings.Repeat("x", 256))
	for _, value := range []string{"2", "", "'2'", `"2`, `W/2`, `*, "2"`, "\"\u00e9\" x", `"2" "3"`} {
		add("If-Match "+value, "PUT", "/v1/orders/placed/lines", otherLines, problem.Invalid, "header:If-Match", "If-Match", value)
		add("If-Match "+value, "POST", "/v1/orders/placed/confirm", "", problem.Invalid, "header:If-Match", "If-Match", value)
		add("If-Match "+value, "POST", "/v1/orders/placed/cancel", "", problem.Invalid, "header:If-Match", "If-Match", value)
	}
	for _, path := range []string{"/v1/orders/placed", "/v1/orders/placed/reservation", "/v1/orders", "/v1/availability"} {
		all = append(all, resttest.Reads(path)...)
	}
	for _, value := range resttest.Timeouts() {
		add("a timeout of "+value, "POST", "/v1/orders/placed/cancel", "", problem.Invalid, "header:Request-Timeout-Ms", "Request-Timeout-Ms", value)
	}

	// Queries.
	for query, pointer := range map[string]string{
		"State=placed": "query:State", "state=": "query:state", "state=Placed": "query:state", "state=lost": "query:state",
		"state=placed&state=expired": "query:state", "customer=": "query:customer", "customer=" + strings.Repeat("x", 129): "query:customer",
		"customer=%ff": "query:customer", "customer=%00": "query:customer",
	} {
		add("a list with "+query, "GET", "/v1/orders?"+query, "", problem.Invalid, pointer)
	}
	for query, pointer := range resttest.Lists() {
		add("a list with "+query, "GET", "/v1/orders?"+query, "", problem.Invalid, pointer)
	}
	for query, pointer := range map[string]string{
		"": "query:sku", "sku=": "query:sku", "sku=a&sku=b!": "query:sku", "sku=%ff": "query:sku", "SKU=a": "query:SKU",
		"sku=a&limit=1": "query:limit", strings.Repeat("sku=a&", 101): "query:sku",
	} {
		add("availability with "+query, "GET", "/v1/availability?"+query, "", problem.Invalid, pointer)
	}
	for _, o := range []struct{ method, path, body string }{
		{"POST", "/v1/orders/placed/confirm", ""}, {"POST", "/v1/orders/placed/cancel", ""},
	} {
		add("an unknown query parameter", o.method, o.path+"?dry_run=true", o.body, problem.Invalid, "query:dry_run")
	}
	add("an unknown query parameter", "POST", "/v1/orders?dry_run=true", body, problem.Invalid, "query:dry_run", key, "new")

	// Bodies for operations that take none.
	for _, operation := range []string{"confirm", "cancel"} {
		for _, b := range []string{"{}", "null", " ", body} {
			add(fmt.Sprintf("%s with the body %.9q", operation, b), "POST", "/v1/orders/placed/"+operation, b, problem.Invalid, "")
		}
	}

	// Paths and methods.
	for _, path := range []string{"/", "/v1", "/v2/orders/placed", "/v1/orders/placed/", "/v1/orders/placed/refund", "/v1/order/placed",
		"//v1/orders/placed", "/v1/orders/placed/lines/0", "/V1/orders/placed", "/metrics", "/v1/orders/../orders/placed"} {
		add("no such path", "GET", path, "", problem.NotFound, "")
	}
	for _, o := range []string{"DELETE /v1/orders/placed", "PATCH /v1/orders/placed", "POST /v1/orders/placed", "DELETE /v1/orders",
		"GET /v1/orders/placed/confirm", "PUT /v1/orders/placed/cancel", "POST /v1/orders/placed/lines", "GET /v1/orders/placed/lines",
		"POST /v1/availability", "PUT /v1/orders/placed/reservation", "HEAD /v1/orders/placed", "TRACE /v1/orders", "BREW /v1/orders"} {
		method, path, _ := strings.Cut(o, " ")
		add("no such method", method, path, "", problem.MethodNotAllowed, "")
	}
	return all
}

func TestHostileRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.call(t, "PUT", "/v1/orders/placed", body).want(t, "place", 201, "")
	before, asked := s.dump(t), s.inventory.asked.Load()
	all := hostileRequests()
	if len(all) < 60 {
		t.Fatalf("there are only %d requests", len(all))
	}
	t.Logf("%d hostile requests", len(all))
	for _, h := range all {
		s.Refuse(t, h)
	}
	if after := s.dump(t); after != before {
		t.Errorf("the rows changed from\n%s to\n%s", before, after)
	}
	if n := s.inventory.asked.Load() - asked; n != 0 {
		t.Errorf("inventory was asked %d times", n)
	}
}

// FuzzPlace checks that every body makes an order or gets the list of its errors.
func FuzzPlace(f *testing.F) {
	f.Add([]byte(body))
	for _, b := range hostileBodies() {
		if len(b[0]) < 10_000 {
			f.Add([]byte(b[0]))
		}
	}
	s := start(f)
	n := 0
	f.Fuzz(func(t *testing.T, b []byte) {
		n++
		putFuzzed(t, s, "PUT", fmt.Sprintf("/v1/orders/f%d", n), b)
		putFuzzed(t, s, "PUT", "/v1/orders/none/lines", b)
	})
}

func putFuzzed(t *testing.T, s *service, method, path string, b []byte) {
	t.Helper()
	// With this header an empty body has a content type too.
	r := s.call(t, method, path, string(b), "Content-Type", "application/json")
	switch {
	case r.Status == http.StatusCreated, r.Status == http.StatusNotFound:
	case r.Problem.Code == problem.Invalid && len(r.Problem.Errors) > 0, r.Problem.Code == problem.TooLarge:
	default:
		t.Errorf("%q: %d %s", b, r.Status, r.Body)
	}
}

func FuzzIfMatch(f *testing.F) {
	for _, seed := range []string{`"1"`, `*`, `W/"1"`, `"1", "2"`, `""`, `,`, "\"\xff\"", `"9223372036854775808"`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, value string) {
		p, err := parseIfMatch([]string{value})
		if err != nil && problem.CodeOf(err) != problem.Invalid || err == nil && !p.Given {
			t.Errorf("%q: %+v, %v", value, p, err)
		}
	})
}

// FuzzList checks that every query gets a list or the list of its errors.
func FuzzList(f *testing.F) {
	for query := range resttest.Lists() {
		f.Add(query)
	}
	for _, query := range []string{"", "limit=1", "state=placed", "customer=17850&limit=200", "state=lost", "cursor=WzEsImEiXQ"} {
		f.Add(query)
	}
	s := start(f)
	s.call(f, "PUT", "/v1/orders/placed", body).want(f, "place", 201, "")
	f.Fuzz(func(t *testing.T, query string) { resttest.FuzzQuery(t, s.Client, "/v1/orders", query) })
}
