package parity

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/oasdiff/yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"roundtrip/internal/messaging"
)

// contract is contracts/asyncapi/inventory.yaml.
type contract struct{ compiler *jsonschema.Compiler }

const place = "contract:///asyncapi/inventory.yaml"

func readContract(t *testing.T) contract {
	t.Helper()
	c := contract{jsonschema.NewCompiler()}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	for _, name := range []string{"asyncapi/inventory.yaml", "openapi/inventory.yaml"} {
		text, err := os.ReadFile("../../contracts/" + name)
		if err != nil {
			t.Fatal(err)
		}
		text, err = yaml.YAMLToJSON(text)
		if err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.compiler.AddResource("contract:///"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// check validates a message's body: "request", "reservation", "levels" or "problem".
func (c contract) check(operation, message string, body []byte) error {
	schema, err := c.compiler.Compile(place + "#/channels/" + operation + "/messages/" + message + "/payload")
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// tap listens to all that crosses a NATS server, and holds it against the
// contract: every reply, and every request that was not refused for what it says.
func tap(t *testing.T, url string) {
	t.Helper()
	c := readContract(t)
	closed := make(chan struct{})
	connection, err := nats.Connect(url, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	requests := map[string]*nats.Msg{} // by the inbox that the reply goes to
	compared := 0
	if _, err := connection.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		if operation, ok := strings.CutPrefix(m.Subject, "inventory.v1."); ok {
			if m.Reply == "" || m.Header.Get("Request-Timeout-Ms") == "" || m.Header.Get(messaging.DeadlineHeader) == "" || m.Header.Get("Request-Attempt") != "1" {
				t.Errorf("%s has the headers %v and the reply %q", operation, m.Header, m.Reply)
			}
			requests[m.Reply] = m
			return
		}
		request := requests[m.Subject]
		if request == nil {
			return // the server's own
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
				t.Errorf("%s: the headers %v do not agree with %s", operation, m.Header, m.Data)
			}
		}
		if err := c.check(operation, message, m.Data); err != nil && code != "tomorrow" {
			t.Errorf("%s is answered %s: %v", operation, m.Data, err)
		}
		if err := c.check(operation, "request", request.Data); err != nil && code != "invalid" && code != "too-large" {
			t.Errorf("%s is asked %s: %v", operation, request.Data, err)
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
		<-closed // all that came is compared
		mu.Lock()
		defer mu.Unlock()
		if compared == 0 {
			t.Error("nothing was compared with the contract")
		}
	})
}
