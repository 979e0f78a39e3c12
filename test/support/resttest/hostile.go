package resttest

import (
	"net/http"
	"strings"
	"testing"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// Hostile is an invalid request that must be refused.
type Hostile struct {
	What, Method, Path, Body string
	Headers                  []string
	// Code is the expected problem. For invalid, Pointer must be among the errors, or
	// AnyPointer accepts any error.
	Code    problem.Code
	Pointer string
}

// AnyPointer matches every pointer.
const AnyPointer = "-"

// Refuse sends a hostile request and checks the refusal.
func (c Client) Refuse(t testing.TB, h Hostile) {
	t.Helper()
	r := c.Call(t, h.Method, h.Path, h.Body, h.Headers...)
	if r.Status != h.Code.HTTPStatus() || h.Method != http.MethodHead && r.Problem.Code != h.Code {
		t.Errorf("%s (%s %.80s): %d %.300s, want %s", h.What, h.Method, h.Path, r.Status, r.Body, h.Code)
		return
	}
	if h.Code == problem.MethodNotAllowed && r.Header.Get("Allow") == "" {
		t.Errorf("%s %s: no Allow header", h.Method, h.Path)
	}
	named := h.Code != problem.Invalid || h.Pointer == AnyPointer && len(r.Problem.Errors) > 0
	for _, e := range r.Problem.Errors {
		named = named || e.Pointer == h.Pointer
	}
	if !named {
		t.Errorf("%s (%s %.80s): %.300s does not name %q", h.What, h.Method, h.Path, r.Body, h.Pointer)
	}
}

// Texts returns invalid bodies made from a valid JSON object, with the pointer of the
// error.
func Texts(good string) map[string][2]string {
	return map[string][2]string{
		"white space":             {" \n", ""},
		"null":                    {"null", ""},
		"an array":                {"[" + good + "]", ""},
		"a string":                {`"good"`, ""},
		"a number":                {"7", ""},
		"only its first half":     {good[:len(good)/2], AnyPointer},
		"an object after it":      {good + "{}", ""},
		"a second value after it": {good + good, ""},
		"an extra comma":          {strings.TrimSuffix(good, "}") + ",}", AnyPointer},
		"single quotes":           {strings.ReplaceAll(good, `"`, `'`), AnyPointer},
		"a comment":               {"// good\n" + good, AnyPointer},
		"a byte order mark":       {"\ufeff" + good, AnyPointer},
		"UTF-16":                  {"\xff\xfe{\x00}\x00", AnyPointer},
		"NUL after it":            {good + "\x00", AnyPointer},
		"NUL as a field name":     {strings.TrimSuffix(good, "}") + `,"\u0000":1}`, AnyPointer},
		"deeply nested arrays":    {strings.Repeat("[", 100_000), AnyPointer},
		"deeply nested objects":   {strings.Repeat(`{"lines":`, 50_000), AnyPointer},
	}
}

// Names returns path segments that are not a valid id, SKU or location.
func Names() map[string]string {
	return map[string]string{
		"65 characters": strings.Repeat("x", 65), "a space": "a%20b", "a slash": "a%2Fb", "NUL": "a%00", "invalid UTF-8": "%ff",
		"a letter with an accent": "%C3%A9", "a line feed": "a%0A", "a percent sign": "%25", "a letter encoded twice": "place%2564",
		"a semicolon": "a;b", "SQL": "x'%20OR%20'1'='1", "a star": "*", "a colon": ":id", "a backslash": "a%5Cb", "dots and a slash": "..%2F..%2Fetc",
	}
}

// Timeouts returns invalid values of Request-Timeout-Ms.
func Timeouts() []string {
	return []string{"0", "-1", "1.5", "2s", "x", "1e3", "+5", "99999999999999999999", "0x10"}
}

// Lists returns invalid queries of a list, with the pointer of the error.
func Lists() map[string]string {
	return map[string]string{
		"x=1": "query:x", "%0Ax=1": "query:\nx", "Limit=1": "query:Limit", "limit=0": "query:limit", "limit=201": "query:limit", "limit=-1": "query:limit",
		"limit=x": "query:limit", "limit=1.0": "query:limit", "limit=": "query:limit", "limit=99999999999999999999": "query:limit",
		"limit=1&limit=2": "query:limit", "cursor=a&cursor=a": "query:cursor", "cursor=x": "query:cursor", "cursor=%00": "query:cursor",
		"cursor=WyJhIl0": "query:cursor", "cursor=bnVsbA": "query:cursor", "cursor=WzEsMl0=": "query:cursor",
		"cursor=W251bGxd": "query:cursor", "cursor=W251bGwsbnVsbF0": "query:cursor", // [null], [null,null]
		"cursor=WzEsIlx1MDAwMCJd": "query:cursor", "cursor=WyIiLCJcdTAwMDAiXQ": "query:cursor", // [1,"\u0000"], ["","\u0000"]
		"cursor=WzEuMF0": "query:cursor", "cursor=WzFlMzA5XQ": "query:cursor", "cursor=WyAxLCAiYSIgXQ": "query:cursor", // [1.0], [1e309], [ 1, "a" ]
		"cursor=Wzk5OTk5OTk5OTk5OTk5OTk5OTk5XQ": "query:cursor", // [99999999999999999999]
		"a=%zz":                                 AnyPointer, "a;b": AnyPointer,
	}
}

// Writes returns invalid variants of a valid request with a JSON body: another content
// type, size, timeout or query.
func Writes(method, path, body string) []Hostile {
	with := func(what string, code problem.Code, body string, headers ...string) Hostile {
		return Hostile{what, method, path, body, headers, code, ""}
	}
	all := []Hostile{
		with("no body", problem.Invalid, "", "Content-Type", "application/json"),
		with("no content type", problem.UnsupportedMedia, body, "Content-Type", ""),
		with("text", problem.UnsupportedMedia, body, "Content-Type", "text/plain"),
		with("a form", problem.UnsupportedMedia, "a=b", "Content-Type", "application/x-www-form-urlencoded"),
		with("another charset", problem.UnsupportedMedia, body, "Content-Type", "application/json; charset=utf-16"),
		with("another kind of JSON", problem.UnsupportedMedia, body, "Content-Type", "application/merge-patch+json"),
		with("an invalid content type", problem.UnsupportedMedia, body, "Content-Type", ";;"),
		with("compressed", problem.UnsupportedMedia, body, "Content-Encoding", "gzip"),
		with("too large", problem.TooLarge, body+strings.Repeat(" ", 1<<20)),
	}
	for _, value := range Timeouts() {
		h := with("a timeout of "+value, problem.Invalid, body, exchange.TimeoutHeader, value)
		h.Pointer = "header:" + exchange.TimeoutHeader
		all = append(all, h)
	}
	h := with("an unknown query parameter", problem.Invalid, body)
	h.Path, h.Pointer = path+"?dry_run=true", "query:dry_run"
	return append(all, h)
}

// Reads returns invalid variants of a valid GET.
func Reads(path string) []Hostile {
	all := []Hostile{
		{"an unknown query parameter", "GET", path + "?dry_run=true", "", nil, problem.Invalid, "query:dry_run"},
		{"a body", "GET", path, "{}", nil, problem.Invalid, ""},
		{"an invalid query", "GET", path + "?%zz", "", nil, problem.Invalid, AnyPointer},
	}
	for _, value := range Timeouts() {
		all = append(all, Hostile{"a timeout of " + value, "GET", path, "", []string{exchange.TimeoutHeader, value}, problem.Invalid, "header:" + exchange.TimeoutHeader})
	}
	return all
}

// FuzzQuery sends any query. The response must be a list, or an invalid problem with
// errors.
func FuzzQuery(t *testing.T, c Client, list, query string) {
	t.Helper()
	if strings.ContainsFunc(query, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
		return // net/http does not send invalid URLs
	}
	r := c.Call(t, http.MethodGet, list+"?"+query, "")
	if r.Status != http.StatusOK && (r.Problem.Code != problem.Invalid || len(r.Problem.Errors) == 0) {
		t.Errorf("%s?%q: %d %s", list, query, r.Status, r.Body)
	}
}
