//go:build contract

package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
)

// mutant is a change of the traffic that breaks the contract. The tests must catch
// it on each wire that it affects.
type mutant struct {
	name string
	// by is a pattern for the interactions that must catch it.
	by string
	// wires are the wires that it affects. Nil is all.
	wires []string
	change
}

func (m mutant) affects(wire string) bool { return m.wires == nil || slices.Contains(m.wires, wire) }

// table shows which mutants were caught on which wire.
type table struct {
	title     string
	rows      [][]string
	survivors int
}

// print writes the table to the log.
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
}

// each runs every mutant and reports survivors. The interactions that must catch a
// mutant must pass without it, and on the wires that it does not affect. run returns
// the descriptions that match a pattern and failed.
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
			caught, affects := strings.Contains(failed, " over "+wire+": "), m.affects(wire)
			switch {
			case caught && affects:
				row = append(row, "caught")
			case affects:
				row = append(row, "SURVIVED")
				b.survivors++
				t.Errorf("%s over %s: nothing caught it", m.name, wire)
			case caught:
				row = append(row, "WRONG")
				t.Errorf("%s over %s: a test failed, but the mutant changes nothing there", m.name, wire)
			default:
				row = append(row, "–")
			}
		}
		b.rows = append(b.rows, row)
	}
	b.print(t)
}

// onItsWires is the mutant's change, restricted to the wires that it affects.
func (m mutant) onItsWires() *change {
	return &change{
		request: func(request *traffic) {
			if m.affects(request.wire) {
				m.changeRequest(request)
			}
		},
		response: func(request, response *traffic) {
			if m.affects(response.wire) {
				m.changeResponse(request, response)
			}
		},
	}
}

// failurePattern finds the interactions in the verifier's list of failures.
var failurePattern = regexp.MustCompile(`(?m)^\d+\) Verifying a pact between .*? - (\w+ over .*)$`)

// TestProviderTestCatchesMutants tests the verification of inventory. Its parts share
// one inventory, because expiring holds takes a second each time.
func TestProviderTestCatchesMutants(t *testing.T) {
	s := startProvider(t)
	for name, test := range map[string]func(*testing.T, *providerTest){
		"every change is caught": everyChangeIsCaught, "reliance that inventory does not fulfil is caught": unfulfilledRelianceIsCaught,
		"harmless changes pass": harmlessChangesPass, "verification is strict": verificationIsStrict,
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func everyChangeIsCaught(t *testing.T, s *providerTest) {
	file := copyOfPact(t, nil)
	(&table{title: "inventory changes"}).each(t, providerMutants, func(by string, c *change) (failed []string) {
		err := s.verify(t, verification{file: file, only: by, change: c})
		if err == nil {
			return nil
		}
		for _, found := range failurePattern.FindAllStringSubmatch(err.Error(), -1) {
			failed = append(failed, found[1])
		}
		if failed == nil {
			t.Fatal(err)
		}
		return failed
	})
}

// TestConsumerTestCatchesMutants tests the consumer test.
func TestConsumerTestCatchesMutants(t *testing.T) {
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
			t.Fatalf("%d interactions match %s, want at least one for each wire", tried, by)
		}
		return failed
	})
}

// If orders starts to rely on something that inventory does not do, the pact says
// so, and the verification fails.
func unfulfilledRelianceIsCaught(t *testing.T, s *providerTest) {
	for name, want := range map[string]func(response map[string]any){
		"a field that inventory does not have": func(response map[string]any) {
			walk(response, "id", func(in map[string]any) { in["warehouse"] = "north" })
		},
		"another state": func(response map[string]any) { mapped("state", func(any) any { return "booked" })(response) },
	} {
		for _, wire := range Wires {
			description := "PutReservation over " + wire + ": a hold"
			file := copyOfPact(t, func(interactions []any) []any {
				for _, i := range interactions {
					if of := i.(map[string]any); of["description"] == description {
						switch response := of["response"].(type) {
						case map[string]any:
							want(response)
						case []any:
							want(response[0].(map[string]any))
						}
					}
				}
				return interactions
			})
			if err := s.verify(t, verification{file: copyOfPact(t, nil), only: description + "$"}); err != nil {
				t.Fatalf("with the committed pact: %v", err)
			}
			if s.verify(t, verification{file: file, only: description + "$"}) == nil {
				t.Errorf("orders relies on %s over %s, and the verification passes", name, wire)
			}
		}
	}
}

// Each harmless change is tested on the most relevant interactions, and all changes
// together on every interaction.
func harmlessChangesPass(t *testing.T, s *providerTest) {
	file := copyOfPact(t, nil)
	const most = "(PutReservation over .*: (a hold|too little of two|a quantity of nothing)|GetReservation over .*: held|GetStock over .*: (levels|the database is away))$"
	all := change{response: func(request, response *traffic) {
		for _, m := range harmless {
			m.response(request, response)
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

// copyOfPact copies the committed pact into a new folder and edits its interactions.
// f may be nil.
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

// The verification refuses pacts that Pact's verifier alone would accept.
func verificationIsStrict(t *testing.T, s *providerTest) {
	state := func(name string) func([]any) []any {
		return func(interactions []any) []any {
			interactions[0].(map[string]any)["providerStates"] = []any{map[string]any{"name": name}}
			return interactions
		}
	}
	for name, f := range map[string]func([]any) []any{
		"state without a handler": state("unknown state"),
		"no state": func(interactions []any) []any {
			delete(interactions[0].(map[string]any), "providerStates")
			return interactions
		},
		"no interactions": func([]any) []any { return []any{} },
		"unused handler": func(interactions []any) []any {
			return slices.DeleteFunc(interactions, func(i any) bool {
				return strings.Contains(i.(map[string]any)["description"].(string), slowState)
			})
		},
		"interaction of another type": func(interactions []any) []any {
			interactions[0].(map[string]any)["type"] = "Asynchronous/Messages"
			return interactions
		},
		"pending interaction": func(interactions []any) []any {
			interactions[0].(map[string]any)["pending"] = true
			return interactions
		},
	} {
		if s.verify(t, verification{file: copyOfPact(t, f)}) == nil {
			t.Errorf("%s: the verification passes", name)
		}
	}
	if s.verify(t, verification{file: filepath.Join(t.TempDir(), "none.json")}) == nil {
		t.Error("missing pact: the verification passes")
	}
	more := copyOfPact(t, func(interactions []any) []any { return append(interactions, interactions[0]) })
	fewer := copyOfPact(t, func(interactions []any) []any { return interactions[1:] })
	for name, file := range map[string]string{"one interaction too many": more, "one interaction too few": fewer} {
		written, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if equalsCommitted(written) == nil {
			t.Errorf("%s: the pact counts as the committed one", name)
		}
	}
}
