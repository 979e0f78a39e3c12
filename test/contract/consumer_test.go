//go:build contract

package contract

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/pact-foundation/pact-go/v2/consumer"
	"github.com/pact-foundation/pact-go/v2/matchers"
	pactmessage "github.com/pact-foundation/pact-go/v2/message/v4"
	"github.com/pact-foundation/pact-go/v2/models"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/orderstest"
)

// TestOrdersReliesOnWhatThePactSays makes orders' client send every request of the
// table, on every wire. This writes a pact, which must equal the committed one.
func TestOrdersReliesOnWhatThePactSays(t *testing.T) {
	s := startConsumer(t)
	folder := t.TempDir() // Pact merges pacts into existing files
	for _, wire := range Wires {
		for _, i := range Interactions(wire) {
			if err := s.consume(t, folder, wire, i, nil); err != nil {
				t.Errorf("%s: %v", i.Description(wire), err)
			}
		}
	}
	if t.Failed() {
		return
	}
	written, err := os.ReadFile(filepath.Join(folder, "orders-inventory.json"))
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(committed, written, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := equalsCommitted(written); err != nil {
		t.Errorf("%v\nIf orders now relies on something else, run make pacts.", err)
	}
}

// equalsCommitted compares a pact with the committed one.
func equalsCommitted(written []byte) error {
	has, err := os.ReadFile(committed)
	if err != nil {
		return err
	}
	var got, want any
	if err := errors.Join(json.Unmarshal(written, &got), json.Unmarshal(has, &want)); err != nil {
		return err
	}
	if !reflect.DeepEqual(got, want) {
		return errors.New("the pact that this test writes differs from the committed one, " + filepath.Base(committed))
	}
	return nil
}

// consumerTest has the NATS server that orders' client connects to.
type consumerTest struct {
	broker     string
	connection *nats.Conn
}

func connect(t *testing.T, broker string) *nats.Conn {
	t.Helper()
	c, err := nats.Connect(broker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func startConsumer(t *testing.T) *consumerTest {
	t.Helper()
	broker := startNATS(t)
	return &consumerTest{broker, connect(t, broker)}
}

// consume makes orders send one request. The error says how the request, or what
// orders read from the response, differs from the interaction. The change mutates
// the traffic.
func (s *consumerTest) consume(t *testing.T, folder, wire string, i Interaction, c *change) error {
	e := i.on(wire)
	if wire == "http" {
		return s.consumeHTTP(t, folder, i, e, c)
	}
	pact, err := pactmessage.NewSynchronousPact(pactmessage.Config{Consumer: Consumer, Provider: Provider, PactDir: folder})
	if err != nil {
		return err
	}
	interaction := pact.AddSynchronousMessage(i.Description(wire))
	for _, state := range i.States {
		interaction = interaction.GivenWithParameter(models.ProviderState{Name: state.Name, Parameters: state.Parameters})
	}
	return interaction.
		WithRequest(func(b *pactmessage.SynchronousMessageWithRequestBuilder) {
			b.WithMetadata(texts(e.request.metadata)).WithJSONContent(e.request.body)
		}).
		WithResponse(func(b *pactmessage.SynchronousMessageWithResponseBuilder) {
			b.WithJSONContent(e.response.body).WithMetadata(texts(e.response.metadata)) // in the other order Pact loses the metadata
		}).
		ExecuteTest(t, func(m pactmessage.SynchronousMessage) error {
			if len(m.Response) != 1 {
				return fmt.Errorf("the pact has %d responses, want 1", len(m.Response))
			}
			wanted, err := decode(m.Request.Contents)
			if err != nil {
				return err
			}
			var sent error
			arrived := 0
			response := func(request *traffic) *traffic {
				arrived++
				c.changeRequest(request)
				sent = errors.Join(sent, e.differs(request, wanted))
				reply := &traffic{wire: wire, headers: map[string]string{}}
				for name, value := range e.response.metadata {
					reply.headers[name] = fmt.Sprint(example(value))
				}
				reply.status = reply.headers[statusKey]
				if reply.body, err = decode(m.Response[0].Contents); err != nil {
					sent = errors.Join(sent, err)
				}
				c.changeResponse(request, reply)
				return reply
			}
			var stop func()
			url := s.broker
			if wire == "grpc" {
				url, stop = serveGRPC(t, response)
			} else {
				stop = serveNATS(t, s.connection, response)
			}
			seen := i.call(t, wire, url)
			stop()
			if arrived != 1 {
				seen = errors.Join(seen, fmt.Errorf("orders sent %d requests, want 1", arrived))
			}
			return errors.Join(sent, seen)
		})
}

// consumeHTTP is consume for HTTP. It uses Pact's own server.
func (s *consumerTest) consumeHTTP(t *testing.T, folder string, i Interaction, e onWire, c *change) error {
	pact, err := consumer.NewV4Pact(consumer.MockHTTPProviderConfig{Consumer: Consumer, Provider: Provider, PactDir: folder, LogDir: folder, Host: "127.0.0.1"})
	if err != nil {
		return err
	}
	interaction := pact.AddInteraction().UponReceiving(i.Description("http"))
	for _, state := range i.States {
		interaction = interaction.GivenWithParameter(models.ProviderState{Name: state.Name, Parameters: state.Parameters})
	}
	return interaction.
		WithRequest(consumer.Method(e.method), e.path, func(b *consumer.V4RequestBuilder) {
			for name, value := range e.request.metadata {
				b.Header(name, value)
			}
			for name, values := range e.query {
				var all []matchers.Matcher
				for _, value := range values {
					all = append(all, matchers.S(value))
				}
				b.Query(name, all...)
			}
			if e.request.body != nil {
				b.JSONBody(e.request.body)
			}
		}).
		WillRespondWith(e.status, func(b *consumer.V4ResponseBuilder) {
			for name, value := range e.response.metadata {
				b.Header(name, value)
			}
			b.JSONBody(e.response.body)
		}).
		ExecuteTest(t, func(config consumer.MockServerConfig) error {
			url := fmt.Sprintf("http://%s:%d", config.Host, config.Port)
			if c != nil {
				url, _ = httpProxy(t, url, c)
			}
			return i.call(t, "http", url)
		})
}

// differs returns how a request differs from the pact's request.
func (e onWire) differs(request *traffic, wanted any) error {
	var differences []error
	if !reflect.DeepEqual(request.body, wanted) {
		differences = append(differences, fmt.Errorf("orders sent the body %s, want %s", encode(request.body), encode(wanted)))
	}
	for name, value := range e.request.metadata {
		got := request.headers[name]
		switch name {
		case wireKey:
			got = request.wire
		case subjectKey, methodKey:
			got = request.target
		}
		if err := matches(got, value); err != nil {
			differences = append(differences, fmt.Errorf("orders sent %s %w", name, err))
		}
	}
	// A deadline differs each time, so the pact can't have it.
	switch request.wire {
	case "nats":
		at, err := strconv.ParseInt(request.headers["Request-Deadline"], 10, 64)
		if left := time.Until(time.UnixMilli(at)); err != nil || left < -limit || left > limit {
			differences = append(differences, fmt.Errorf("orders sent the deadline %q", request.headers["Request-Deadline"]))
		}
	case "grpc":
		if request.headers["grpc-timeout"] == "" {
			differences = append(differences, errors.New("orders sent no deadline"))
		}
	}
	return errors.Join(differences...)
}

// matches compares a header with a matcher.
func matches(got string, want matchers.Matcher) error {
	if text, ok := want.(matchers.S); ok {
		if got != string(text) {
			return fmt.Errorf("%q, want %q", got, text)
		}
		return nil
	}
	var pattern struct{ Regex string }
	if err := json.Unmarshal(encode(want), &pattern); err != nil || pattern.Regex == "" {
		return fmt.Errorf("is compared with %s, which is not a pattern (%w)", encode(want), err)
	}
	if whole := regexp.MustCompile(`^(?:` + pattern.Regex + `)$`); !whole.MatchString(got) {
		return fmt.Errorf("%q, which does not match %s", got, pattern.Regex)
	}
	return nil
}

// lister is a wire that lists reservations. Only HTTP does.
type lister interface {
	Reservations(ctx context.Context, cursor string) ([]orderstest.Reservation, string, error)
}

// call makes orders' real client send the request, and compares what orders read
// from the response.
func (i Interaction) call(t *testing.T, wire, url string) error {
	w, err := orderstest.NewWire(orderstest.WireOptions{Wire: wire, URL: url, MaxInFlight: 1, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer w.Close()
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(t.Context(), RequestID), limit)
	defer cancel()
	switch i.Operation {
	case "PutReservation":
		got, err := w.PutReservation(ctx, 1, *i.Request.Put)
		return i.Response.compare(got.ID, got.Seq, string(got.State), got.ExpiresAt, nil, err)
	case "GetReservation":
		got, err := w.GetReservation(ctx, 1, i.Request.ID)
		return i.Response.compare(got.ID, got.Seq, string(got.State), got.ExpiresAt, got.Lines, err)
	case "GetStock":
		got, err := w.GetStock(ctx, 1, i.Request.SKUs)
		if i.Response.Problem != nil || err != nil {
			return i.Response.compareProblem(err)
		}
		var levels []Level
		for _, l := range got {
			levels = append(levels, Level(l))
		}
		if !slices.Equal(levels, i.Response.Levels) {
			return fmt.Errorf("orders sees the levels %v, want %v", levels, i.Response.Levels)
		}
		return nil
	}
	l, ok := w.(lister)
	if !ok {
		return fmt.Errorf("the wire has no %s", i.Operation)
	}
	got, _, err := l.Reservations(ctx, "")
	if err != nil || len(got) != 1 {
		return fmt.Errorf("orders sees the reservations %v (%w)", got, err)
	}
	r := Response{Reservation: i.Response.Reservations}
	return r.compare(got[0].ID, got[0].Seq, string(got[0].State), got[0].ExpiresAt, nil, nil)
}

// compare compares what orders sees with the reservation or the problem.
func (a Response) compare(id string, seq int64, state string, expires time.Time, lines []orderstest.Demand, err error) error {
	if a.Problem != nil || err != nil {
		return a.compareProblem(err)
	}
	want := a.Reservation
	if id != want.ID || seq != want.Seq || state != want.State || expires.IsZero() == want.Expires || want.Lines != nil && !slices.Equal(lines, want.Lines) {
		return fmt.Errorf("orders sees %s, seq %d, %s until %s with %v, want %+v", id, seq, state, expires, lines, *want)
	}
	return nil
}

func (a Response) compareProblem(err error) error {
	if a.Problem == nil || err == nil {
		return fmt.Errorf("orders sees %w, want %+v", err, a)
	}
	want, got := a.Problem, problem.From(err)
	if got.Code != want.Code {
		return fmt.Errorf("orders sees %w, want %s", err, want.Code)
	}
	if c := want.Current; c != nil && (got.Current == nil || *got.Current != problem.Current{ID: c.ID, Seq: c.Seq, State: c.State}) {
		return fmt.Errorf("orders sees the current reservation %+v, want %+v", got.Current, *c)
	}
	if want.Shortages != nil && !slices.Equal(got.Shortages, want.Shortages) {
		return fmt.Errorf("orders sees the shortages %+v, want %+v", got.Shortages, want.Shortages)
	}
	var fields []string
	for _, f := range got.Errors {
		fields = append(fields, f.Pointer)
	}
	if want.Fields != nil && !slices.Equal(fields, want.Fields) {
		return fmt.Errorf("orders sees errors in %v, want %v", fields, want.Fields)
	}
	if want.RetryAfter != (got.RetryAfter > 0) {
		return fmt.Errorf("orders sees Retry-After %s, want one: %t", got.RetryAfter, want.RetryAfter)
	}
	return nil
}
