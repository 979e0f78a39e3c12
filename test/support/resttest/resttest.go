// Package resttest calls a service's REST API for its tests, and asks of every
// answer what has to be true of all of them: it is as the contract says, an error
// is a problem with the status of its code, and nothing of the service's insides
// is told. The requests that both services have to refuse for the same reasons
// are here too.
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

// WantRoutes holds what is served and what is documented against each other.
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
			t.Errorf("served and not documented: %s", s)
		}
	}
	for _, d := range documented {
		if !slices.Contains(served, d) {
			t.Errorf("documented and not served: %s", d)
		}
	}
}

// Client calls a service and holds every exchange to the service's contract.
type Client struct {
	URL      string
	Contract *openapi.Document
}

// Response is what came back.
type Response struct {
	Status int
	Header http.Header
	Body   string
	// Problem is what the body says where the status is an error's.
	Problem problem.Problem
}

// Call makes one request; headers are pairs of a name and a value. A request
// with a body says that it is JSON unless the headers say otherwise. On a busy
// machine an answer may come too late; then it is sent again, as callers do,
// unless the headers name the deadline.
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
	request.Header.Set(exchange.TimeoutHeader, "5000") // the most that is granted
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
		t.Errorf("the contract: %v", err)
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
		t.Errorf("%s %s: a %d of type %q", method, path, r.Status, media)
	}
	if method != http.MethodHead {
		r.Problem = Decode[problem.Problem](t, r)
		r.wantProblem(t, method+" "+path)
	}
	return r
}

// insides are words that only a Go program, its database or its build would say.
var insides = regexp.MustCompile(`Go |json:|jsontext|sql|SQL|goroutine|\.go\b|roundtrip/|runtime error|panic|%!`)

// wantProblem checks what is always true of a problem.
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
			t.Errorf("%s: tells of its insides: %q", what, d)
		}
	}
	if advised := r.Header.Get("Retry-After") != ""; advised != (p.Code.Retry() == problem.After) {
		t.Errorf("%s: %s with Retry-After %q", what, p.Code, r.Header.Get("Retry-After"))
	}
}

// Want checks an answer's status and, where that is an error's, its code.
func (r Response) Want(t testing.TB, what string, status int, code problem.Code) {
	t.Helper()
	if r.Status != status || r.Problem.Code != code {
		t.Errorf("%s: %d %s, want %d %s", what, r.Status, r.Body, status, code)
	}
}

// Decode reads an answer's body.
func Decode[T any](t testing.TB, r Response) (v T) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Body), &v); err != nil {
		t.Errorf("%d %s: %v", r.Status, r.Body, err)
	}
	return v
}
