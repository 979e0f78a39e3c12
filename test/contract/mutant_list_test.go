//go:build contract

package contract

import (
	"encoding/json"
	"regexp"
	"strings"
)

var (
	overJSON = []string{"http", "nats"}
	hold     = "PutReservation over .*: a hold$"
	shortage = "PutReservation over .*: too little of two$"
	got      = "GetReservation over .*: held$"
	levels   = "GetStock over .*: (levels|a SKU of which some is held)$"
	away     = "GetStock over .*: the database is away$"
	notFound = "GetReservation over .*: none with that id$"
)

// providerMutants are changes of inventory.
var providerMutants = []mutant{
	{name: "expires_at is called expires", by: hold, change: inResponse(renamed("expires_at", "expires"))},
	{name: "expires_at is left out", by: hold, change: inResponse(dropped("expires_at"))},
	{name: "expires_at is in seconds since 1970", by: hold, change: inResponse(mapped("expires_at", func(any) any { return json.Number("1764200000") }))},
	{name: "expires_at has no time zone", by: hold, change: inResponse(mapped("expires_at", func(v any) any { return strings.TrimSuffix(v.(string), "Z") }))},
	{name: "id is left out", by: hold, change: inResponse(dropped("id"))},
	{name: "state is left out", by: got, change: inResponse(dropped("state"))},
	{name: "held is called reserved", by: hold, change: inResponse(mapped("state", func(any) any { return "reserved" }))},
	{name: "seq has another type", by: hold, change: inResponse(mapped("seq", retyped))},
	{name: "quantity has another type", by: got, change: inResponse(mapped("quantity", retyped))},
	{name: "quantity is in another unit", by: got, change: inResponse(mapped("quantity", times(12)))},
	{name: "lines are left out", by: got, change: inResponse(dropped("lines"))},
	{name: "levels are called stock", by: levels, change: inResponse(renamed("levels", "stock"))},
	{name: "available is left out", by: levels, change: inResponse(dropped("available"))},
	{name: "available includes held units", by: levels, change: inResponse(func(body any) any {
		return walk(body, "available", func(in map[string]any) { in["available"] = in["on_hand"] })
	})},
	{name: "only the first shortage is listed", by: shortage, change: inResponse(firstShortage)},
	{name: "a shortage does not say what is available", by: shortage, change: inResponse(func(body any) any {
		return mapped("shortages", dropped("available"))(body)
	})},
	{name: "current is missing", by: shortage, change: inResponse(func(body any) any { return detail(dropped("current")(body), "Current", drop) })},
	{name: "current is another reservation", by: shortage, change: inResponse(mapped("id", func(any) any { return "another" }))},
	{name: "insufficient-stock is called out-of-stock", by: shortage, change: change{response: func(_, m *traffic) {
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
	{name: "type is about:blank", by: shortage, wires: overJSON, change: inResponse(mapped("type", func(any) any { return "about:blank" }))},
	{name: "the reason has another domain", by: shortage, wires: []string{"grpc"}, change: inResponse(mapped("domain", func(any) any { return "elsewhere" }))},
	{name: "a rejection has the status of an internal error", by: shortage, change: change{response: func(_, m *traffic) {
		switch m.wire {
		case "http":
			m.status = "500"
		case "grpc":
			m.status = "INTERNAL"
		case "nats":
			m.headers["Nats-Service-Error-Code"] = "500"
		}
	}}},
	{name: "a hold is answered 201", by: hold, wires: []string{"http"}, change: change{response: func(_, m *traffic) { m.status = "201" }}},
	{name: "the problem's content type is plain JSON", by: shortage, wires: []string{"http"}, change: change{response: func(_, m *traffic) {
		m.headers["Content-Type"] = "application/json"
	}}},
	{name: "the error's header is left out", by: shortage, wires: []string{"nats"}, change: change{response: func(_, m *traffic) {
		delete(m.headers, "Nats-Service-Error")
	}}},
	{name: "Retry-After is left out", by: away, change: change{response: func(_, m *traffic) {
		delete(m.headers, "Retry-After")
		m.body = detail(m.body, "RetryInfo", drop)
	}}},
	{name: "not-found is an empty response", by: notFound, change: change{response: func(_, m *traffic) {
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
	{name: "a field error has no pointer", by: "PutReservation over .*: a quantity of nothing$", change: inResponse(func(body any) any {
		return dropped("pointer")(dropped("field")(body))
	})},
	{name: "a request's quantity is called count", by: hold, change: inRequest(renamed("quantity", "count"))},
	{name: "PutReservation is called something else", by: hold, change: misdirect("PutReservation")},
	{name: "GetStock is missing over http only", by: levels, wires: []string{"http"}, change: misdirect("GetStock")},
	{name: "GetStock is missing over grpc only", by: levels, wires: []string{"grpc"}, change: misdirect("GetStock")},
	{name: "GetStock is missing over nats only", by: levels, wires: []string{"nats"}, change: misdirect("GetStock")},
}

// consumerMutants are changes of what orders sends and of what it reads.
var consumerMutants = []mutant{
	{name: "quantity is sent as a string", by: hold, wires: overJSON, change: inRequest(mapped("quantity", retyped))},
	{name: "hold_seconds is sent as hold", by: hold, change: inRequest(renamed("hold_seconds", "hold"))},
	{name: "seq is not sent", by: hold, change: inRequest(dropped("seq"))},
	{name: "location is not sent", by: hold, change: inRequest(dropped("location"))},
	{name: "held is sent as reserved", by: hold, change: inRequest(mapped("state", func(any) any { return "reserved" }))},
	{name: "the customer is sent, too", by: hold, change: inRequest(func(body any) any {
		body.(map[string]any)["customer"] = "c"
		return body
	})},
	{name: "PutReservation is sent to another path", by: hold, change: misdirect("PutReservation")},
	{name: "a hold is sent with POST", by: hold, wires: []string{"http"}, change: change{request: func(m *traffic) {
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
	{name: "only the first SKU is sent", by: "GetStock over .*: levels$", change: change{request: func(m *traffic) {
		m.target, _, _ = strings.Cut(m.target, "&")
		m.body = mapped("skus", func(v any) any { return v.([]any)[:1] })(m.body)
	}}},
	{name: "it reads expires for expires_at", by: hold, change: inResponse(renamed("expires_at", "expires"))},
	{name: "it reads count for quantity", by: got, change: inResponse(renamed("quantity", "count"))},
	{name: "it reads the first shortage", by: shortage, change: inResponse(firstShortage)},
	{name: "it does not read current", by: shortage, change: inResponse(func(body any) any { return detail(dropped("current")(body), "Current", drop) })},
	{name: "it does not read the code", by: shortage, change: inResponse(func(body any) any {
		return detail(dropped("type")(dropped("code")(body)), "ErrorInfo", drop)
	})},
	{name: "it does not read Retry-After", by: away, change: change{response: func(_, m *traffic) {
		delete(m.headers, "Retry-After")
		m.body = detail(m.body, "RetryInfo", drop)
	}}},
}

// harmless are changes of inventory that must pass.
var harmless = []mutant{
	{name: "one more field in every object", change: inResponse(added)},
	{name: "one more header", change: change{response: func(_, m *traffic) { m.headers["X-Added-Tomorrow"] = "yes" }}},
	{name: "other texts", change: inResponse(func(body any) any {
		for _, name := range []string{"title", "detail", "message", "name", "description"} {
			body = mapped(name, another)(body)
		}
		return body
	})},
	{name: "lists in another order", change: inResponse(reversed)},
	{name: "another Retry-After", change: change{response: func(_, m *traffic) {
		if m.headers["Retry-After"] != "" {
			m.headers["Retry-After"] = "30"
		}
		m.body = mapped("retry_delay", func(any) any { return "30s" })(m.body)
	}}},
	{name: "times to the microsecond", change: inResponse(mapped("expires_at", func(v any) any {
		return regexp.MustCompile(`(\.\d+)?Z$`).ReplaceAllString(v.(string), ".123456Z")
	}))},
}
