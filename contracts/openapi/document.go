// Package openapi holds the two services' REST contracts, inventory.yaml and
// orders.yaml, and holds whoever is tested to them.
//
// A contract that nothing checks is a wish. Here the documents are checked by
// the tests that run anyway: a test gives its HTTP client a [Document.Transport],
// and every response that the client receives is then compared with the document
// (its status, headers, content type and body), and so is every request that was
// accepted. A service that sends an undocumented field, or takes a request that
// the document forbids, fails whichever test noticed first. The other direction,
// that a service serves what is documented and nothing else, is a comparison of
// its routes with [Document.Operations].
//
// A request that was refused is not compared: to send what the document forbids
// is what tests of refusals are for.
//
// The package is for tests. It brings a validator with it that no service binary
// should have in it.
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
	// schemas are components/schemas by the references to them, compiled.
	schemas map[string]*jsonschema.Schema
	// nowhere stands for the paths and methods that the document does not have.
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

// mustParse panics where the document is not valid: it is part of the program.
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
	// The legacy router, because it looks at the method and the path together: GET
	// /v1/stock/import is about a SKU called "import", though POST there is not. It
	// validates the document too, except for the examples: they cost a second, and
	// this package's own tests look at them.
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
			openapi3.WithStatus(400, spec.Components.Responses["Invalid"]), // what is no id is invalid before it is unknown
			openapi3.WithStatus(404, spec.Components.Responses["NotFound"]),
			openapi3.WithStatus(405, spec.Components.Responses["MethodNotAllowed"]),
		),
	}}
	return d, d.checkBodies()
}

// location is where the compiler finds the document; any URL that is no file's.
const location = "contract:document.json"

// compile compiles components/schemas, with the validator that kin-openapi has
// for OpenAPI 3.1. Left to kin-openapi, an order would be compiled again for each
// body: 15 ms of a caller's deadline. An OpenAPI 3.1 document is itself a resource
// that JSON Schema's references can point into.
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

// checkBodies makes sure that no body goes unvalidated for want of a compiled schema.
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
						return fmt.Errorf("%s %s: the schema of a %s body is none of components/schemas", method, path, media)
					}
				}
			}
		}
	}
	return nil
}

// Codes are the codes of the problems that each operation, by its ID, may answer.
func (d *Document) Codes() map[string][]problem.Code {
	all := map[string][]problem.Code{}
	for _, item := range d.spec.Paths.Map() {
		for _, operation := range item.Operations() {
			for _, response := range operation.Responses.Map() {
				if media := response.Value.Content[mediaProblem]; media != nil {
					for name := range media.Examples { // each has its code's name
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
