package main

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The check passes only if inventory itself rejects the order. test/charts tests that a
// real pair of services does so, on each wire.
func TestCheckAcceptsOnlyInventorysRejection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status     int
		body, says string
	}{
		"rejected":        {http.StatusConflict, `{"code": "insufficient-stock", "detail": "There is not enough."}`, ""},
		"placed":          {http.StatusCreated, `{"state": "placed"}`, "the answer is 201"},
		"unsettled":       {http.StatusAccepted, `{"state": "pending"}`, "has no answer from inventory"},
		"another problem": {http.StatusConflict, `{"code": "wrong-state", "detail": "It is cancelled."}`, "wrong-state"},
		"a proxy's page":  {http.StatusBadGateway, `<html>`, "the answer is 502"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if id := strings.TrimPrefix(r.URL.Path, "/v1/orders/check-"); r.Method != http.MethodPut || !strings.Contains(string(body), id) {
					t.Errorf("the check sent %s %s %s", r.Method, r.URL, body)
				}
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			t.Cleanup(server.Close)
			err := checkCommand{URL: server.URL + "/"}.Run(t.Context())
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want %q", err, c.says)
			}
		})
	}
	if err := (checkCommand{URL: "http://127.0.0.1:1"}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("without a server: %v", err)
	}
}
