//go:build contract

package contract

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/pact-foundation/pact-go/v2/matchers"
	codev1 "google.golang.org/genproto/googleapis/rpc/code"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/messaging"
	"roundtrip/internal/problem"
	"roundtrip/internal/rpc"
)

type (
	object  = map[string]any
	headers = map[string]matchers.Matcher
)

// onWire is an interaction on one wire, in Pact's terms. Texts and numbers must be
// equal. A matcher accepts other values if orders does not rely on the exact one.
type onWire struct {
	request, response message
	// The following are for HTTP.
	method, path string
	query        map[string][]string
	status       int
}

type message struct {
	// metadata has the headers, and the target of a request.
	metadata headers
	body     any
}

// Metadata keys that are not headers.
const (
	wireKey    = "wire"
	subjectKey = "subject" // of NATS
	methodKey  = "method"  // of gRPC
	statusKey  = "status"  // of gRPC
)

const service = "/inventory.v1.InventoryService/"

// on returns the interaction on a wire.
func (i Interaction) on(wire string) onWire {
	switch wire {
	case "http":
		return i.http()
	case "grpc":
		return i.grpc()
	}
	return i.nats()
}

// requestHeaders are the headers that inventory acts on or logs.
func requestHeaders() headers {
	return headers{
		"X-Request-Id": matchers.S(RequestID), "Request-Attempt": matchers.S("1"), "Request-Timeout-Ms": matchers.Regex("2000", `[1-9][0-9]*`),
	}
}

func (i Interaction) http() onWire {
	e := onWire{method: http.MethodGet, status: http.StatusOK, request: message{metadata: requestHeaders()}}
	switch i.Operation {
	case "PutReservation":
		e.method, e.path, e.request.body = http.MethodPut, "/v1/reservations/"+i.Request.ID, i.Request.put()
		e.request.metadata["Content-Type"] = matchers.S("application/json")
	case "GetReservation":
		e.path = "/v1/reservations/" + i.Request.ID
	case "GetStock":
		e.path, e.query = "/v1/stock", map[string][]string{"sku": i.Request.SKUs}
	case "ListReservations":
		e.path, e.query = "/v1/reservations", map[string][]string{"limit": {"200"}}
	}
	e.response = message{body: i.Response.json(), metadata: headers{"Content-Type": matchers.Regex("application/json", `application/json(;.*)?`)}}
	if p := i.Response.Problem; p != nil {
		e.status = p.Code.HTTPStatus()
		e.response.metadata["Content-Type"] = matchers.Regex(problem.MediaType, `application/problem\+json(;.*)?`)
		p.retry(e.response.metadata)
	}
	return e
}

func (i Interaction) nats() onWire {
	e := onWire{request: message{metadata: requestHeaders()}}
	e.request.metadata[wireKey], e.request.metadata[subjectKey] = matchers.S("nats"), matchers.S("inventory.v1."+i.Operation)
	switch i.Operation {
	case "PutReservation":
		body := i.Request.put()
		body["id"] = i.Request.ID
		e.request.body = body
	case "GetReservation":
		e.request.body = object{"id": i.Request.ID}
	case "GetStock":
		e.request.body = object{"skus": i.Request.SKUs}
	}
	e.response = message{body: i.Response.json(), metadata: headers{}}
	if p := i.Response.Problem; p != nil {
		e.response.metadata[messaging.ErrorHeader] = matchers.S(p.Code)
		e.response.metadata[messaging.ErrorCodeHeader] = matchers.S(strconv.Itoa(p.Code.HTTPStatus()))
		p.retry(e.response.metadata)
	}
	return e
}

// retry adds the header Retry-After: any whole number of seconds.
func (p *Problem) retry(h headers) {
	if p.RetryAfter {
		h["Retry-After"] = matchers.Regex("1", `[1-9][0-9]*`)
	}
}

// put is PutReservation's body, without the id.
func (a Request) put() object {
	body := object{"seq": a.Put.Seq, "state": string(a.Put.State)}
	var lines []object
	for _, l := range a.Put.Lines {
		lines = append(lines, object{"sku": l.SKU, "location": l.Location, "quantity": l.Quantity})
	}
	if lines != nil {
		body["lines"], body["hold_seconds"] = lines, a.Put.HoldSeconds
	}
	return body
}

// timestamp matches a time of RFC 3339, in UTC.
func timestamp() any {
	return matchers.Regex("2026-11-24T13:00:00.000Z", `^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?Z$`)
}

// all matches a list that has these elements, in any order, and maybe more.
func all[T any](from []T, to func(T) any) any {
	var variants []any
	for _, x := range from {
		variants = append(variants, to(x))
	}
	if variants == nil {
		return []any{}
	}
	return matchers.ArrayContaining(variants)
}

// json is the response's body on REST and NATS.
func (a Response) json() any {
	switch {
	case a.Problem != nil:
		return a.Problem.json()
	case a.Reservations != nil:
		return object{"reservations": matchers.ArrayContaining([]any{a.Reservations.json()})}
	case a.Levels != nil:
		return object{"levels": all(a.Levels, func(l Level) any {
			return object{"sku": l.SKU, "location": l.Location, "available": l.Available}
		})}
	}
	return a.Reservation.json()
}

func (r *Reservation) json() object {
	body := object{"id": r.ID, "seq": r.Seq, "state": r.State}
	if r.Expires {
		body["expires_at"] = timestamp()
	}
	var lines []any
	for _, l := range r.Lines {
		lines = append(lines, object{"sku": l.SKU, "location": l.Location, "quantity": l.Quantity})
	}
	if lines != nil {
		body["lines"] = matchers.ArrayContaining(lines)
	}
	return body
}

func (p *Problem) json() object {
	body := object{"type": "urn:roundtrip:problem:" + string(p.Code), "code": string(p.Code)}
	if c := p.Current; c != nil {
		body["current"] = object{"id": c.ID, "seq": c.Seq, "state": c.State}
	}
	if p.Shortages != nil {
		body["shortages"] = all(p.Shortages, func(s problem.Shortage) any {
			return object{"sku": s.SKU, "location": s.Location, "requested": s.Requested, "available": s.Available}
		})
	}
	if p.Fields != nil {
		body["errors"] = all(p.Fields, func(pointer string) any { return object{"pointer": pointer} })
	}
	return body
}

// grpc has messages in protobuf's JSON, with the names of the .proto.
func (i Interaction) grpc() onWire {
	e := onWire{request: message{metadata: headers{
		wireKey: matchers.S("grpc"), methodKey: matchers.S(service + i.Operation),
		"x-request-id": matchers.S(RequestID), "request-attempt": matchers.S("1"),
	}}}
	switch i.Operation {
	case "PutReservation":
		body := object{"id": i.Request.ID, "seq": integer(i.Request.Put.Seq), "state": stateName(string(i.Request.Put.State))}
		var lines []object
		for _, l := range i.Request.Put.Lines {
			line := object{"sku": l.SKU, "location": l.Location}
			if l.Quantity != 0 { // protobuf does not send a zero
				line["quantity"] = integer(l.Quantity)
			}
			lines = append(lines, line)
		}
		if lines != nil {
			body["lines"], body["hold_seconds"] = lines, integer(i.Request.Put.HoldSeconds)
		}
		e.request.body = body
	case "GetReservation":
		e.request.body = object{"id": i.Request.ID}
	case "GetStock":
		e.request.body = object{"skus": i.Request.SKUs}
	}
	e.response = message{metadata: headers{statusKey: matchers.S(codev1.Code_OK.String())}}
	switch a := i.Response; {
	case a.Problem != nil:
		status := rpc.Status(&problem.Problem{Code: a.Problem.Code}, inventoryv1.ProblemDetails{})
		e.response.metadata[statusKey] = matchers.S(codev1.Code(status.Code()).String())
		e.response.body = a.Problem.grpc()
	case a.Levels != nil:
		e.response.body = object{"levels": all(a.Levels, func(l Level) any {
			return object{"sku": l.SKU, "location": l.Location, "available": integer(l.Available)}
		})}
	default:
		r := object{"id": a.Reservation.ID, "seq": integer(a.Reservation.Seq), "state": stateName(a.Reservation.State)}
		if a.Reservation.Expires {
			r["expires_at"] = timestamp()
		}
		var lines []any
		for _, l := range a.Reservation.Lines {
			lines = append(lines, object{"sku": l.SKU, "location": l.Location, "quantity": integer(l.Quantity)})
		}
		if lines != nil {
			r["lines"] = matchers.ArrayContaining(lines)
		}
		e.response.body = object{"reservation": r}
	}
	return e
}

// integer is a 64-bit integer in protobuf's JSON.
func integer(n int64) string { return strconv.FormatInt(n, 10) }

func stateName(state string) string { return inventoryv1.StateOf(state).String() }

// grpc is a google.rpc.Status.
func (p *Problem) grpc() object {
	detail := func(name string, fields object) any {
		fields["@type"] = "type.googleapis.com/" + name
		return fields
	}
	details := []any{detail("google.rpc.ErrorInfo", object{
		"reason": strings.ToUpper(strings.ReplaceAll(string(p.Code), "-", "_")), "domain": "roundtrip",
	})}
	if c := p.Current; c != nil {
		details = append(details, detail("inventory.v1.Current", object{"id": c.ID, "seq": integer(c.Seq), "state": stateName(c.State)}))
	}
	if p.Shortages != nil {
		details = append(details, detail("inventory.v1.Shortages", object{"shortages": all(p.Shortages, func(s problem.Shortage) any {
			return object{"sku": s.SKU, "location": s.Location, "requested": integer(s.Requested), "available": integer(s.Available)}
		})}))
	}
	if p.Fields != nil {
		details = append(details, detail("google.rpc.BadRequest", object{"field_violations": all(p.Fields, func(pointer string) any {
			return object{"field": pointer}
		})}))
	}
	if p.RetryAfter {
		details = append(details, detail("google.rpc.RetryInfo", object{"retry_delay": matchers.Regex("1s", `^[0-9]+(\.[0-9]+)?s$`)}))
	}
	return object{"details": matchers.ArrayContaining(details)}
}

// example replaces matchers by the values that they were made from.
func example(of any) any {
	text, err := json.Marshal(of)
	if err != nil {
		panic(err)
	}
	var value any
	if err := json.Unmarshal(text, &value); err != nil {
		panic(err)
	}
	return plain(value)
}

func plain(value any) any {
	switch v := value.(type) {
	case []any:
		for n := range v {
			v[n] = plain(v[n])
		}
	case map[string]any:
		if variants, ok := v["variants"]; ok {
			return plain(variants)
		}
		if _, ok := v["pact:matcher:type"]; ok {
			return plain(v["value"])
		}
		for name := range v {
			v[name] = plain(v[name])
		}
	}
	return value
}

// texts encodes headers as Pact expects them in messages: each value as JSON.
func texts(h headers) map[string]string {
	all := map[string]string{}
	for name, value := range h {
		text, err := json.Marshal(value)
		if err != nil {
			panic(err)
		}
		all[name] = string(text)
	}
	return all
}
