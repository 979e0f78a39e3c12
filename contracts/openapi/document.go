// Package openapi contains the two services' REST contracts, inventory.yaml and
// orders.yaml, and checks a service under test against them.
//
// Every test that uses REST can check the contract. It gives its HTTP client a
// [Document.Transport]. The transport compares every response with the document
// (its status, headers, content type and body), and every request that was
// accepted. If a service sends an undocumented field, or accepts a request that
// the document forbids, the test fails. To check the other direction, that a
// service serves exactly what is documented, a test compares the service's routes
// with [Document.Operations].
//
// A request that was refused is not compared, because a test of a refusal sends
// what the document forbids.
//
// The package is for tests only. It imports a validator that must not be linked
// into a service's binary.
package openapi

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"roundtrip/internal/problem"
)

//go:embed inventory.yaml
var inventoryYAML []byte

//go:embed orders.yaml
var ordersYAML []byte

// Document is one service's contract.
type Document struct {
	spec   *openapi3.T
	router routers.Router
	// schemas are the compiled components/schemas, by their references.
	schemas map[string]*jsonschema.Schema
	// nowhere is the route of paths and methods that the document does not have.
	nowhere *routers.Route
}

// Operation is one operation of a document.
type Operation struct {
	Method string
	// Path has its parameters in braces: /v1/orders/{id}.
	Path string
	// ID is the operationId, such as PutOrder.
	ID string
}

var (
	inventory = sync.OnceValue(func() *Document { return mustParse("inventory.yaml", inventoryYAML) })
	orders    = sync.OnceValue(func() *Document { return mustParse("orders.yaml", ordersYAML) })
)

// Inventory is inventory's contract.
func Inventory() *Document { return inventory() }

// Orders is orders' contract.
func Orders() *Document { return orders() }

// mustParse panics if the document is not valid, because it is part of the program.
func mustParse(name string, text []byte) *Document {
	d, err := parse(text)
	if err != nil {
		panic(fmt.Sprintf("openapi: %s: %v", name, err))
	}
	return d
}

func parse(text []byte) (*Document, error) {
	spec, err := openapi3.NewLoader().LoadFromData(text)
	if err != nil {
		return nil, fmt.Errorf("read the document: %w", err)
	}
	// The legacy router matches the method and the path together. That is needed,
	// because GET /v1/stock/import reads a SKU called "import", and POST to the same
	// path is an import. The router validates the document too, without the examples:
	// they take a second, and this package's own tests validate them.
	router, err := legacy.NewRouter(spec, openapi3.DisableExamplesValidation(), openapi3.EnableSchemaFormatValidation())
	if err != nil {
		return nil, fmt.Errorf("validate the document: %w", err)
	}
	d := &Document{spec: spec, router: router, schemas: map[string]*jsonschema.Schema{}}
	if err := d.compile(); err != nil {
		return nil, err
	}
	d.nowhere = &routers.Route{Spec: spec, Operation: &openapi3.Operation{
		OperationID: "no operation",
		Responses: openapi3.NewResponses(
			openapi3.WithStatus(400, spec.Components.Responses["Invalid"]), // an invalid id is answered 400, not 404
			openapi3.WithStatus(404, spec.Components.Responses["NotFound"]),
			openapi3.WithStatus(405, spec.Components.Responses["MethodNotAllowed"]),
		),
	}}
	return d, d.checkBodies()
}

// location is the URL by which the compiler finds the document. Any URL that is not
// a file's will do.
const location = "contract:document.json"

// compile compiles components/schemas once, with the validator that kin-openapi
// uses for OpenAPI 3.1. kin-openapi itself would compile an order's schema again for
// each body, which takes 15 ms of a caller's deadline. JSON Schema's references can
// point into an OpenAPI 3.1 document.
func (d *Document) compile() error {
	text, err := json.Marshal(d.spec)
	if err != nil {
		return fmt.Errorf("encode the document: %w", err)
	}
	resource, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return fmt.Errorf("decode the document: %w", err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.RegisterFormat(&jsonschema.Format{Name: "int64", Validate: validateInt64})
	if err := compiler.AddResource(location, resource); err != nil {
		return fmt.Errorf("compile the schemas: %w", err)
	}
	for name := range d.spec.Components.Schemas {
		ref := "#/components/schemas/" + name
		if d.schemas[ref], err = compiler.Compile(location + ref); err != nil {
			return fmt.Errorf("compile schema %s: %w", name, err)
		}
	}
	return nil
}

func validateInt64(v any) error {
	n, ok := v.(json.Number)
	if !ok {
		return nil
	}
	if r, ok := new(big.Rat).SetString(n.String()); !ok || !r.IsInt() || !r.Num().IsInt64() {
		return errors.New("does not fit into 64 bits")
	}
	return nil
}

// checkBodies returns an error if a body has no compiled schema, because that body
// would not be validated.
func (d *Document) checkBodies() error {
	for path, item := range d.spec.Paths.Map() {
		for method, operation := range item.Operations() {
			var contents []openapi3.Content
			if operation.RequestBody != nil {
				contents = append(contents, operation.RequestBody.Value.Content)
			}
			for _, response := range operation.Responses.Map() {
				contents = append(contents, response.Value.Content)
			}
			for _, content := range contents {
				for media, body := range content {
					if media != mediaCSV && (body.Schema == nil || d.schemas[body.Schema.Ref] == nil) {
						return fmt.Errorf("%s %s: the schema of a %s body is not one of components/schemas", method, path, media)
					}
				}
			}
		}
	}
	return nil
}

// Codes returns, by operation ID, the codes of the problems that each operation may
// answer.
func (d *Document) Codes() map[string][]problem.Code {
	all := map[string][]problem.Code{}
	for _, item := range d.spec.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, response := range operation.Responses.Map() {
				if media := response.Value.Content[mediaProblem]; media != nil {
					for name := range media.Examples { // each example is named after its code
						all[operation.OperationID] = append(all[operation.OperationID], problem.Code(name))
					}
				}
			}
		}
	}
	return all
}

// Operations lists all operations, ordered by path and method.
func (d *Document) Operations() []Operation {
	var all []Operation
	for path, item := range d.spec.Paths.Map() {
		for method, operation := range item.Operations() {
			all = append(all, Operation{Method: method, Path: path, ID: operation.OperationID})
		}
	}
	slices.SortFunc(all, func(a, b Operation) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Method, b.Method))
	})
	return all
}
