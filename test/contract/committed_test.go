package contract

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/oasdiff/yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	_ "google.golang.org/genproto/googleapis/rpc/errdetails" // the details of a status
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/problem"
)

// committed is the pact.
const committed = "../../contracts/pacts/orders-inventory.json"

// pact is what is in a pact file (Pact specification V4).
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
	// Request and Response are of HTTP.
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

// strict is what Pact's verifier lets pass: no interactions, ones that it does not
// really verify, states that have no handler, and handlers that nothing needs.
func (p *pact) strict() error {
	var wrong []error
	if len(p.Interactions) == 0 {
		wrong = append(wrong, errors.New("the pact has no interactions"))
	}
	used := map[string]bool{}
	for _, i := range p.Interactions {
		if i.Type != "Synchronous/HTTP" && i.Type != "Synchronous/Messages" || i.Pending {
			wrong = append(wrong, fmt.Errorf("%s: it is %s (pending: %t), of which nothing would be verified", i.Description, i.Type, i.Pending))
		}
		if len(i.ProviderStates) == 0 {
			wrong = append(wrong, fmt.Errorf("%s: it has no provider state", i.Description))
		}
		for _, state := range i.ProviderStates {
			used[state.Name] = true
			if states[state.Name] == nil {
				wrong = append(wrong, fmt.Errorf("%s: there is no handler for the state %q", i.Description, state.Name))
			}
		}
	}
	for name := range states {
		if !used[name] {
			wrong = append(wrong, fmt.Errorf("no interaction needs the state %q", name))
		}
	}
	return errors.Join(wrong...)
}

func TestTheCommittedPactIsStrict(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.strict(); err != nil {
		t.Error(err)
	}
	if p.Consumer.Name != Consumer || p.Provider.Name != Provider {
		t.Errorf("it is of %s and %s", p.Consumer.Name, p.Provider.Name)
	}
}

// Every state of the pact can be reached, through inventory's own API.
func TestEveryStateCanBeReached(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	s := startInventory(t)
	if err := s.letHoldsRunOut(p); err != nil {
		t.Fatal(err)
	}
	for _, i := range p.Interactions {
		for _, state := range i.ProviderStates {
			if err := states[state.Name](s, state.Params); err != nil {
				t.Errorf("%s: %s: %v", i.Description, state.Name, err)
			}
			s.leave()
		}
	}
}

// What is in the table is in the pact, and nothing else is.
func TestTheCommittedPactHasTheWholeTable(t *testing.T) {
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
		t.Errorf("run make pacts: the pact has\n%s\nand the table\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// actedOn are the problems that orders acts on, by operation: it settles an
// intent by them, comes again later, or alarms somebody.
var actedOn = map[string][]problem.Code{
	"PutReservation": {
		problem.InsufficientStock, problem.ReservationExpired, problem.WrongState, // outcomes
		problem.StaleSeq, problem.SeqReused, problem.Invalid, // alarms
		problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded,
	},
	"GetReservation": {problem.NotFound, problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded},
	"GetStock":       {problem.Unavailable, problem.Overloaded, problem.DeadlineExceeded},
}

func TestEveryProblemThatOrdersActsOnIsInThePact(t *testing.T) {
	t.Parallel()
	for operation, codes := range actedOn {
		for _, wire := range Wires {
			has := map[problem.Code]bool{}
			for _, i := range Interactions(wire) {
				if i.Operation == operation && i.Answer.Problem != nil {
					has[i.Answer.Problem.Code] = true
				} else if i.Operation == operation {
					has[""] = true
				}
			}
			for _, code := range append(codes, "") {
				if !has[code] {
					t.Errorf("%s over %s has no interaction with the answer %q", operation, wire, code)
				}
			}
		}
	}
}

// schemas are those of the contracts' documents.
type schemas struct{ compiler *jsonschema.Compiler }

// readSchemas reads the documents; of a part of an answer, nothing is required.
func readSchemas(t *testing.T, parts bool) schemas {
	t.Helper()
	s := schemas{jsonschema.NewCompiler()}
	s.compiler.DefaultDraft(jsonschema.Draft2020)
	s.compiler.AssertFormat()
	for _, name := range []string{"asyncapi/inventory.yaml", "openapi/inventory.yaml"} {
		text, err := os.ReadFile("../../contracts/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if text, err = yaml.YAMLToJSON(text); err != nil {
			t.Fatal(err)
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if parts {
			requireNothing(document)
		}
		if err := s.compiler.AddResource("contract:///"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

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

func (s schemas) check(ref string, body json.RawMessage) error {
	schema, err := s.compiler.Compile("contract:///" + ref)
	if err != nil {
		return err
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

// Every body in the pact fits the contract of its wire. A request has to fit as a
// whole, unless it is refused for not fitting; of an answer the pact has a part.
func TestWhatIsInThePactFitsTheContracts(t *testing.T) {
	t.Parallel()
	p, err := readPact(committed)
	if err != nil {
		t.Fatal(err)
	}
	whole, parts := readSchemas(t, false), readSchemas(t, true)
	byDescription := map[string]Interaction{}
	wireOf := map[string]string{}
	for _, wire := range Wires {
		for _, i := range Interactions(wire) {
			byDescription[i.Description(wire)], wireOf[i.Description(wire)] = i, wire
		}
	}
	for _, i := range p.Interactions {
		known, wire := byDescription[i.Description], wireOf[i.Description]
		request, answer, err := i.bodies()
		if err != nil {
			t.Errorf("%s: %v", i.Description, err)
			continue
		}
		refused := known.Answer.Problem != nil && known.Answer.Problem.Code == problem.Invalid
		if wire == "grpc" {
			err = fitsProto(known, request, answer)
		} else {
			err = fitsSchemas(whole, parts, wire, known, request, answer, refused)
		}
		if err != nil {
			t.Errorf("%s: %v", i.Description, err)
		}
	}
}

// bodies are the request's and the answer's.
func (i *interaction) bodies() (request, answer json.RawMessage, err error) {
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
		return nil, nil, fmt.Errorf("it has %d answers", len(out))
	}
	return in.Contents.Content, out[0].Contents.Content, nil
}

// fitsSchemas holds JSON against the OpenAPI and AsyncAPI documents.
func fitsSchemas(whole, parts schemas, wire string, i Interaction, request, answer json.RawMessage, refused bool) error {
	if request != nil && !refused {
		ref := "openapi/inventory.yaml#/components/schemas/ReservationRequest"
		if wire == "nats" {
			ref = "asyncapi/inventory.yaml#/channels/" + i.Operation + "/messages/request/payload"
		}
		if err := whole.check(ref, request); err != nil {
			return fmt.Errorf("the request: %w", err)
		}
	}
	ref := "openapi/inventory.yaml#/components/schemas/"
	switch {
	case i.Answer.Problem != nil:
		ref += "Problem"
	case i.Answer.Reservations != nil:
		ref += "ReservationPage"
	case i.Answer.Levels != nil:
		ref += "LevelPage"
	default:
		ref += "Reservation"
	}
	if err := parts.check(ref, answer); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}

// fitsProto holds protobuf's JSON against the messages; a name that they don't
// have is an error.
func fitsProto(i Interaction, request, answer json.RawMessage) error {
	method := inventoryv1.File_inventory_v1_inventory_proto.Services().ByName("InventoryService").Methods().ByName(protoreflect.Name(i.Operation))
	if method == nil {
		return fmt.Errorf("the service has no %s", i.Operation)
	}
	of := func(d protoreflect.MessageDescriptor) proto.Message { return dynamicpb.NewMessage(d) }
	if err := protojson.Unmarshal(request, of(method.Input())); err != nil {
		return fmt.Errorf("the request: %w", err)
	}
	reply := of(method.Output())
	if i.Answer.Problem != nil {
		reply = new(statusv1.Status)
	}
	if err := protojson.Unmarshal(answer, reply); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	return nil
}
