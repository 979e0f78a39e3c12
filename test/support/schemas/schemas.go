// Package schemas validates JSON against the contracts' documents: OpenAPI for
// HTTP and AsyncAPI for NATS.
package schemas

import (
	"bytes"
	"os"
	"testing"

	"github.com/oasdiff/yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Schemas are the schemas of inventory's documents.
type Schemas struct{ compiler *jsonschema.Compiler }

// Read reads contracts/asyncapi/inventory.yaml and contracts/openapi/inventory.yaml.
// The edits change each document before it is used. Call it from a package two
// folders below the root.
func Read(t testing.TB, edits ...func(document any)) Schemas {
	t.Helper()
	s := Schemas{jsonschema.NewCompiler()}
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
		for _, edit := range edits {
			edit(document)
		}
		if err := s.compiler.AddResource("contract:///"+name, document); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// Check validates a body against a schema, such as
// "openapi/inventory.yaml#/components/schemas/Problem".
func (s Schemas) Check(ref string, body []byte) error {
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
