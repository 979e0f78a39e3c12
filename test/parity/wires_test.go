// Package parity compares the wires: orders sees the same response on each.
package parity

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestEveryWireGivesTheSameResponse(t *testing.T) {
	t.Parallel()
	f := start(t, 64)
	table := new(bytes.Buffer)
	differences := 0
	for i, c := range testCases() {
		var first string
		for _, wire := range wires {
			id := fmt.Sprintf("p%d-%s", i, wire)
			if c.setup != nil {
				c.setup(t, f, id)
			}
			if c.around != nil {
				f.around.Store(&c.around)
			}
			value, err := c.call(exchange.WithRequestID(deadline(t), "parity"), f.wires[wire], id)
			f.around.Store(nil)
			got := view(id, value, err, c.ownDetail)
			if code := problem.CodeOf(err); code != c.want {
				t.Errorf("%s, %s, %s: got %q (%v), want %q", c.operation, c.name, wire, code, err, c.want)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("%s, %s, %s: the response leaks internals: %s", c.operation, c.name, wire, got)
			}
			if first == "" {
				first = got
			} else if got != first {
				differences++
				t.Errorf("%s, %s: on %s orders sees\n%s\nand on %s\n%s", c.operation, c.name, wires[0], first, wire, got)
			}
		}
		outcome := string(c.want)
		if outcome == "" {
			outcome = "ok"
		}
		fmt.Fprintf(table, "  %-15s %-32s %s\n", c.operation, c.name, outcome)
	}
	t.Logf("%d responses on %v, %d differences:\n%s", len(testCases()), wires, differences, table)
}

// view is a response as orders sees it, without the parts that may differ: ids,
// times, and the place of an id or of SKUs in a request.
func view(id string, value any, err error, ownDetail bool) string {
	p := struct {
		Value     any
		Code      problem.Code
		Detail    string
		Retry     string
		Errors    []problem.FieldError
		Shortages []problem.Shortage
		Current   *problem.Current
	}{Value: value}
	if err != nil {
		got := problem.From(err)
		wait, retry := got.Wait()
		p.Value, p.Code, p.Detail, p.Retry = nil, got.Code, got.Detail, fmt.Sprint(retry, " after ", wait)
		if ownDetail {
			p.Detail = ""
		}
		p.Errors, p.Shortages, p.Current = slices.Clone(got.Errors), got.Shortages, got.Current
		for i, e := range p.Errors {
			p.Errors[i].Pointer = parameter.ReplaceAllString(e.Pointer, "/$1")
			if strings.HasPrefix(p.Errors[i].Pointer, "/sku") {
				p.Errors[i] = problem.FieldError{Pointer: "/skus"}
			}
		}
	}
	out, jsonErr := json.MarshalIndent(p, "", "  ")
	if jsonErr != nil {
		panic(jsonErr)
	}
	text := strings.ReplaceAll(string(out), id, "ID")
	return timestamp.ReplaceAllString(text, "TIME")
}

var (
	parameter = regexp.MustCompile(`^(?:path|query):(\w+)$`)
	timestamp = regexp.MustCompile(`20\d\d-\d\d-\d\dT[0-9:.]+Z`)
)

// At the in-flight limit every wire refuses in the same way.
func TestOverloadedIsTheSameOnEveryWire(t *testing.T) {
	t.Parallel()
	f := start(t, 1)
	started, release := make(chan struct{}), make(chan struct{})
	slow := func(_ string, handle func() error) error {
		err := handle()
		close(started)
		<-release
		return err
	}
	f.around.Store(&slow)
	ended := make(chan error)
	go func() {
		_, err := f.wires["http"].GetReservation(deadline(t), 1, "unknown")
		ended <- err
	}()
	<-started
	f.around.Store(nil)
	for operation, call := range map[string]call{
		"PutReservation": put(1, "held", line("-a", 1)), "GetReservation": get, "GetStock": stock("-a"),
	} {
		var first string
		for _, wire := range wires {
			value, err := call(deadline(t), f.wires[wire], "x")
			got := view("x", value, err, false)
			if problem.CodeOf(err) != problem.Overloaded || first != "" && got != first {
				t.Errorf("%s on %s: %s, %v", operation, wire, got, err)
			}
			first = got
		}
	}
	close(release)
	if err := <-ended; problem.CodeOf(err) != problem.NotFound {
		t.Error(err)
	}
}

// Every code that the contract lists for an operation has a test case.
func TestEveryContractCodeIsCompared(t *testing.T) {
	t.Parallel()
	compared := map[string][]problem.Code{}
	for _, c := range testCases() {
		compared[c.operation] = append(compared[c.operation], c.want)
	}
	for operation, codes := range openapi.Inventory().Codes() {
		for _, code := range codes {
			_, onEveryWire := compared[operation]
			switch {
			case !onEveryWire, code == problem.Overloaded: // TestOverloadedIsTheSameOnEveryWire
			case code == problem.UnsupportedMedia: // only REST has content types
			case !slices.Contains(compared[operation], code):
				t.Errorf("%s may respond with %s, which has no test case", operation, code)
			}
		}
	}
}
