package parity

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"

	"roundtrip/internal/messaging"
	"roundtrip/test/support/schemas"
)

// checkMessages subscribes to every message that crosses a NATS server and
// validates it against contracts/asyncapi/inventory.yaml: every response, and
// every request that was not refused as invalid.
func checkMessages(t *testing.T, url string) {
	t.Helper()
	contract := schemas.Read(t)
	// check validates a "request", "reservation", "levels" or "problem".
	check := func(operation, message string, body []byte) error {
		return contract.Check("asyncapi/inventory.yaml#/channels/"+operation+"/messages/"+message+"/payload", body)
	}
	closed := make(chan struct{})
	connection, err := nats.Connect(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	requests := map[string]*nats.Msg{} // by the inbox of the response
	compared := 0
	if _, err := connection.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if operation, ok := strings.CutPrefix(m.Subject, "inventory.v1."); ok {
			if m.Reply == "" || m.Header.Get("Request-Timeout-Ms") == "" || m.Header.Get(messaging.DeadlineHeader) == "" || m.Header.Get("Request-Attempt") != "1" {
				t.Errorf("%s has the headers %v and the reply subject %q", operation, m.Header, m.Reply)
			}
			requests[m.Reply] = m
			return
		}
		request := requests[m.Subject]
		if request == nil {
			return // the NATS server's own message
		}
		operation := strings.TrimPrefix(request.Subject, "inventory.v1.")
		code := m.Header.Get(messaging.ErrorHeader)
		message := map[string]string{"PutReservation": "reservation", "GetReservation": "reservation", "GetStock": "levels"}[operation]
		if code != "" {
			message = "problem"
			var p struct {
				Code   string
				Status json.Number
			}
			if err := json.Unmarshal(m.Data, &p); err != nil || p.Code != code || p.Status.String() != m.Header.Get(messaging.ErrorCodeHeader) {
				t.Errorf("%s: the headers %v contradict the body %s", operation, m.Header, m.Data)
			}
		}
		if err := check(operation, message, m.Data); err != nil && code != "tomorrow" {
			t.Errorf("%s: response %s: %v", operation, m.Data, err)
		}
		if err := check(operation, "request", request.Data); err != nil && code != "invalid" && code != "too-large" {
			t.Errorf("%s: request %s: %v", operation, request.Data, err)
		}
		compared++
	}); err != nil {
		t.Fatal(err)
	}
	if err := connection.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := connection.Drain(); err != nil {
			t.Fatal(err)
		}
		<-closed // every message has been validated
		mu.Lock()
		defer mu.Unlock()
		if compared == 0 {
			t.Error("no message was validated")
		}
	})
}
