package rest

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/labstack/echo/v4"

	"roundtrip/internal/exchange"
)

func TestBodiesUpToTheLimitAreAccepted(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodPut, "/", "Put", decodes)
		s.Handle(http.MethodPost, "/", "Post", func(c echo.Context) error { return errors.Join(NoBody(c), ok(c)) })
	})
	for _, contentType := range []string{"application/json", "Application/JSON; Charset=UTF-8"} {
		body := good + strings.Repeat(" ", MaxBody-len(good))
		if response, answer := s.do(t, "PUT", "/", body, "Content-Type", contentType); response.StatusCode != http.StatusOK || answer != good {
			t.Errorf("%s: got %d %.200s", contentType, response.StatusCode, answer)
		}
	}
	if response, answer := s.do(t, "POST", "/", ""); response.StatusCode != http.StatusNoContent {
		t.Errorf("without a body: got %d %s", response.StatusCode, answer)
	}
}

// The server waits for the rest of a too large body only until the deadline.
func TestTooLargeBodyClosesTheConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := serveInMemory(t, options{}, func(s *Server) { s.Handle(http.MethodPut, "/", "Put", decodes) })
		began := time.Now()
		answer := s.raw(t, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"+
			fmt.Sprintf("%x\r\n", 2*MaxBody)+strings.Repeat(" ", MaxBody+1))
		if !strings.HasPrefix(answer, "HTTP/1.1 413 ") || !strings.Contains(answer, "Connection: close") {
			t.Errorf("got %s", answer)
		}
		if took := time.Since(began); took > exchange.DefaultTimeout+time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestMalformedChunksAreInvalid(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodPut, "/", "Put", decodes) })
	answer := s.raw(t, "PUT / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"+
		"Connection: close\r\n\r\nzz\r\n{}\r\n")
	if !strings.HasPrefix(answer, "HTTP/1.1 400 ") || !strings.Contains(answer, `"code":"invalid"`) {
		t.Errorf("got %s", answer)
	}
}

func TestIDsAreDecodedOnce(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) {
		s.Handle(http.MethodGet, "/things/:id", "GetThing", func(c echo.Context) error { return c.String(http.StatusOK, ID(c, "id")) })
	})
	for path, want := range map[string]string{
		"a": "a", "%61": "a", "a%2Fb": "a/b", "%2561": "%61", "%25": "%", "a%2F%2561": "a/%61", "a+b": "a+b", "%C3%A9": "é", "%00": "\x00",
	} {
		if response, body := s.do(t, "GET", "/things/"+path, ""); response.StatusCode != http.StatusOK || body != want {
			t.Errorf("%s: got %d %q, want %q", path, response.StatusCode, body, want)
		}
	}
}

func TestMalformedHTTPIsRefused(t *testing.T) {
	t.Parallel()
	s := serve(t, options{}, func(s *Server) { s.Handle(http.MethodGet, "/", "Get", ok) })
	for name, request := range map[string]string{
		"not HTTP":          "\x16\x03\x01\r\n\r\n",
		"no host":           "GET / HTTP/1.1\r\n\r\n",
		"two lengths":       "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
		"a bad header":      "GET / HTTP/1.1\r\nHost: x\r\nA B: c\r\n\r\n",
		"headers too large": "GET / HTTP/1.1\r\nHost: x\r\nA: " + strings.Repeat("a", 2*maxHeaderBytes) + "\r\n\r\n",
	} {
		answer, err := http.ReadResponse(bufio.NewReader(strings.NewReader(s.raw(t, request))), nil)
		if err != nil || answer.StatusCode < 400 || answer.StatusCode > 499 {
			t.Errorf("%s: got %+v, %v", name, answer, err)
		}
		if err == nil {
			_ = answer.Body.Close()
		}
	}
}
