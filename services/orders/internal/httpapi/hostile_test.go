package httpapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// hostile is a request that has to be refused.
type hostile struct {
	what         string
	method, path string
	body         string
	headers      []string
	code         problem.Code
	// pointer is one that the answer's errors have to name; "-" for any.
	pointer string
}

const key = "Idempotency-Key"

// hostileBodies are bodies of a place, and where each is wrong.
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
	return map[string][2]string{
		"white space":                         {" \n", ""},
		"null":                                {"null", ""},
		"an array":                            {"[" + body + "]", ""},
		"a string":                            {`"order"`, ""},
		"a number":                            {"7", ""},
		"half of it":                          {body[:len(body)/2], "-"},
		"something after it":                  {body + "{}", ""},
		"a second value after it":             {body + body, ""},
		"a comma too many":                    {with(`}]}`, `},]}`), "-"},
		"single quotes":                       {strings.ReplaceAll(body, `"`, `'`), "-"},
		"a comment":                           {"// order\n" + body, "-"},
		"a byte order mark":                   {"\ufeff" + body, "-"},
		"an unknown field":                    {with(`"customer"`, `"coupon": 1, "customer"`), "/coupon"},
		"the id":                              {with(`"customer"`, `"id": "a", "customer"`), "/id"},
		"a field of another case":             {with(`"customer"`, `"Customer"`), "/Customer"},
		"a field twice":                       {with(`"customer"`, `"customer": "1", "customer"`), "/customer"},
		"a line's field twice":                {with(`"quantity"`, `"quantity": 1, "quantity"`), "/lines/0/quantity"},
		"an unknown field of a line":          {with(`"quantity"`, `"discount": 1, "quantity"`), "/lines/0/discount"},
		"no customer":                         {with(`"customer": "17850", `, ``), "/customer"},
		"an empty customer":                   {with(`17850`, ``), "/customer"},
		"a customer that is too long":         {with(`17850`, strings.Repeat("é", order.MaxCustomer+1)), "/customer"},
		"a customer that is null":             {with(`"17850"`, `null`), "/customer"},
		"a customer that is a number":         {with(`"17850"`, `17850`), "/customer"},
		"a customer with NUL":                 {with(`17850`, `17\u0000850`), "/customer"},
		"a customer that is no UTF-8":         {with(`17850`, "17\xff850"), "-"},
		"half a surrogate":                    {with(`17850`, `17\ud800850`), "-"},
		"a control character":                 {with(`17850`, "17\n850"), "-"},
		"no currency":                         {with(`"currency": "GBP", `, ``), "/currency"},
		"a currency in lower case":            {with(`GBP`, `gbp`), "/currency"},
		"a currency's sign":                   {with(`GBP`, `£`), "/currency"},
		"a currency and more":                 {with(`GBP`, `GBP\n`), "/currency"},
		"a hold of no time":                   {with(`"lines"`, `"hold_seconds": 0, "lines"`), "/hold_seconds"},
		"a hold of negative time":             {with(`"lines"`, `"hold_seconds": -1, "lines"`), "/hold_seconds"},
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
		"a SKU with a line's end":             {with(`85123A`, `85123A\n`), "/lines/0/sku"},
		"a SKU of another alphabet":           {with(`85123A`, `85123А`), "/lines/0/sku"},
		"a SKU that is too long":              {with(`85123A`, strings.Repeat("x", 65)), "/lines/0/sku"},
		"a SKU that is SQL":                   {with(`85123A`, `x'; DROP TABLE orders; --`), "/lines/0/sku"},
		"an empty location":                   {with(`north`, ``), "/lines/1/location"},
		"a location with a slash":             {with(`north`, `north/2`), "/lines/1/location"},
		"a location that is null":             {with(`"north"`, `null`), "/lines/1/location"},
		"no quantity":                         {line(`{"sku": "s", "unit_price": 1}`), "/lines/0/quantity"},
		"a quantity of 0":                     {with(`"quantity": 6`, `"quantity": 0`), "/lines/0/quantity"},
		"a negative quantity":                 {with(`"quantity": 6`, `"quantity": -6`), "/lines/0/quantity"},
		"a quantity beyond the most":          {with(`"quantity": 6`, `"quantity": 1000001`), "/lines/0/quantity"},
		"half a unit":                         {with(`"quantity": 6`, `"quantity": 6.5`), "/lines/0/quantity"},
		"a quantity written as a float":       {with(`"quantity": 6`, `"quantity": 6.0`), "/lines/0/quantity"},
		"a quantity with an exponent":         {with(`"quantity": 6`, `"quantity": 6e0`), "/lines/0/quantity"},
		"a quantity beyond int64":             {with(`"quantity": 6`, `"quantity": 9223372036854775808`), "/lines/0/quantity"},
		"a quantity that wraps around":        {with(`"quantity": 6`, `"quantity": 18446744073709551622`), "/lines/0/quantity"},
		"a quantity in quotes":                {with(`"quantity": 6`, `"quantity": "6"`), "/lines/0/quantity"},
		"a quantity with a leading zero":      {with(`"quantity": 6`, `"quantity": 06`), "-"},
		"a quantity in hex":                   {with(`"quantity": 6`, `"quantity": 0x6`), "-"},
		"a quantity that is no number":        {with(`"quantity": 6`, `"quantity": NaN`), "-"},
		"a quantity that is true":             {with(`"quantity": 6`, `"quantity": true`), "/lines/0/quantity"},
		"no price":                            {line(`{"sku": "s", "quantity": 1}`), "/lines/0/unit_price"},
		"a negative price":                    {with(`255`, `-1`), "/lines/0/unit_price"},
		"a price with pennies":                {with(`255`, `2.55`), "/lines/0/unit_price"},
		"a price beyond the most":             {with(`255`, `1000000000001`), "/lines/0/unit_price"},
		"a total beyond int64":                {line(strings.TrimSuffix(strings.Repeat(`{"sku": "s", "quantity": 1000000, "unit_price": 1000000000000},`, 10), ",")), "/lines"},
		"a nest without a bottom":             {strings.Repeat("[", 100_000), "-"},
		"objects without a bottom":            {strings.Repeat(`{"lines":`, 50_000), "-"},
		"errors in several lines, each named": {line(`{"sku": "s", "quantity": 1, "unit_price": 1}, {"sku": "!", "quantity": 1, "unit_price": 1}, {"sku": "s", "quantity": 0, "unit_price": 1}`), "/lines/2/quantity"},
	}
}

func hostileRequests() []hostile {
	var all []hostile
	add := func(what, method, path, body string, code problem.Code, pointer string, headers ...string) {
		all = append(all, hostile{what, method, path, body, headers, code, pointer})
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
	add("no body", "PUT", "/v1/orders/new", "", problem.Invalid, "", "Content-Type", "application/json")
	add("no content type", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Type", "")
	add("text", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Type", "text/plain")
	add("a form", "POST", "/v1/orders", "customer=c", problem.UnsupportedMedia, "", "Content-Type", "application/x-www-form-urlencoded", key, "new")
	add("another charset", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Type", "application/json; charset=utf-16")
	add("another kind of JSON", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Type", "application/merge-patch+json")
	add("no content type at all", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Type", ";;")
	add("compressed", "PUT", "/v1/orders/new", body, problem.UnsupportedMedia, "", "Content-Encoding", "gzip")
	add("too large", "PUT", "/v1/orders/new", body+strings.Repeat(" ", 1<<20), problem.TooLarge, "")
	add("too large an amend", "PUT", "/v1/orders/placed/lines", otherLines+strings.Repeat(" ", 1<<20), problem.TooLarge, "")

	// Ids.
	for what, id := range map[string]string{
		"65 characters": strings.Repeat("x", 65), "a space": "a%20b", "a slash": "a%2Fb", "NUL": "a%00", "no UTF-8": "%ff",
		"a letter with an accent": "%C3%A9", "a line's end": "a%0A", "a percent sign": "%25", "a letter encoded twice": "place%2564",
		"a semicolon": "a;b", "SQL": "x'%20OR%20'1'='1", "a star": "*", "a colon": ":id",
	} {
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
	for _, value := range []string{"0", "-1", "1.5", "2s", "x", "1e3", "+5"} {
		add("a timeout of "+value, "PUT", "/v1/orders/new", body, problem.Invalid, "header:Request-Timeout-Ms", "Request-Timeout-Ms", value)
		add("a timeout of "+value, "GET", "/v1/orders/placed", "", problem.Invalid, "header:Request-Timeout-Ms", "Request-Timeout-Ms", value)
	}

	// Queries.
	for query, pointer := range map[string]string{
		"x=1": "query:x", "State=placed": "query:State", "state=": "query:state", "state=Placed": "query:state", "state=lost": "query:state",
		"state=placed&state=expired": "query:state", "customer=": "query:customer", "customer=" + strings.Repeat("x", 129): "query:customer",
		"customer=%ff": "query:customer", "customer=%00": "query:customer", "limit=0": "query:limit", "limit=201": "query:limit",
		"limit=-1": "query:limit", "limit=x": "query:limit", "limit=1.0": "query:limit", "limit=": "query:limit",
		"limit=99999999999999999999": "query:limit", "limit=1&limit=2": "query:limit",
		"cursor=x": "query:cursor", "cursor=WyJhIl0": "query:cursor", "cursor=bnVsbA": "query:cursor", "cursor=WzEsMl0": "query:cursor",
		"cursor=%00": "query:cursor", "a=%zz": "-", "a;b": "-",
	} {
		add("a list with "+query, "GET", "/v1/orders?"+query, "", problem.Invalid, pointer)
	}
	for query, pointer := range map[string]string{
		"": "query:sku", "sku=": "query:sku", "sku=a&sku=b!": "query:sku", "sku=%ff": "query:sku", "SKU=a": "query:SKU",
		"sku=a&limit=1": "query:limit", strings.Repeat("sku=a&", 101): "query:sku",
	} {
		add("availability with "+query, "GET", "/v1/availability?"+query, "", problem.Invalid, pointer)
	}
	for _, o := range []struct{ method, path, body string }{
		{"PUT", "/v1/orders/new", body}, {"GET", "/v1/orders/placed", ""}, {"PUT", "/v1/orders/placed/lines", otherLines},
		{"POST", "/v1/orders/placed/confirm", ""}, {"POST", "/v1/orders/placed/cancel", ""}, {"GET", "/v1/orders/placed/reservation", ""},
	} {
		add("a query that nobody knows", o.method, o.path+"?dry_run=true", o.body, problem.Invalid, "query:dry_run")
	}
	add("a query that nobody knows", "POST", "/v1/orders?dry_run=true", body, problem.Invalid, "query:dry_run", key, "new")

	// Bodies where none is taken.
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
		t.Fatalf("only %d", len(all))
	}
	for _, h := range all {
		r := s.call(t, h.method, h.path, h.body, h.headers...)
		if h.method == http.MethodHead {
			if r.status != 405 {
				t.Errorf("%s %s: %d", h.method, h.path, r.status)
			}
			continue
		}
		if r.problem.Code != h.code {
			t.Errorf("%s (%s %.80s): %d %.300s, want %s", h.what, h.method, h.path, r.status, r.body, h.code)
			continue
		}
		if r.problem.Code == problem.MethodNotAllowed && r.header.Get("Allow") == "" {
			t.Errorf("%s %s: does not say what is allowed", h.method, h.path)
		}
		named := h.pointer == "-" && len(r.problem.Errors) > 0 || h.code != problem.Invalid
		for _, e := range r.problem.Errors {
			named = named || e.Pointer == h.pointer
			if e.Detail == "" || strings.Contains(e.Detail, "Go ") || strings.Contains(e.Detail, "json:") {
				t.Errorf("%s: its error is told as %q", h.what, e.Detail)
			}
		}
		if !named {
			t.Errorf("%s (%s %.80s): %.300s does not name %q", h.what, h.method, h.path, r.body, h.pointer)
		}
	}
	if after := s.dump(t); after != before {
		t.Errorf("they changed\n%s into\n%s", before, after)
	}
	if n := s.inventory.asked.Load() - asked; n != 0 {
		t.Errorf("inventory was asked %d times", n)
	}
}

// FuzzPlace: whatever the body is, it is an order, or told what is wrong with
// it; never a failure of ours.
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
		fuzzed(t, s, "PUT", fmt.Sprintf("/v1/orders/f%d", n), b)
		fuzzed(t, s, "PUT", "/v1/orders/none/lines", b)
	})
}

func fuzzed(t *testing.T, s *service, method, path string, b []byte) {
	t.Helper()
	// One header more, so that an empty body has a content type too.
	r := s.call(t, method, path, string(b), "Content-Type", "application/json")
	switch {
	case r.status == http.StatusCreated, r.status == http.StatusNotFound:
	case r.problem.Code == problem.Invalid && len(r.problem.Errors) > 0, r.problem.Code == problem.TooLarge:
	default:
		t.Errorf("%q: %d %s", b, r.status, r.body)
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
