package restclient_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/problem"
	"roundtrip/internal/restclient"
)

func TestProblemsAreReadTolerantly(t *testing.T) {
	t.Parallel()
	const ours = problem.MediaType
	tests := []struct {
		name, contentType, body, retryAfter string
		status                              int
		code                                problem.Code
		wait                                time.Duration
	}{
		{name: "unknown fields", status: 409, contentType: ours, body: `{"code":"wrong-state","new":{"a":[null]}}`, code: problem.WrongState},
		{name: "parameters", status: 409, contentType: ours + "; charset=utf-8", body: `{"code":"wrong-state"}`, code: problem.WrongState},
		{name: "an unknown code", status: 418, contentType: ours, body: `{"code":"teapot"}`, code: "teapot"},
		{name: "a wait", status: 503, contentType: ours, body: `{"code":"overloaded"}`, retryAfter: "7", code: problem.Overloaded, wait: 7 * time.Second},
		{name: "no wait", status: 503, contentType: ours, body: `{"code":"overloaded"}`, code: problem.Overloaded, wait: time.Second},
		{name: "an invalid wait", status: 503, contentType: ours, body: `{"code":"overloaded"}`, retryAfter: "-1", code: problem.Overloaded, wait: time.Second},
		{name: "a wait out of range", status: 503, contentType: ours, body: `{"code":"overloaded"}`, retryAfter: "99999999999999999999", code: problem.Overloaded, wait: time.Second},
		{name: "a proxy's page", status: 502, contentType: "text/html", body: "<h1>Bad Gateway</h1>", code: problem.Unavailable, wait: time.Second},
		{name: "a proxy's wait", status: 503, contentType: "text/html", retryAfter: "2", code: problem.Unavailable, wait: 2 * time.Second},
		{name: "a gateway's timeout", status: 504, code: problem.DeadlineExceeded},
		{name: "an empty answer", status: 500, code: problem.Internal},
		{name: "another status", status: 302, contentType: "text/html", code: problem.Internal},
		{name: "a problem with the content type of a page", status: 404, contentType: "text/html", body: `{"code":"wrong-state"}`, code: problem.Unavailable, wait: time.Second},
		{name: "another server's problem", status: 403, contentType: ours, body: `{"type":"https://gateway.example/errors/1","code":"wrong-state"}`, code: problem.Forbidden},
		{name: "no code", status: 404, contentType: ours, body: `{"title":"x"}`, code: problem.Unavailable, wait: time.Second},
		{name: "a code that is not a string", status: 404, contentType: ours, body: `{"code":1}`, code: problem.Unavailable, wait: time.Second},
		{name: "cut off", status: 503, contentType: ours, body: `{"code":"overl`, code: problem.Unavailable, wait: time.Second},
		{name: "null", status: 403, contentType: ours, body: `null`, code: problem.Forbidden},
		{name: "deep nesting", status: 503, contentType: ours, body: strings.Repeat("[", 100_000), code: problem.Unavailable, wait: time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			header := http.Header{"Content-Type": {test.contentType}, "Retry-After": {test.retryAfter}}
			p := restclient.Answer{Status: test.status, Header: header, Body: []byte(test.body)}.Problem()
			if wait, _ := p.Wait(); p.Code != test.code || wait != test.wait {
				t.Errorf("got %v, wait %s", p, wait)
			}
			if len(p.Detail) > 100 {
				t.Errorf("the text of another server is passed on: %.200s", p.Detail)
			}
		})
	}
}
