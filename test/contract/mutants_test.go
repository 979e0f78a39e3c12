//go:build contract

package contract

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// mutant is a change that breaks the contract, made to what passes by on one wire
// at a time. It has to be caught on each wire that it touches.
type mutant struct {
	name string
	// by is a pattern for the interactions that have to catch it.
	by string
	// wires are those that it touches; nil is all.
	wires []string
	change
}

func (m mutant) touches(wire string) bool { return m.wires == nil || slices.Contains(m.wires, wire) }

var (
	overJSON = []string{"http", "nats"}
	hold     = "PutReservation over .*: a hold$"
	shortage = "PutReservation over .*: too little of two$"
	got      = "GetReservation over .*: held$"
	levels   = "GetStock over .*: (levels|a SKU of which some is held)$"
	away     = "GetStock over .*: the database is away$"
	nobody   = "GetReservation over .*: none with that id$"
)

// inAnswer changes the body of an answer.
func inAnswer(f func(body any) any) change {
	return change{answer: func(_, m *traffic) { m.body = f(m.body) }}
}

func inRequest(f func(body any) any) change {
	return change{request: func(m *traffic) { m.body = f(m.body) }}
}

// walk replaces every member of that name, at any depth.
func walk(value any, name string, f func(in map[string]any)) any {
	switch v := value.(type) {
	case []any:
		for n := range v {
			walk(v[n], name, f)
		}
	case map[string]any:
		for member := range v {
			walk(v[member], name, f)
		}
		if _, ok := v[name]; ok {
			f(v)
		}
	}
	return value
}

func renamed(from, to string) func(any) any {
	return func(body any) any {
		return walk(body, from, func(in map[string]any) { in[to] = in[from]; delete(in, from) })
	}
}

func dropped(name string) func(any) any {
	return func(body any) any { return walk(body, name, func(in map[string]any) { delete(in, name) }) }
}

func mapped(name string, f func(any) any) func(any) any {
	return func(body any) any { return walk(body, name, func(in map[string]any) { in[name] = f(in[name]) }) }
}

// retyped makes a string of a number and the reverse (64-bit integers are strings
// in protobuf's JSON).
func retyped(v any) any {
	switch n := v.(type) {
	case json.Number:
		return n.String()
	case string:
		return json.Number(n)
	}
	return v
}

// times multiplies a number, however it is written.
func times(factor int64) func(any) any {
	return func(v any) any {
		n, _ := json.Number(fmt.Sprint(v)).Int64()
		if _, text := v.(string); text {
			return fmt.Sprint(n * factor)
		}
		return json.Number(fmt.Sprint(n * factor))
	}
}

// detail changes or, by returning nil, drops the gRPC detail of a kind.
func detail(body any, kind string, f func(map[string]any) any) any {
	status, _ := body.(map[string]any)
	details, _ := status["details"].([]any)
	var kept []any
	for _, d := range details {
		if of, ok := d.(map[string]any); ok && strings.HasSuffix(fmt.Sprint(of["@type"]), "."+kind) {
			if d = f(of); d == nil {
				continue
			}
		}
		kept = append(kept, d)
	}
	if details != nil {
		status["details"] = kept
	}
	return body
}

func gone(map[string]any) any { return nil }

// elsewhere sends an operation's requests where nobody is.
func elsewhere(operation string) change {
	return change{request: func(m *traffic) {
		if m.operation() == operation {
			m.target = strings.NewReplacer("/v1/", "/v2/", ".v1.", ".v2.").Replace(m.target)
		}
	}}
}

var first = mapped("shortages", func(v any) any { return v.([]any)[:1] })

// providerMutants are changes of inventory.
var providerMutants = []mutant{
	{name: "expires_at is called expires", by: hold, change: inAnswer(renamed("expires_at", "expires"))},
	{name: "expires_at is left out", by: hold, change: inAnswer(dropped("expires_at"))},
	{name: "expires_at is in seconds since 1970", by: hold, change: inAnswer(mapped("expires_at", func(any) any { return json.Number("1764200000") }))},
	{name: "expires_at has no time zone", by: hold, change: inAnswer(mapped("expires_at", func(v any) any { return strings.TrimSuffix(v.(string), "Z") }))},
	{name: "id is left out", by: hold, change: inAnswer(dropped("id"))},
	{name: "state is left out", by: got, change: inAnswer(dropped("state"))},
	{name: "held is called reserved", by: hold, change: inAnswer(mapped("state", func(any) any { return "reserved" }))},
	{name: "seq is of another type", by: hold, change: inAnswer(mapped("seq", retyped))},
	{name: "quantity is of another type", by: got, change: inAnswer(mapped("quantity", retyped))},
	{name: "quantity is in another unit", by: got, change: inAnswer(mapped("quantity", times(12)))},
	{name: "lines are left out", by: got, change: inAnswer(dropped("lines"))},
	{name: "levels are called stock", by: levels, change: inAnswer(renamed("levels", "stock"))},
	{name: "available is left out", by: levels, change: inAnswer(dropped("available"))},
	{name: "available counts what is held", by: levels, change: inAnswer(func(body any) any {
		return walk(body, "available", func(in map[string]any) { in["available"] = in["on_hand"] })
	})},
	{name: "only the first shortage is listed", by: shortage, change: inAnswer(first)},
	{name: "a shortage does not say what is available", by: shortage, change: inAnswer(func(body any) any {
		return mapped("shortages", dropped("available"))(body)
	})},
	{name: "current is missing", by: shortage, change: inAnswer(func(body any) any { return detail(dropped("current")(body), "Current", gone) })},
	{name: "current is another reservation", by: shortage, change: inAnswer(mapped("id", func(any) any { return "another" }))},
	{name: "insufficient-stock is called out-of-stock", by: shortage, change: change{answer: func(_, m *traffic) {
		m.body = mapped("code", func(v any) any {
			if v == "insufficient-stock" {
				return "out-of-stock"
			}
			return v
		})(mapped("reason", func(any) any { return "OUT_OF_STOCK" })(m.body))
		if _, ok := m.headers["Nats-Service-Error"]; ok {
			m.headers["Nats-Service-Error"] = "out-of-stock"
		}
	}}},
	{name: "type is about:blank", by: shortage, wires: overJSON, change: inAnswer(mapped("type", func(any) any { return "about:blank" }))},
	{name: "the reason is of another domain", by: shortage, wires: []string{"grpc"}, change: inAnswer(mapped("domain", func(any) any { return "elsewhere" }))},
	{name: "a rejection has the status of an error of ours", by: shortage, change: change{answer: func(_, m *traffic) {
		switch m.wire {
		case "http":
			m.status = "500"
		case "grpc":
			m.status = "INTERNAL"
		case "nats":
			m.headers["Nats-Service-Error-Code"] = "500"
		}
	}}},
	{name: "a hold is answered 201", by: hold, wires: []string{"http"}, change: change{answer: func(_, m *traffic) { m.status = "201" }}},
	{name: "the problem's content type is plain JSON", by: shortage, wires: []string{"http"}, change: change{answer: func(_, m *traffic) {
		m.headers["Content-Type"] = "application/json"
	}}},
	{name: "the error's header is left out", by: shortage, wires: []string{"nats"}, change: change{answer: func(_, m *traffic) {
		delete(m.headers, "Nats-Service-Error")
	}}},
	{name: "when to come again is left out", by: away, change: change{answer: func(_, m *traffic) {
		delete(m.headers, "Retry-After")
		m.body = detail(m.body, "RetryInfo", gone)
	}}},
	{name: "nobody with that id is an empty answer", by: nobody, change: change{answer: func(_, m *traffic) {
		m.body = map[string]any{}
		switch m.wire {
		case "http":
			m.status, m.headers["Content-Type"] = "200", "application/json"
		case "grpc":
			m.status = "OK"
		case "nats":
			delete(m.headers, "Nats-Service-Error")
			delete(m.headers, "Nats-Service-Error-Code")
		}
	}}},
	{name: "an error in a field points nowhere", by: "PutReservation over .*: a quantity of nothing$", change: inAnswer(func(body any) any {
		return dropped("pointer")(dropped("field")(body))
	})},
	{name: "a request's quantity is called count", by: hold, change: inRequest(renamed("quantity", "count"))},
	{name: "PutReservation is called something else", by: hold, change: elsewhere("PutReservation")},
	{name: "GetStock is gone over http alone", by: levels, wires: []string{"http"}, change: elsewhere("GetStock")},
	{name: "GetStock is gone over grpc alone", by: levels, wires: []string{"grpc"}, change: elsewhere("GetStock")},
	{name: "GetStock is gone over nats alone", by: levels, wires: []string{"nats"}, change: elsewhere("GetStock")},
}

// consumerMutants are changes of orders: of what it sends, and of what it reads.
var consumerMutants = []mutant{
	{name: "quantity is sent as a string", by: hold, wires: overJSON, change: inRequest(mapped("quantity", retyped))},
	{name: "hold_seconds is sent as hold", by: hold, change: inRequest(renamed("hold_seconds", "hold"))},
	{name: "seq is not sent", by: hold, change: inRequest(dropped("seq"))},
	{name: "location is not sent", by: hold, change: inRequest(dropped("location"))},
	{name: "held is asked for as reserved", by: hold, change: inRequest(mapped("state", func(any) any { return "reserved" }))},
	{name: "the customer is sent too", by: hold, change: inRequest(func(body any) any {
		body.(map[string]any)["customer"] = "c"
		return body
	})},
	{name: "PutReservation is sent elsewhere", by: hold, change: elsewhere("PutReservation")},
	{name: "a hold is posted", by: hold, wires: []string{"http"}, change: change{request: func(m *traffic) {
		m.target = strings.Replace(m.target, "PUT ", "POST ", 1)
	}}},
	{name: "the request id is not sent", by: hold, change: change{request: func(m *traffic) {
		delete(m.headers, "X-Request-Id")
		delete(m.headers, "x-request-id")
	}}},
	{name: "the attempt is not sent", by: hold, change: change{request: func(m *traffic) {
		delete(m.headers, "Request-Attempt")
		delete(m.headers, "request-attempt")
	}}},
	{name: "the deadline is not sent", by: hold, change: change{request: func(m *traffic) {
		for _, name := range []string{"Request-Timeout-Ms", "Request-Deadline", "grpc-timeout"} {
			delete(m.headers, name)
		}
	}}},
	{name: "the content type is not sent", by: hold, wires: []string{"http"}, change: change{request: func(m *traffic) {
		delete(m.headers, "Content-Type")
	}}},
	{name: "one SKU is asked for instead of all", by: "GetStock over .*: levels$", change: change{request: func(m *traffic) {
		m.target, _, _ = strings.Cut(m.target, "&")
		m.body = mapped("skus", func(v any) any { return v.([]any)[:1] })(m.body)
	}}},
	{name: "it reads expires for expires_at", by: hold, change: inAnswer(renamed("expires_at", "expires"))},
	{name: "it reads count for quantity", by: got, change: inAnswer(renamed("quantity", "count"))},
	{name: "it reads the first shortage", by: shortage, change: inAnswer(first)},
	{name: "it does not read current", by: shortage, change: inAnswer(func(body any) any { return detail(dropped("current")(body), "Current", gone) })},
	{name: "it does not read the code", by: shortage, change: inAnswer(func(body any) any {
		return detail(dropped("type")(dropped("code")(body)), "ErrorInfo", gone)
	})},
	{name: "it does not read when to come again", by: away, change: change{answer: func(_, m *traffic) {
		delete(m.headers, "Retry-After")
		m.body = detail(m.body, "RetryInfo", gone)
	}}},
}

// added adds a field to every object.
func added(value any) any {
	switch v := value.(type) {
	case []any:
		for n := range v {
			added(v[n])
		}
	case map[string]any:
		for member := range v {
			added(v[member])
		}
		v["added_tomorrow"] = map[string]any{"by": "inventory"}
	}
	return value
}

func reversed(value any) any {
	switch v := value.(type) {
	case []any:
		for n := range v {
			reversed(v[n])
		}
		slices.Reverse(v)
	case map[string]any:
		for member := range v {
			reversed(v[member])
		}
	}
	return value
}

func another(any) any { return "Another text." }

// harmless are changes of inventory that orders must not notice.
var harmless = []mutant{
	{name: "a field more in every object", change: inAnswer(added)},
	{name: "a header more", change: change{answer: func(_, m *traffic) { m.headers["X-Added-Tomorrow"] = "yes" }}},
	{name: "other texts", change: inAnswer(func(body any) any {
		for _, name := range []string{"title", "detail", "message", "name", "description"} {
			body = mapped(name, another)(body)
		}
		return body
	})},
	{name: "lists in another order", change: inAnswer(reversed)},
	{name: "another time to come again", change: change{answer: func(_, m *traffic) {
		if m.headers["Retry-After"] != "" {
			m.headers["Retry-After"] = "30"
		}
		m.body = mapped("retry_delay", func(any) any { return "30s" })(m.body)
	}}},
	{name: "times to the microsecond", change: inAnswer(mapped("expires_at", func(v any) any {
		return regexp.MustCompile(`(\.\d+)?Z$`).ReplaceAllString(v.(string), ".123456Z")
	}))},
}

// table is mutant × wire × caught.
type table struct {
	title     string
	rows      [][]string
	survivors int
}

// print writes the table to the log and to the report.
func (b *table) print(t *testing.T) {
	t.Helper()
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t%s\n", b.title, strings.Join(Wires, "\t"))
	for _, row := range b.rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	fmt.Fprintf(w, "%d mutants, %d survivors\n\n", len(b.rows), b.survivors)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", out.String())
	if *report == "" {
		return
	}
	file, err := os.OpenFile(*report, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString(out.String()); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
}

// each runs every mutant and says what survived. What has to catch it has to pass
// without it, and on the wires that it does not touch. run returns the descriptions
// that match a pattern and failed.
func (b *table) each(t *testing.T, mutants []mutant, run func(by string, c *change) (failed []string)) {
	t.Helper()
	controlled := map[string]bool{}
	for _, m := range mutants {
		if !controlled[m.by] {
			if failed := run(m.by, nil); failed != nil {
				t.Fatalf("without any change: %v", failed)
			}
			controlled[m.by] = true
		}
		failed := strings.Join(run(m.by, m.onItsWires()), "\n")
		row := []string{m.name}
		for _, wire := range Wires {
			caught, touches := strings.Contains(failed, " over "+wire+": "), m.touches(wire)
			switch {
			case caught && touches:
				row = append(row, "caught")
			case touches:
				row = append(row, "SURVIVED")
				b.survivors++
				t.Errorf("%s over %s: nothing caught it", m.name, wire)
			case caught:
				row = append(row, "WRONGLY")
				t.Errorf("%s over %s: it was caught, and changes nothing there", m.name, wire)
			default:
				row = append(row, "–")
			}
		}
		b.rows = append(b.rows, row)
	}
	b.print(t)
}

// onItsWires is the mutant's change, which leaves the wires alone that it does
// not touch.
func (m mutant) onItsWires() *change {
	return &change{
		request: func(request *traffic) {
			if m.touches(request.wire) {
				m.toRequest(request)
			}
		},
		answer: func(request, answer *traffic) {
			if m.touches(answer.wire) {
				m.toAnswer(request, answer)
			}
		},
	}
}

// ofFailure finds the interactions in the verifier's list of what failed.
var ofFailure = regexp.MustCompile(`(?m)^\d+\) Verifying a pact between .*? - (\w+ over .*)$`)

// TestInventorysSideBites tries the verification of inventory itself. All of it
// shares one inventory: to let holds run out takes a second each time.
func TestInventorysSideBites(t *testing.T) {
	s := startProvider(t)
	for name, try := range map[string]func(*testing.T, *providerSide){
		"every change is caught": everyChangeIsCaught, "what orders relies on in vain is caught": relianceInVainIsCaught,
		"harmless changes pass": harmlessChangesPass, "verification is strict": verificationIsStrict,
	} {
		t.Run(name, func(t *testing.T) { try(t, s) })
	}
}

func everyChangeIsCaught(t *testing.T, s *providerSide) {
	file := copyOfPact(t, nil)
	(&table{title: "inventory changes"}).each(t, providerMutants, func(by string, c *change) (failed []string) {
		err := s.verify(t, verification{file: file, only: by, change: c})
		if err == nil {
			return nil
		}
		for _, found := range ofFailure.FindAllStringSubmatch(err.Error(), -1) {
			failed = append(failed, found[1])
		}
		if failed == nil {
			t.Fatal(err)
		}
		return failed
	})
}

// TestOrdersSideBites tries the test of orders itself.
func TestOrdersSideBites(t *testing.T) {
	s := startConsumer(t)
	(&table{title: "orders changes"}).each(t, consumerMutants, func(by string, c *change) (failed []string) {
		pattern, tried := regexp.MustCompile(by), 0
		quietly(t, func() {
			for _, wire := range Wires {
				for _, i := range Interactions(wire) {
					if description := i.Description(wire); pattern.MatchString(description) {
						tried++
						if s.consume(t, t.TempDir(), wire, i, c) != nil {
							failed = append(failed, description)
						}
					}
				}
			}
		})
		if tried < len(Wires) {
			t.Fatalf("%d interactions are called %s", tried, by)
		}
		return failed
	})
}

// Orders that begins to rely on more says so in its pact, which inventory does
// not fulfil then.
func relianceInVainIsCaught(t *testing.T, s *providerSide) {
	for name, want := range map[string]func(answer map[string]any){
		"a field that inventory does not have": func(answer map[string]any) {
			walk(answer, "id", func(in map[string]any) { in["warehouse"] = "north" })
		},
		"another state": func(answer map[string]any) { mapped("state", func(any) any { return "booked" })(answer) },
	} {
		for _, wire := range Wires {
			description := "PutReservation over " + wire + ": a hold"
			file := copyOfPact(t, func(interactions []any) []any {
				for _, i := range interactions {
					if of := i.(map[string]any); of["description"] == description {
						switch answer := of["response"].(type) {
						case map[string]any:
							want(answer)
						case []any:
							want(answer[0].(map[string]any))
						}
					}
				}
				return interactions
			})
			if err := s.verify(t, verification{file: copyOfPact(t, nil), only: description + "$"}); err != nil {
				t.Fatalf("without it: %v", err)
			}
			if s.verify(t, verification{file: file, only: description + "$"}) == nil {
				t.Errorf("orders relies on %s over %s, and inventory does not notice", name, wire)
			}
		}
	}
}

// Each by itself is tried where it matters most; all at once, everywhere.
func harmlessChangesPass(t *testing.T, s *providerSide) {
	file := copyOfPact(t, nil)
	const most = "(PutReservation over .*: (a hold|too little of two|a quantity of nothing)|GetReservation over .*: held|GetStock over .*: (levels|the database is away))$"
	all := change{answer: func(request, answer *traffic) {
		for _, m := range harmless {
			m.answer(request, answer)
		}
	}}
	for _, m := range append(harmless, mutant{name: "all at once", change: all}) {
		v := verification{file: file, only: most, change: &m.change}
		if m.name == "all at once" {
			v.only = ""
		}
		if err := s.verify(t, v); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		t.Logf("passes: %s", m.name)
	}
}

// copyOfPact is the committed pact in a folder of its own, with other interactions.
func copyOfPact(t *testing.T, f func(interactions []any) []any) string {
	t.Helper()
	text, err := os.ReadFile(committed)
	if err != nil {
		t.Fatal(err)
	}
	if f != nil {
		value, err := decode(text)
		if err != nil {
			t.Fatal(err)
		}
		whole := value.(map[string]any)
		whole["interactions"] = f(whole["interactions"].([]any))
		text = encode(whole)
	}
	file := filepath.Join(t.TempDir(), "orders-inventory.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// What Pact's verifier would let pass.
func verificationIsStrict(t *testing.T, s *providerSide) {
	state := func(name string) func([]any) []any {
		return func(interactions []any) []any {
			interactions[0].(map[string]any)["providerStates"] = []any{map[string]any{"name": name}}
			return interactions
		}
	}
	for name, f := range map[string]func([]any) []any{
		"a state without a handler": state("there is a unicorn"),
		"no state": func(interactions []any) []any {
			delete(interactions[0].(map[string]any), "providerStates")
			return interactions
		},
		"no interaction at all": func([]any) []any { return []any{} },
		"a handler that no interaction needs": func(interactions []any) []any {
			return slices.DeleteFunc(interactions, func(i any) bool {
				return strings.Contains(i.(map[string]any)["description"].(string), slowState)
			})
		},
		"an interaction of another type": func(interactions []any) []any {
			interactions[0].(map[string]any)["type"] = "Asynchronous/Messages"
			return interactions
		},
		"an interaction that may fail": func(interactions []any) []any {
			interactions[0].(map[string]any)["pending"] = true
			return interactions
		},
	} {
		if s.verify(t, verification{file: copyOfPact(t, f)}) == nil {
			t.Errorf("%s: it passes", name)
		}
	}
	if s.verify(t, verification{file: filepath.Join(t.TempDir(), "none.json")}) == nil {
		t.Error("no pact: it passes")
	}
	more := copyOfPact(t, func(interactions []any) []any { return append(interactions, interactions[0]) })
	fewer := copyOfPact(t, func(interactions []any) []any { return interactions[1:] })
	for name, file := range map[string]string{"an interaction more than orders' tests make": more, "one fewer": fewer} {
		written, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if same(written) == nil {
			t.Errorf("%s: it passes for the committed pact", name)
		}
	}
}
