//go:build contract

package contract

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// inResponse changes the body of a response.
func inResponse(f func(body any) any) change {
	return change{response: func(_, m *traffic) { m.body = f(m.body) }}
}

func inRequest(f func(body any) any) change {
	return change{request: func(m *traffic) { m.body = f(m.body) }}
}

// walk calls f for every object that has a member of that name, at any depth.
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

// retyped turns a number into a string and a string into a number. (64-bit
// integers are strings in protobuf's JSON.)
func retyped(v any) any {
	switch n := v.(type) {
	case json.Number:
		return n.String()
	case string:
		return json.Number(n)
	}
	return v
}

// times multiplies a number. It may be written as a string.
func times(factor int64) func(any) any {
	return func(v any) any {
		n, _ := json.Number(fmt.Sprint(v)).Int64()
		if _, text := v.(string); text {
			return fmt.Sprint(n * factor)
		}
		return json.Number(fmt.Sprint(n * factor))
	}
}

// detail changes the gRPC detail of a kind, or drops it if f returns nil.
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

func drop(map[string]any) any { return nil }

// misdirect sends an operation's requests to a target that does not exist.
func misdirect(operation string) change {
	return change{request: func(m *traffic) {
		if m.operation() == operation {
			m.target = strings.NewReplacer("/v1/", "/v2/", ".v1.", ".v2.").Replace(m.target)
		}
	}}
}

var firstShortage = mapped("shortages", func(v any) any { return v.([]any)[:1] })

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
