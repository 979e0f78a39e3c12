package openapi

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// violations collects what a transport reports.
type violations struct {
	mu  sync.Mutex
	all []error
}

func (v *violations) add(err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, err)
}

func (v *violations) err() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return errors.Join(v.all...)
}

// answer is a service that gives every request the same answer.
type answer func(*http.Request) (*http.Response, error)

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	// Read the body, as a service does.
	if r.Body != nil {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return nil, err
		}
	}
	return a(r)
}

func respond(status int, header map[string]string, body string) answer {
	return func(*http.Request) (*http.Response, error) {
		w := httptest.NewRecorder()
		for name, value := range header {
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		_, _ = w.WriteString(body) // to memory
		return w.Result(), nil
	}
}

// exchange sends one request through the transport, reads the response to its
// end and returns what was reported.
func exchange(t *testing.T, d *Document, r *http.Request, a answer) error {
	t.Helper()
	var v violations
	client := http.Client{
		Transport:     d.Transport(a, v.add),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return v.err()
}

func request(t *testing.T, method, target, contentType, body string) *http.Request {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://service.example"+target, content)
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	return r
}

// text encodes an example as it is sent: CSV unchanged, anything else as JSON.
func text(t *testing.T, example any) string {
	if s, ok := example.(string); ok {
		return s
	}
	return string(encode(t, example))
}

// Sends every example request of the documents, and answers with every example
// response.
func TestTransportAcceptsDocumentedExamples(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for _, o := range d.Operations() {
			item := d.spec.Paths.Value(o.Path)
			operation := item.GetOperation(o.Method)
			for key, response := range operation.Responses.Map() {
				status, _ := strconv.Atoi(key)
				header := map[string]string{}
				for name, h := range response.Value.Headers {
					header[name] = fmt.Sprint(h.Value.Example)
				}
				for media, content := range response.Value.Content {
					header["Content-Type"] = media
					for name, example := range (body{MediaType: content}).examples() {
						sent := text(t, example)
						if media == mediaNDJSON {
							sent += "\n"
						}
						for _, r := range exampleRequests(t, item, o) {
							if err := exchange(t, d, r, respond(status, header, sent)); err != nil {
								t.Errorf("%s, response %s %s: %v", o.ID, key, name, err)
							}
						}
					}
				}
			}
		}
	})
}

// exampleRequests makes one request from each of an operation's examples.
func exampleRequests(t *testing.T, item *openapi3.PathItem, o Operation) []*http.Request {
	t.Helper()
	operation := item.GetOperation(o.Method)
	target, query, header := o.Path, url.Values{}, http.Header{}
	for _, p := range append(item.Parameters, operation.Parameters...) {
		values, ok := p.Value.Example.([]any)
		if !ok {
			values = []any{p.Value.Example}
		}
		for _, v := range values {
			switch p.Value.In {
			case "path":
				target = strings.Replace(target, "{"+p.Value.Name+"}", url.PathEscape(fmt.Sprint(v)), 1)
			case "query":
				query.Add(p.Value.Name, fmt.Sprint(v))
			case "header":
				header.Add(p.Value.Name, fmt.Sprint(v))
			}
		}
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	var all []*http.Request
	add := func(contentType, body string) {
		r := request(t, o.Method, target, contentType, body)
		for name, values := range header {
			r.Header[http.CanonicalHeaderKey(name)] = values
		}
		all = append(all, r)
	}
	if operation.RequestBody == nil {
		add("", "")
		return all
	}
	for media, content := range operation.RequestBody.Value.Content {
		for _, example := range (body{MediaType: content}).examples() {
			add(media, text(t, example))
		}
	}
	return all
}

const (
	levels  = `{"levels":[{"sku":"a","name":"","location":"main","on_hand":2,"reserved":1,"available":1,"version":1}]}`
	held    = `{"id":"o","seq":1,"state":"held","lines":[{"sku":"a","location":"main","quantity":1}],"expires_at":"2026-11-24T13:15:00.000Z"}`
	ask     = `{"seq":1,"state":"held","lines":[{"sku":"a","quantity":1}]}`
	missing = `{"type":"urn:roundtrip:problem:not-found","title":"t","status":404,"code":"not-found"}`
	busy    = `{"type":"urn:roundtrip:problem:overloaded","title":"t","status":503,"code":"overloaded"}`
	noRoute = `{"type":"urn:roundtrip:problem:method-not-allowed","title":"t","status":405,"code":"method-not-allowed"}`
	wrong   = `{"type":"urn:roundtrip:problem:invalid","title":"t","status":400,"code":"invalid","errors":[{"pointer":"path:id","detail":"d"}]}`
	imports = `{"row":1,"sku":"a","location":"main","outcome":"done"}` + "\n" + `{"rows":1,"done":1,"unchanged":0,"rejected":0}` + "\n"
)

func TestTransportReportsContradictions(t *testing.T) {
	t.Parallel()
	type header = map[string]string
	json := header{"Content-Type": "application/json", "X-Request-Id": "r"}
	problem := header{"Content-Type": "application/problem+json", "X-Request-Id": "r"}
	ndjson := header{"Content-Type": "application/x-ndjson", "X-Request-Id": "r"}
	get := func(target string) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request { return request(t, "GET", target, "", "") }
	}
	send := func(method, target, contentType, body string) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request { return request(t, method, target, contentType, body) }
	}
	with := func(name, value string, r func(*testing.T) *http.Request) func(*testing.T) *http.Request {
		return func(t *testing.T) *http.Request {
			request := r(t)
			request.Header.Set(name, value)
			return request
		}
	}
	change := func(in, old, new string) string { return strings.Replace(in, old, new, 1) }

	for name, test := range map[string]struct {
		request func(*testing.T) *http.Request
		answer  answer
		// want is a part of the report, or "" for no report.
		want string
	}{
		"a valid answer":                {get("/v1/stock/a"), respond(200, json, levels), ""},
		"a content type's parameter":    {get("/v1/stock/a"), respond(200, header{"Content-Type": "application/json; charset=UTF-8", "X-Request-Id": "r"}, levels), ""},
		"an undocumented field":         {get("/v1/stock/a"), respond(200, json, change(levels, `"version"`, `"colour":"red","version"`)), "colour"},
		"a differently cased field":     {get("/v1/stock/a"), respond(200, json, change(levels, `"version"`, `"Version"`)), "version"},
		"a missing field":               {get("/v1/stock/a"), respond(200, json, change(levels, `,"version":1`, ``)), "version"},
		"a field of a wrong type":       {get("/v1/stock/a"), respond(200, json, change(levels, `"on_hand":2`, `"on_hand":"2"`)), "/levels/0/on_hand"},
		"a null":                        {get("/v1/stock?sku=a"), respond(200, json, `{"levels":null}`), "/levels"},
		"a number out of range":         {get("/v1/stock/a"), respond(200, json, change(levels, `"reserved":1`, `"reserved":-1`)), "/levels/0/reserved"},
		"a value that is not listed":    {get("/v1/reservations/o"), respond(200, json, change(held, `"held"`, `"kept"`)), "/state"},
		"a time without milliseconds":   {get("/v1/reservations/o"), respond(200, json, change(held, `.000Z`, `Z`)), "/expires_at"},
		"an impossible date":            {get("/v1/reservations/o"), respond(200, json, change(held, `11-24`, `11-31`)), "/expires_at"},
		"invalid JSON":                  {get("/v1/stock/a"), respond(200, json, `<html>`), "not JSON"},
		"two values":                    {get("/v1/stock/a"), respond(200, json, levels+levels), "not JSON"},
		"no body":                       {get("/v1/stock/a"), respond(200, json, ``), "not JSON"},
		"a wrong content type":          {get("/v1/stock/a"), respond(200, header{"Content-Type": "text/plain", "X-Request-Id": "r"}, levels), "content type"},
		"no content type":               {get("/v1/stock/a"), respond(200, header{"Content-Type": "", "X-Request-Id": "r"}, levels), "content type"},
		"an undocumented status":        {get("/v1/stock/a"), respond(201, json, levels), "status is not documented"},
		"a redirect":                    {get("/v1/stock/a"), respond(301, json, levels), "status is not documented"},
		"a missing header":              {get("/v1/stock/a"), respond(200, header{"Content-Type": "application/json"}, levels), "X-Request-Id"},
		"an invalid header":             {get("/v1/stock/a"), respond(200, header{"Content-Type": "application/json", "X-Request-Id": "a b"}, levels), "X-Request-Id"},
		"a valid problem":               {get("/v1/stock/a"), respond(404, problem, missing), ""},
		"a problem as plain JSON":       {get("/v1/stock/a"), respond(404, json, missing), "content type"},
		"a wrong status in a problem":   {get("/v1/stock/a"), respond(404, problem, change(missing, `404`, `400`)), "/status"},
		"a wrong code for the status":   {get("/v1/stock/a"), respond(404, problem, strings.ReplaceAll(missing, `not-found`, `wrong-state`)), "/code"},
		"a code that is not listed":     {get("/v1/stock/a"), respond(404, problem, strings.ReplaceAll(missing, `not-found`, `gone`)), "/code"},
		"a wrong type for the code":     {get("/v1/stock/a"), respond(404, problem, change(missing, `problem:not-found`, `problem:invalid`)), "/type"},
		"an inner error in a problem":   {get("/v1/stock/a"), respond(404, problem, change(missing, `"title"`, `"cause":"sql: no rows","title"`)), "cause"},
		"a problem without Retry-After": {get("/v1/stock/a"), respond(503, problem, busy), "Retry-After"},
		"a Retry-After of 0": {get("/v1/stock/a"), respond(503, header{"Content-Type": "application/problem+json", "X-Request-Id": "r", "Retry-After": "0"}, busy),
			"Retry-After"},
		"a problem of another operation": {get("/v1/stock"), respond(404, problem, missing), "status is not documented"},

		"a path that does not exist":         {get("/v2/stock"), respond(404, problem, missing), ""},
		"a path with a trailing slash":       {get("/v1/stock/"), respond(404, problem, missing), ""},
		"an invalid id, refused":             {get("/v1/reservations/a%2Fb"), respond(400, problem, wrong), ""},
		"a path that does not exist, served": {get("/v2/stock"), respond(200, json, levels), "status is not documented"},
		"a path that does not exist, failed": {get("/v2/stock"), respond(500, problem, missing), "status is not documented"},
		"an HTML page for an unknown path":   {get("/v2/stock"), respond(404, header{"Content-Type": "text/html", "X-Request-Id": "r"}, "<html>"), "content type"},
		"a method that does not exist": {send("DELETE", "/v1/stock", "", ""),
			respond(405, header{"Content-Type": "application/problem+json", "X-Request-Id": "r", "Allow": "GET"}, noRoute), ""},
		"a method that does not exist, without Allow": {send("DELETE", "/v1/stock", "", ""), respond(405, problem, noRoute), "Allow"},
		"a method that a longer path has": {send("PUT", "/v1/reservations", "", ""),
			respond(405, header{"Content-Type": "application/problem+json", "X-Request-Id": "r", "Allow": "GET"}, noRoute), ""},
		"HEAD":                {send("HEAD", "/v1/stock", "", ""), respond(405, header{"X-Request-Id": "r", "Allow": "GET"}, ""), ""},
		"HEAD, served":        {send("HEAD", "/v1/stock", "", ""), respond(200, json, ""), "status is not documented"},
		"a SKU called import": {get("/v1/stock/import"), respond(200, json, levels), ""},

		"a valid request":                      {send("PUT", "/v1/reservations/o", "application/json", ask), respond(200, json, held), ""},
		"a bad body, refused":                  {send("PUT", "/v1/reservations/o", "application/json", `{"seq":0}`), respond(400, problem, wrong), ""},
		"a bad body, accepted":                 {send("PUT", "/v1/reservations/o", "application/json", change(ask, `:1,`, `:0,`)), respond(200, json, held), "/seq"},
		"an unknown field, accepted":           {send("PUT", "/v1/reservations/o", "application/json", change(ask, `{`, `{"colour":"red",`)), respond(200, json, held), "colour"},
		"a forbidden field, accepted":          {send("PUT", "/v1/reservations/o", "application/json", change(ask, `held`, `released`)), respond(200, json, held), "not"},
		"no body, accepted":                    {send("PUT", "/v1/reservations/o", "application/json", ""), respond(200, json, held), "not JSON"},
		"a wrong content type, accepted":       {send("PUT", "/v1/reservations/o", "text/plain", ask), respond(200, json, held), "content type"},
		"a body where none is taken, accepted": {send("GET", "/v1/stock/a", "application/json", "{}"), respond(200, json, levels), "takes no body"},
		"a bad id, accepted":                   {get("/v1/stock/a%20b"), respond(200, json, levels), "sku"},
		"an escaped id":                        {get("/v1/stock/%61"), respond(200, json, levels), ""},
		"a bad query, accepted":                {get("/v1/stock?limit=201"), respond(200, json, levels), "limit"},
		"a bad query, refused":                 {get("/v1/stock?limit=201"), respond(400, problem, wrong), ""},
		"an unknown query, accepted":           {get("/v1/stock?colour=red"), respond(200, json, levels), "colour"},
		"a repeated query, accepted":           {get("/v1/stock?limit=1&limit=2"), respond(200, json, levels), "repeated"},
		"a query that may be repeated":         {get("/v1/stock?sku=a&sku=b"), respond(200, json, levels), ""},
		"a bad SKU among others, accepted":     {get("/v1/stock?sku=a&sku=b%20c"), respond(200, json, levels), "sku"},
		"a bad header, accepted":               {with("Request-Timeout-Ms", "soon", get("/v1/stock")), respond(200, json, levels), "Request-Timeout-Ms"},
		"a deadline beyond the cap":            {with("Request-Timeout-Ms", "86400000", get("/v1/stock")), respond(200, json, levels), ""},
		"an invalid request id":                {with("X-Request-Id", "a b", get("/v1/stock")), respond(200, json, levels), ""},

		"a valid stream":                   {send("POST", "/v1/stock/import", "text/csv", "sku,on_hand\na,1\n"), respond(200, ndjson, imports), ""},
		"a bad row in a valid request":     {send("POST", "/v1/stock/import", "application/x-ndjson", "{}\n"), respond(200, ndjson, imports), ""},
		"a stream of another content type": {send("POST", "/v1/stock/import", "application/json", "{}\n"), respond(200, ndjson, imports), "content type"},
		"a bad line": {send("POST", "/v1/stock/import", "text/csv", "sku,on_hand\na,1\n"),
			respond(200, ndjson, change(imports, `"done"`, `"perhaps"`)), "/outcome"},
		"a line that is cut off": {send("POST", "/v1/stock/import", "text/csv", "sku,on_hand\na,1\n"),
			respond(200, ndjson, strings.TrimSuffix(imports, "}\n")), "in the middle of a line"},
		"an import report as plain JSON": {send("POST", "/v1/stock/import", "text/csv", "sku,on_hand\na,1\n"), respond(200, json, imports), "content type"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := exchange(t, Inventory(), test.request(t), test.answer)
			switch {
			case test.want == "" && err != nil:
				t.Errorf("reported %v, want no report", err)
			case test.want != "" && err == nil:
				t.Errorf("no report, want one with %q", test.want)
			case test.want != "" && !strings.Contains(err.Error(), test.want):
				t.Errorf("reported %v, want a report with %q", err, test.want)
			}
		})
	}
}

func TestTransportReportsAnUnsettledAnswerWithoutItsHeaders(t *testing.T) {
	t.Parallel()
	example := Orders().spec.Components.Examples["order-pending"].Value.Value
	for missing := range map[string]bool{"ETag": true, "Location": true, "Retry-After": true} {
		header := map[string]string{"Content-Type": "application/json", "X-Request-Id": "r", "ETag": `"1"`, "Location": "/v1/orders/o", "Retry-After": "1"}
		delete(header, missing)
		r := request(t, "POST", "/v1/orders", "application/json", `{"customer":"c","currency":"GBP","lines":[{"sku":"a","quantity":1,"unit_price":1}]}`)
		r.Header.Set("Idempotency-Key", "k")
		if err := exchange(t, Orders(), r, respond(202, header, text(t, example))); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: reported %v", missing, err)
		}
	}
}

// A request and its response are the same with the transport as without it.
func TestTransportChangesNothing(t *testing.T) {
	t.Parallel()
	var got []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Request-Id", "r")
		_, _ = io.WriteString(w, held) // the client reads it
	}))
	defer server.Close()
	var v violations
	client := http.Client{Transport: Inventory().Transport(server.Client().Transport, v.add)}
	for _, content := range []io.Reader{strings.NewReader(ask), io.MultiReader(strings.NewReader(ask))} { // with a length, and chunked
		r, err := http.NewRequestWithContext(t.Context(), "PUT", server.URL+"/v1/reservations/o", content)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || string(answer) != held || string(got) != ask || r.URL.RawQuery != "" || len(r.Header) != 1 {
			t.Errorf("sent %s, received %s (%v); the request is now %v %v", got, answer, err, r.URL, r.Header)
		}
	}
	if err := v.err(); err != nil {
		t.Error(err)
	}
}

// net/http sends a body again if a kept connection turns out to be closed.
func TestTransportValidatesABodyThatIsSentTwice(t *testing.T) {
	t.Parallel()
	twice := answer(func(r *http.Request) (*http.Response, error) {
		again, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		if body, err := io.ReadAll(again); string(body) != ask {
			return nil, fmt.Errorf("the second body was %s (%w)", body, err)
		}
		return respond(200, map[string]string{"Content-Type": "application/json", "X-Request-Id": "r"}, held)(r)
	})
	if err := exchange(t, Inventory(), request(t, "PUT", "/v1/reservations/o", "application/json", ask), twice); err != nil {
		t.Error(err)
	}
}

func TestTransportReturnsConnectionErrors(t *testing.T) {
	t.Parallel()
	gone := errors.New("connection reset")
	var v violations
	client := http.Client{Transport: Inventory().Transport(answer(func(*http.Request) (*http.Response, error) {
		response, _ := respond(200, map[string]string{"Content-Type": "application/json", "X-Request-Id": "r"}, "")(nil)
		response.Body = io.NopCloser(io.MultiReader(strings.NewReader(levels[:9]), broken{gone}))
		return response, nil
	}), v.add)}
	response, err := client.Do(request(t, "GET", "/v1/stock/a", "", ""))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); string(body) != levels[:9] || !errors.Is(err, gone) {
		t.Errorf("read %s, %v", body, err)
	}

	client.Transport = Inventory().Transport(answer(func(*http.Request) (*http.Response, error) { return nil, gone }), v.add)
	if _, err := client.Do(request(t, "GET", "/v1/stock/a", "", "")); !errors.Is(err, gone) { //nolint:bodyclose // An error comes without a body.
		t.Errorf("the error was %v", err)
	}
	if err := v.err(); err != nil {
		t.Errorf("a fault of the connection was reported: %v", err)
	}
}

// The client reads the report while it still sends rows. The transport delays
// neither direction.
func TestTransportDoesNotDelayStreams(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if err := control.EnableFullDuplex(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.Header().Set("X-Request-Id", "r")
		rows := bufio.NewScanner(r.Body)
		for n := 1; rows.Scan(); n++ {
			fmt.Fprintf(w, `{"row":%d,"sku":"a","location":"main","outcome":"done"}`+"\n", n)
			_ = control.Flush()
		}
		_, _ = io.WriteString(w, `{"rows":2,"done":2,"unchanged":0,"rejected":0,"skipped":0}`+"\n")
	}))
	defer server.Close()
	var v violations
	client := http.Client{Transport: Inventory().Transport(server.Client().Transport, v.add)}

	rows, send := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/v1/stock/import", rows)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-ndjson")
	go func() { _, _ = io.WriteString(send, `{"sku":"a","on_hand":1}`+"\n") }()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	report := bufio.NewScanner(response.Body)
	if !report.Scan() {
		t.Fatal("the first row was not reported before the second was sent")
	}
	if err := v.err(); err != nil {
		t.Error(err)
	}
	_, _ = io.WriteString(send, `{"sku":"a","on_hand":2}`+"\n")
	send.Close()
	lines := 1
	for report.Scan() {
		lines++
	}
	if lines != 3 {
		t.Errorf("read %d lines", lines)
	}
	if err := v.err(); err == nil || !strings.Contains(err.Error(), "skipped") {
		t.Errorf("the undocumented field in the last line: reported %v", err)
	}
}
