// Package resttest calls a service's REST API in tests and checks what must be true
// of every response: it fits the contract, an error is a problem with the status of
// its code, and no internals leak. It also has the invalid requests that both
// services must refuse.
package resttest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/internal/rest"
)

// WantRoutes compares the served routes with the documented ones.
func WantRoutes(t *testing.T, routes []rest.Route, contract *openapi.Document) {
	t.Helper()
	parameter := regexp.MustCompile(`:(\w+)`)
	var served, documented []string
	for _, r := range routes {
		served = append(served, fmt.Sprintf("%s %s %s", r.Method, parameter.ReplaceAllString(r.Path, "{$1}"), r.Operation))
	}
	for _, o := range contract.Operations() {
		documented = append(documented, fmt.Sprintf("%s %s %s", o.Method, o.Path, o.ID))
	}
	for _, s := range served {
		if !slices.Contains(documented, s) {
			t.Errorf("served but not documented: %s", s)
		}
	}
	for _, d := range documented {
		if !slices.Contains(served, d) {
			t.Errorf("documented but not served: %s", d)
		}
	}
}

// Client calls a service and validates every exchange against the contract.
type Client struct {
	URL      string
	Contract *openapi.Document
}

// Response is a response.
type Response struct {
	Status int
	Header http.Header
	Body   string
	// Problem is the decoded body of an error response.
	Problem problem.Problem
}

// Call sends one request. Headers are alternating names and values. The default
// content type of a body is JSON. After a 504, which a busy machine may cause, it
// retries, unless the headers set the timeout.
func (c Client) Call(t testing.TB, method, path, body string, headers ...string) Response {
	t.Helper()
	r := c.send(t, method, path, body, headers)
	for tries := 1; tries < 20 && r.Status == http.StatusGatewayTimeout && !slices.Contains(headers, exchange.TimeoutHeader); tries++ {
		r = c.send(t, method, path, body, headers)
	}
	return r
}

func (c Client) send(t testing.TB, method, path, body string, headers []string) Response {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, c.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set(exchange.TimeoutHeader, "5000") // the maximum
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == exchange.TimeoutHeader || headers[i] == "Content-Type" {
			request.Header.Del(headers[i])
		}
		if headers[i+1] != "" || headers[i] != "Content-Type" {
			request.Header.Add(headers[i], headers[i+1])
		}
	}
	transport := c.Contract.Transport(http.DefaultTransport, func(err error) {
		t.Helper()
		t.Errorf("contract: %v", err)
	})
	got, err := transport.RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Body.Close()
	text, err := io.ReadAll(got.Body)
	if err != nil {
		t.Fatal(err)
	}
	r := Response{Status: got.StatusCode, Header: got.Header, Body: string(text)}
	if r.Status < 400 {
		return r
	}
	if media := r.Header.Get("Content-Type"); media != problem.MediaType {
		t.Errorf("%s %s: %d with the content type %q", method, path, r.Status, media)
	}
	if method != http.MethodHead {
		r.Problem = Decode[problem.Problem](t, r)
		r.wantProblem(t, method+" "+path)
	}
	return r
}

// insides matches words that reveal the internals of a Go program, its database or
// its build.
var insides = regexp.MustCompile(`Go |json:|jsontext|sql|SQL|goroutine|\.go\b|roundtrip/|runtime error|panic|%!`)

// wantProblem checks what is true of every problem.
func (r Response) wantProblem(t testing.TB, what string) {
	t.Helper()
	p := r.Problem
	if !p.Code.Known() || p.Code.HTTPStatus() != r.Status {
		t.Errorf("%s: %d with %s", what, r.Status, r.Body)
	}
	details := []string{p.Detail}
	for _, e := range p.Errors {
		details = append(details, e.Detail)
	}
	for _, d := range details {
		if insides.MatchString(d) {
			t.Errorf("%s: leaks internals: %q", what, d)
		}
	}
	if advised := r.Header.Get("Retry-After") != ""; advised != (p.Code.Retry() == problem.After) {
		t.Errorf("%s: %s with Retry-After %q", what, p.Code, r.Header.Get("Retry-After"))
	}
}

// Want checks a response's status and, for an error, its code.
func (r Response) Want(t testing.TB, what string, status int, code problem.Code) {
	t.Helper()
	if r.Status != status || r.Problem.Code != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.Status, r.Body, status, code)
	}
}

// Decode decodes a response's body.
func Decode[T any](t testing.TB, r Response) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
		t.Errorf("%d %s: %v", r.Status, r.Body, err)
	}
	return v
}
