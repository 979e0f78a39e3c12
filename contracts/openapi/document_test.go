package openapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"

	"roundtrip/internal/problem"
)

var documents = map[string]*Document{"inventory": Inventory(), "orders": Orders()}

// eachDocument runs a test on both documents.
func eachDocument(t *testing.T, test func(*testing.T, *Document)) {
	t.Parallel()
	for name, d := range documents {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, d)
		})
	}
}

func TestDocumentsAreValidWithTheirExamples(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		if !d.spec.IsOpenAPI31OrLater() {
			t.Errorf("is OpenAPI %s", d.spec.OpenAPI)
		}
		// This looks at the examples of parameters and headers too.
		if err := d.spec.Validate(t.Context(), openapi3.EnableMultiError(), openapi3.EnableSchemaFormatValidation()); err != nil {
			t.Error(err)
		}
	})
}

func TestDocumentsHaveExactlyTheseOperations(t *testing.T) {
	t.Parallel()
	want := map[string][]string{
		"inventory": {
			"GET /v1/adjustments/{id} GetAdjustment",
			"PUT /v1/adjustments/{id} PutAdjustment",
			"GET /v1/ledger ListLedger",
			"GET /v1/reservations ListReservations",
			"GET /v1/reservations/{id} GetReservation",
			"PUT /v1/reservations/{id} PutReservation",
			"GET /v1/stock GetStock",
			"POST /v1/stock/import ImportStock",
			"GET /v1/stock/{sku} GetLevels",
		},
		"orders": {
			"GET /v1/availability GetAvailability",
			"GET /v1/orders ListOrders",
			"POST /v1/orders PostOrder",
			"GET /v1/orders/{id} GetOrder",
			"PUT /v1/orders/{id} PutOrder",
			"POST /v1/orders/{id}/cancel CancelOrder",
			"POST /v1/orders/{id}/confirm ConfirmOrder",
			"PUT /v1/orders/{id}/lines AmendOrder",
			"GET /v1/orders/{id}/reservation GetOrderReservation",
		},
	}
	for name, d := range documents {
		var got []string
		for _, o := range d.Operations() {
			got = append(got, fmt.Sprintf("%s %s %s", o.Method, o.Path, o.ID))
		}
		if !slices.Equal(got, want[name]) {
			t.Errorf("%s has\n%s", name, strings.Join(got, "\n"))
		}
	}
}

// body is one body that a document describes.
type body struct {
	where string
	media string
	// status is 0 for the body of a request.
	status int
	*openapi3.MediaType
}

// examples returns the body's examples by name. A single example may have the name "".
func (b body) examples() map[string]any {
	all := map[string]any{}
	if b.Example != nil {
		all[""] = b.Example
	}
	for name, example := range b.Examples {
		all[name] = example.Value.Value
	}
	return all
}

func bodies(d *Document) []body {
	var all []body
	for _, o := range d.Operations() {
		operation := d.spec.Paths.Value(o.Path).GetOperation(o.Method)
		if operation.RequestBody != nil {
			for media, content := range operation.RequestBody.Value.Content {
				all = append(all, body{o.ID + " request", media, 0, content})
			}
		}
		for key, response := range operation.Responses.Map() {
			status, _ := strconv.Atoi(key)
			for media, content := range response.Value.Content {
				all = append(all, body{o.ID + " response " + key, media, status, content})
			}
		}
	}
	for media, content := range d.spec.Components.Responses["MethodNotAllowed"].Value.Content {
		all = append(all, body{"MethodNotAllowed", media, 405, content})
	}
	return all
}

func TestEveryBodyHasExamplesAndTheyMatchItsSchema(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for _, b := range bodies(d) {
			if len(b.examples()) == 0 {
				t.Errorf("%s (%s) has no example", b.where, b.media)
			}
			for name, example := range b.examples() {
				if b.media == mediaCSV {
					continue // a string, which kin-openapi has validated
				}
				if _, err := validate(d.schemas[b.Schema.Ref], encode(t, example)); err != nil {
					t.Errorf("%s, example %q: %v", b.where, name, err)
				}
			}
		}
	})
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// codes lists the codes that a problem's schema allows, by their schemas.
func codes(d *Document, ref string) map[problem.Code]*openapi3.Schema {
	schema := d.spec.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")].Value
	all := map[problem.Code]*openapi3.Schema{}
	for _, one := range schema.OneOf {
		maps.Copy(all, codes(d, one.Ref))
	}
	if len(schema.OneOf) == 0 {
		narrowed := schema.AllOf[1].Value
		all[problem.Code(narrowed.Properties["code"].Value.Const.(string))] = narrowed
	}
	return all
}

// notAnswered are the codes that no service answers, because the services do not
// authenticate their callers. A gateway in front of them has its own contract.
var notAnswered = []problem.Code{problem.Unauthenticated, problem.Forbidden, problem.RateLimited}

func TestDocumentedProblemsMatchTheTable(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		listed := map[problem.Code]bool{}
		for _, code := range d.spec.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum {
			listed[problem.Code(code.(string))] = true
		}
		answered := map[problem.Code]bool{}
		for _, b := range bodies(d) {
			if b.media != mediaProblem {
				continue
			}
			allowed := codes(d, b.Schema.Ref)
			if got, want := slices.Sorted(maps.Keys(b.Examples)), slices.Sorted(maps.Keys(allowed)); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s has examples of %v, want %v", b.where, got, want)
			}
			for code, schema := range allowed {
				answered[code] = true
				if !code.Known() || !listed[code] {
					t.Errorf("%s: %q is not in the table or not in the schema Problem", b.where, code)
				}
				if b.status != code.HTTPStatus() {
					t.Errorf("%s: %s has status %d", b.where, code, code.HTTPStatus())
				}
				if status := schema.Properties["status"].Value.Const; fmt.Sprint(status) != fmt.Sprint(code.HTTPStatus()) {
					t.Errorf("the schema of %s has status %v", code, status)
				}
				if kind := schema.Properties["type"].Value.Const; kind != "urn:roundtrip:problem:"+string(code) {
					t.Errorf("the schema of %s has type %v", code, kind)
				}
			}
			for name, example := range b.examples() {
				if code := example.(map[string]any)["code"]; code != name {
					t.Errorf("%s: example %q is of %s", b.where, name, code)
				}
			}
		}
		if !maps.Equal(listed, answered) {
			t.Errorf("the schema Problem lists %v, and the operations answer %v", listed, answered)
		}
	})
}

func TestEveryAnsweredProblemIsDocumented(t *testing.T) {
	t.Parallel()
	documented := map[problem.Code]bool{}
	for _, d := range documents {
		for _, b := range bodies(d) {
			if b.media == mediaProblem {
				for code := range codes(d, b.Schema.Ref) {
					documented[code] = true
				}
			}
		}
	}
	for _, code := range problem.Codes() {
		if documented[code] == slices.Contains(notAnswered, code) {
			t.Errorf("%s: documented is %t", code, documented[code])
		}
	}
}

// If package problem writes an example differently, no service would send that
// example.
func TestProblemExamplesMatchWhatPackageProblemWrites(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for _, b := range bodies(d) {
			if b.media != mediaProblem {
				continue
			}
			for name, example := range b.examples() {
				var p problem.Problem
				if err := json.Unmarshal(encode(t, example), &p); err != nil {
					t.Errorf("%s, example %q: %v", b.where, name, err)
				}
				if written := encode(t, &p); !sameJSON(t, written, encode(t, example)) {
					t.Errorf("%s, example %q is written as %s", b.where, name, written)
				}
			}
		}
	})
}

func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var values [2]any
	for i, text := range [][]byte{a, b} {
		if err := json.Unmarshal(text, &values[i]); err != nil {
			t.Fatal(err)
		}
	}
	return reflect.DeepEqual(values[0], values[1])
}

// Retry-After is documented if a code of the response has the retry "after", and
// required if all of them have it.
func TestRetryAfterIsDocumentedWithProblemsThatNeedIt(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for name, response := range d.spec.Components.Responses {
			all, some := true, false
			for code := range codes(d, response.Value.Content[mediaProblem].Schema.Ref) {
				after := code.Retry() == problem.After
				all, some = all && after, some || after
			}
			header := response.Value.Headers["Retry-After"]
			if some != (header != nil) || header != nil && header.Value.Required != all {
				t.Errorf("response %s: Retry-After is not documented as its codes need it", name)
			}
		}
	})
}

func TestEveryObjectDeclaresAdditionalProperties(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for name, schema := range d.spec.Components.Schemas {
			if more := schema.Value.AdditionalProperties.Has; schema.Value.Type.Is(openapi3.TypeObject) && (more == nil || *more != (name == "Problem")) {
				t.Errorf("schema %s must say additionalProperties: %t", name, name == "Problem")
			}
		}
	})
}

func TestEveryOperationAndParameterIsDescribed(t *testing.T) {
	eachDocument(t, func(t *testing.T, d *Document) {
		for _, o := range d.Operations() {
			operation := d.spec.Paths.Value(o.Path).GetOperation(o.Method)
			if operation.Summary == "" {
				t.Errorf("%s has no summary", o.ID)
			}
			for _, p := range slices.Concat(operation.Parameters, d.spec.Paths.Value(o.Path).Parameters) {
				if p.Value.Description == "" || p.Value.Example == nil {
					t.Errorf("%s: parameter %s has no description or no example", o.ID, p.Value.Name)
				}
			}
		}
	})
}

func TestParseRejectsInvalidDocuments(t *testing.T) {
	t.Parallel()
	for name, change := range map[string][2]string{
		"invalid YAML":                     {"openapi: 3.1.0", "openapi: ["},
		"an unknown schema":                {`{$ref: "#/components/schemas/Levels"}`, `{$ref: "#/components/schemas/Level5"}`},
		"a body without a compiled schema": {`{$ref: "#/components/schemas/Levels"}`, `{type: object}`},
		"an invalid pattern":               {`^[A-Za-z0-9._-]{1,64}$`, `^[A-Za-z0-9._-{1,64}$`},
		"an operation without responses":   {`"504": {$ref: "#/components/responses/DeadlineExceeded"}`, `"504": {}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := bytes.Replace(inventoryYAML, []byte(change[0]), []byte(change[1]), 1)
			if bytes.Equal(text, inventoryYAML) {
				t.Fatal("nothing was changed")
			}
			if _, err := parse(text); err == nil {
				t.Error("the document was accepted")
			}
		})
	}
}

// The schemas have rules beyond the types of their fields.
func TestSchemasEnforceTheirRules(t *testing.T) {
	t.Parallel()
	order := `"version":1,"customer":"c","currency":"GBP","hold_seconds":900,"lines":[{"sku":"a","location":"main","quantity":1,"unit_price":5}],
		"total":5,"created_at":"2026-11-24T13:00:00.000Z","updated_at":"2026-11-24T13:00:00.000Z"`
	const (
		expires = `"hold_expires_at":"2026-11-24T13:15:00.000Z"`
		intent  = `"intent":{"operation":"cancel","seq":2,"since":"2026-11-24T13:00:00.000Z"}`
		done    = `"last_operation":{"operation":"place","seq":1,"outcome":"done"}`
		short   = `{"type":"urn:roundtrip:problem:insufficient-stock","title":"t","status":409,"code":"insufficient-stock","shortages":[{"sku":"a","location":"main","requested":2,"available":1}]}`
		line    = `"lines":[{"sku":"a","location":"main","quantity":1}]`
		level   = `"level":{"sku":"a","name":"","location":"main","on_hand":1,"reserved":0,"available":1,"version":1}`
		adjust  = `"id":"x","sku":"a","location":"main","reason":"lost","created_at":"2026-11-24T13:00:00.000Z"`
	)
	for _, test := range []struct {
		document, schema, value string
		valid                   bool
	}{
		{"orders", "Order", `{"id":"o","state":"placed",` + order + `,` + expires + `,` + done + `}`, true},
		{"orders", "Order", `{"id":"o","state":"placed",` + order + `,` + expires + `,` + done + `,` + intent + `}`, true},
		{"orders", "Order", `{"id":"o","state":"placed",` + order + `,` + done + `}`, false},
		{"orders", "Order", `{"id":"o","state":"placed",` + order + `,` + expires + `}`, false},
		{"orders", "Order", `{"id":"o","state":"confirmed",` + order + `,` + expires + `,` + done + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + order + `,` + intent + `}`, true},
		{"orders", "Order", `{"id":"o","state":"pending",` + order + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + order + `,` + intent + `,` + done + `}`, false},
		{"orders", "Order", `{"id":"o","state":"cancelled",` + order + `,` + intent + `,` + done + `}`, false},
		{"orders", "Order", `{"id":"o/p","state":"pending",` + order + `,` + intent + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + strings.Replace(order, ".000Z", "Z", 1) + `,` + intent + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + strings.Replace(order, "11-24", "02-30", 1) + `,` + intent + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + strings.Replace(order, `"total":5`, `"total":9223372036854775807`, 1) + `,` + intent + `}`, true},
		{"orders", "Order", `{"id":"o","state":"pending",` + strings.Replace(order, `"total":5`, `"total":9223372036854775808`, 1) + `,` + intent + `}`, false},
		{"orders", "Order", `{"id":"o","state":"pending",` + strings.Replace(order, `"total":5`, `"total":5.5`, 1) + `,` + intent + `}`, false},
		{"orders", "SettledOrder", `{"id":"o","state":"pending",` + order + `,` + intent + `}`, false},
		{"orders", "UnsettledOrder", `{"id":"o","state":"placed",` + order + `,` + expires + `,` + done + `}`, false},
		{"orders", "LastOperation", `{"operation":"place","seq":1,"outcome":"rejected","problem":` + short + `}`, true},
		{"orders", "LastOperation", `{"operation":"place","seq":1,"outcome":"rejected"}`, false},
		{"orders", "LastOperation", `{"operation":"place","seq":1,"outcome":"done","problem":` + short + `}`, false},
		{"orders", "LastOperation", `{"operation":"give-up","seq":1,"outcome":"done"}`, false},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"GBP","lines":[{"sku":"a","quantity":1,"unit_price":0}]}`, true},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"GBP","lines":[{"sku":"a","quantity":1}]}`, false},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"gbp","lines":[{"sku":"a","quantity":1,"unit_price":0}]}`, false},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"GBP","lines":[]}`, false},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"GBP","hold_seconds":null,"lines":[{"sku":"a","quantity":1,"unit_price":0}]}`, false},
		{"orders", "PlaceRequest", `{"customer":"c","currency":"GBP","Currency":"GBP","lines":[{"sku":"a","quantity":1,"unit_price":0}]}`, false},
		{"orders", "PlaceConflictProblem", short, true},
		{"orders", "PlaceConflictProblem", strings.Replace(short, `"shortages"`, `"short"`, 1), false},
		{"orders", "PlaceConflictProblem", strings.Replace(short, `"code":"insufficient-stock"`, `"code":"given-up"`, 1), false},
		{"inventory", "ReservationConflictProblem", short, false}, // it lacks the current seq and state
		{"inventory", "ReservationRequest", `{"seq":1,"state":"held","lines":[{"sku":"a","quantity":1}]}`, true},
		{"inventory", "ReservationRequest", `{"seq":1,"state":"held"}`, false},
		{"inventory", "ReservationRequest", `{"seq":0,"state":"released"}`, false},
		{"inventory", "ReservationRequest", `{"seq":1,"state":"released"}`, true},
		{"inventory", "ReservationRequest", `{"seq":1,"state":"released","hold_seconds":9}`, false},
		{"inventory", "ReservationRequest", `{"seq":1,"state":"committed",` + line + `}`, false},
		{"inventory", "ReservationRequest", `{"seq":1,"state":"expired"}`, false},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"held",` + line + `,"expires_at":"2026-11-24T13:15:00.000Z"}`, true},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"held",` + line + `}`, false},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"held","lines":[],"expires_at":"2026-11-24T13:15:00.000Z"}`, false},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"released",` + line + `,"expires_at":"2026-11-24T13:15:00.000Z"}`, false},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"none","lines":[]}`, true},
		{"inventory", "Reservation", `{"id":"o","seq":1,"state":"none","lines":null}`, false},
		{"inventory", "AdjustmentRequest", `{"sku":"a","reason":"lost","delta":-1}`, true},
		{"inventory", "AdjustmentRequest", `{"sku":"a","reason":"lost","delta":0}`, false},
		{"inventory", "AdjustmentRequest", `{"sku":"a","reason":"lost","delta":1,"on_hand":1}`, false},
		{"inventory", "AdjustmentRequest", `{"sku":"a","reason":"lost"}`, false},
		{"inventory", "AdjustmentRequest", `{"sku":"a","reason":"bored","delta":1}`, false},
		{"inventory", "Adjustment", `{` + adjust + `,"delta":-1,"outcome":"done",` + level + `}`, true},
		{"inventory", "Adjustment", `{` + adjust + `,"delta":-1,"outcome":"done"}`, false},
		{"inventory", "Adjustment", `{` + adjust + `,"delta":-1,"outcome":"rejected",` + level + `}`, false},
		{"inventory", "DoneAdjustment", `{` + adjust + `,"delta":-1,"outcome":"rejected","problem":` + short + `}`, false},
		{"inventory", "ImportReportLine", `{"row":1,"sku":"a","location":"main","outcome":"done"}`, true},
		{"inventory", "ImportReportLine", `{"row":1,"sku":"a b","location":"main","outcome":"done"}`, false},
		{"inventory", "ImportReportLine", `{"row":1,"sku":"a b","location":"","outcome":"rejected"}`, false},
		{"inventory", "ImportReportLine", `{"row":1,"sku":"a b","location":"","outcome":"rejected","problem":` + short + `}`, true},
		{"inventory", "ImportReportLine", `{"rows":1,"done":1,"unchanged":0}`, false},
		{"inventory", "FieldError", `{"pointer":"","detail":"d"}`, true},
		{"inventory", "FieldError", `{"pointer":"/lines/0/a~1b","detail":"d"}`, true},
		{"inventory", "FieldError", `{"pointer":"lines","detail":"d"}`, false},
	} {
		_, err := validate(documents[test.document].schemas["#/components/schemas/"+test.schema], []byte(test.value))
		if (err == nil) != test.valid {
			t.Errorf("%s %s: valid is %t: %v", test.schema, test.value, err == nil, err)
		}
	}
}
