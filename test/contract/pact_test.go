package contract

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // the details of a status
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/problem"
	"roundtrip/test/support/schemas"
)

// committed is the path of the pact.
const committed = "../../contracts/pacts/orders-inventory.json"

// pact is a pact file (Pact specification V4).
type pact struct {
	Consumer, Provider struct{ Name string }
	Interactions       []*interaction
}

type interaction struct {
	Type           string
	Description    string
	Pending        bool
	ProviderStates []struct {
		Name   string
		Params map[string]any
	}
	// Request and Response are JSON whose form depends on the type.
	Request  json.RawMessage
	Response json.RawMessage
}

func readPact(path string) (*pact, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	p := new(pact)
	if err := json.Unmarshal(text, p); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return p, nil
}

// strict reports what Pact's verifier accepts without verification: a pact without
// interactions, interactions of other types or pending ones, states without a
// handler, and handlers that no interaction uses.
func (p *pact) strict() error {
	var wrong []error
	if len(p.Interactions) == 0 {
		wrong = append(wrong, errors.New("the pact has no interactions"))
	}
	used := map[string]bool{}
	for _, i := range p.Interactions {
		if i.Type != "Synchronous/HTTP" && i.Type != "Synchronous/Messages" || i.Pending {
			wrong = append(wrong, fmt.Errorf("%s: type %s (pending: %t) would not be verified", i.Description, i.Type, i.Pending))
		}
		if len(i.ProviderStates) == 0 {
			wrong = append(wrong, fmt.Errorf("%s: no provider state", i.Description))
		}
		for _, state := range i.ProviderStates {
			used[state.Name] = true
			if states[state.Name] == nil {
				wrong = append(wrong, fmt.Errorf("%s: no handler for the state %q", i.Description, state.Name))
			}
		}
	}
	for name := range states {
		if !used[name] {
			wrong = append(wrong, fmt.Errorf("no interaction uses the state %q", name))
		}
	}
	return errors.Join(wrong...)
}

func TestCommittedPactIsStrict(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.strict(); err != nil {
		t.Error(err)
	}
	if p.Consumer.Name != Consumer || p.Provider.Name != Provider {
		t.Errorf("the pact is between %s and %s", p.Consumer.Name, p.Provider.Name)
	}
}

// Every provider state of the pact can be set up through inventory's own API.
func TestEveryProviderStateCanBeReached(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	s := startInventory(t)
	if err := s.expireHolds(p); err != nil {
		t.Fatal(err)
	}
	for _, i := range p.Interactions {
		for _, state := range i.ProviderStates {
			if err := states[state.Name](s, state.Params); err != nil {
				t.Errorf("%s: %s: %v", i.Description, state.Name, err)
			}
			s.reset()
		}
	}
}

// The pact has the interactions of the table and no others.
func TestCommittedPactMatchesTable(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for _, i := range p.Interactions {
		got = append(got, i.Description)
	}
	for _, wire := range Wires {
		for _, i := range Interactions(wire) {
			want = append(want, i.Description(wire))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the pact has\n%s\nand the table\n%s\nRun make pacts.", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// actedOn lists the problems that orders handles, by operation: it settles an
// intent, retries later, or raises an alarm.
var actedOn = map[string][]problem.Code{
	"PutReservation": {
		problem.InsufficientStock, problem.ReservationExpired, problem.WrongState, // outcomes
		problem.StaleSeq, problem.SeqReused, problem.Invalid, // alarms
		problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded,
	},
	"GetReservation": {problem.NotFound, problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded},
	"GetStock":       {problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded},
}

func TestPactCoversProblemsThatOrdersHandles(t *testing.T) {
	t.Parallel()
	for operation, codes := range actedOn {
		for _, wire := range Wires {
			has := map[problem.Code]bool{}
			for _, i := range Interactions(wire) {
				if i.Operation == operation && i.Response.Problem != nil {
					has[i.Response.Problem.Code] = true
				} else if i.Operation == operation {
					has[""] = true
				}
			}
			for _, code := range append(codes, "") {
				if !has[code] {
					t.Errorf("%s over %s has no interaction with the response %q", operation, wire, code)
				}
			}
		}
	}
}

// requireNothing makes every field of a schema optional, because a pact has only
// parts of responses.
func requireNothing(value any) {
	switch v := value.(type) {
	case []any:
		for _, x := range v {
			requireNothing(x)
		}
	case map[string]any:
		for _, name := range []string{"required", "if", "then", "else", "allOf", "dependentRequired"} {
			delete(v, name)
		}
		for _, x := range v {
			requireNothing(x)
		}
	}
}

// Every body in the pact fits the contract of its wire. A request must be complete,
// unless inventory refuses it as invalid. A response may have only some fields.
func TestPactBodiesFitContracts(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	whole, parts := schemas.Read(t), schemas.Read(t, requireNothing)
	byDescription := map[string]Interaction{}
	wireOf := map[string]string{}
	for _, wire := range Wires {
		for _, i := range Interactions(wire) {
			byDescription[i.Description(wire)], wireOf[i.Description(wire)] = i, wire
		}
	}
	for _, i := range p.Interactions {
		known, wire := byDescription[i.Description], wireOf[i.Description]
		request, response, err := i.bodies()
		if err != nil {
			t.Errorf("%s: %v", i.Description, err)
			continue
		}
		refused := known.Response.Problem != nil && known.Response.Problem.Code == problem.Invalid
		if wire == "grpc" {
			err = fitsProto(known, request, response)
		} else {
			err = fitsSchemas(whole, parts, wire, known, request, response, refused)
		}
		if err != nil {
			t.Errorf("%s: %v", i.Description, err)
		}
	}
}

// bodies returns the bodies of the request and the response.
func (i *interaction) bodies() (request, response json.RawMessage, err error) {
	type content struct{ Content json.RawMessage }
	if i.Type == "Synchronous/HTTP" {
		var of struct{ Body content }
		if err := json.Unmarshal(i.Request, &of); err != nil {
			return nil, nil, err
		}
		request, of.Body.Content = of.Body.Content, nil
		err := json.Unmarshal(i.Response, &of)
		return request, of.Body.Content, err
	}
	type message struct{ Contents content }
	var in message
	var out []message
	if err := errors.Join(json.Unmarshal(i.Request, &in), json.Unmarshal(i.Response, &out)); err != nil {
		return nil, nil, err
	}
	if len(out) != 1 {
		return nil, nil, fmt.Errorf("got %d responses, want 1", len(out))
	}
	return in.Contents.Content, out[0].Contents.Content, nil
}

// fitsSchemas validates JSON against the OpenAPI and AsyncAPI documents.
func fitsSchemas(whole, parts schemas.Schemas, wire string, i Interaction, request, response json.RawMessage, refused bool) error {
	if request != nil && !refused {
		ref := "openapi/inventory.yaml#/components/schemas/ReservationRequest"
		if wire == "nats" {
			ref = "asyncapi/inventory.yaml#/channels/" + i.Operation + "/messages/request/payload"
		}
		if err := whole.Check(ref, request); err != nil {
			return fmt.Errorf("request: %w", err)
		}
	}
	ref := "openapi/inventory.yaml#/components/schemas/"
	switch {
	case i.Response.Problem != nil:
		ref += "Problem"
	case i.Response.Reservations != nil:
		ref += "ReservationPage"
	case i.Response.Levels != nil:
		ref += "LevelPage"
	default:
		ref += "Reservation"
	}
	if err := parts.Check(ref, response); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}

// fitsProto checks protobuf's JSON against the messages. An unknown name is an
// error.
func fitsProto(i Interaction, request, response json.RawMessage) error {
	method := inventoryv1.File_inventory_v1_inventory_proto.Services().ByName("InventoryService").Methods().ByName(protoreflect.Name(i.Operation))
	if method == nil {
		return fmt.Errorf("the service has no %s", i.Operation)
	}
	of := func(d protoreflect.MessageDescriptor) proto.Message { return dynamicpb.NewMessage(d) }
	if err := protojson.Unmarshal(request, of(method.Input())); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	reply := of(method.Output())
	if i.Response.Problem != nil {
		reply = new(statusv1.Status)
	}
	if err := protojson.Unmarshal(response, reply); err != nil {
		return fmt.Errorf("response: %w", err)
	}
	return nil
}
