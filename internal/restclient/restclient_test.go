package restclient_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/internal/restclient"
)

// echoes returns a client of a server that answers with the content type and the
// body that it received, and with the status that the path names.
func echoes(t *testing.T) *restclient.Client {
	t.Helper()
	statuses := map[string]int{
		"/ok": http.StatusOK, "/accepted": http.StatusAccepted, "/redirect": http.StatusTemporaryRedirect, "/busy": http.StatusServiceUnavailable,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Location", "/ok")
		w.WriteHeader(statuses[r.URL.Path])
		_, _ = w.Write(append([]byte(r.Header.Get("Content-Type")+" "), body...))
	}))
	t.Cleanup(server.Close)
	client, err := restclient.New(server.URL+"/", restclient.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestSendReturnsEveryAnswer(t *testing.T) {
	t.Parallel()
	client := echoes(t)
	for path, c := range map[string]struct {
		status      int
		code        problem.Code
		unexplained bool
	}{
		"/accepted": {http.StatusAccepted, problem.Internal, true},
		"/redirect": {http.StatusTemporaryRedirect, problem.Internal, true},
		"/busy":     {http.StatusServiceUnavailable, problem.Unavailable, false},
	} {
		answer, err := client.Send(t.Context(), 1, http.MethodPut, path, map[string]int{"a": 1})
		if err != nil || answer.Status != c.status || string(answer.Body) != `application/json {"a":1}` {
			t.Errorf("%s: got %d %s, %v", path, answer.Status, answer.Body, err)
		}
		err = answer.Decode(new(struct{}))
		if problem.CodeOf(err) != c.code || errors.Is(err, restclient.ErrUnexplained) != c.unexplained {
			t.Errorf("%s: decoded as %v", path, err)
		}
	}
}

func TestUploadReturnsTheBodyOfASuccess(t *testing.T) {
	t.Parallel()
	client := echoes(t)
	body, err := client.Upload(t.Context(), http.MethodPost, "/ok", "text/csv", strings.NewReader("sku"))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if text, err := io.ReadAll(body); err != nil || string(text) != "text/csv sku" {
		t.Errorf("got %s, %v", text, err)
	}
	if _, err := client.Upload(t.Context(), http.MethodPost, "/busy", "text/csv", strings.NewReader("sku")); problem.CodeOf(err) != problem.Unavailable {
		t.Errorf("got %v", err)
	}
	if _, err := client.Upload(t.Context(), http.MethodPost, "/redirect", "text/csv", strings.NewReader("sku")); !errors.Is(err, restclient.ErrUnexplained) {
		t.Errorf("got %v", err)
	}
}
