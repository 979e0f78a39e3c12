package charts

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var update = flag.Bool("update", false, "write the table of values")

// value is a leaf of a values.yaml.
type value struct{ path, preset, description string }

// readValues reads a chart's values with their descriptions: the value's own comment,
// or its parent's.
func readValues(t *testing.T, chart string) []value {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(charts, chart, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var found []value
	var walk func(node *yaml.Node, path, says string)
	walk = func(node *yaml.Node, path, says string) {
		if node.Kind != yaml.MappingNode || len(node.Content) == 0 {
			var v any
			if err := node.Decode(&v); err != nil {
				t.Fatal(err)
			}
			preset, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, value{path, string(preset), says})
			return
		}
		for i := 0; i < len(node.Content); i += 2 {
			key, own := node.Content[i], says
			if comment := key.HeadComment; comment != "" {
				// A comment on several values ends with an empty line.
				paragraphs := strings.Split(comment, "\n\n")
				own = strings.Join(strings.Fields(strings.ReplaceAll("\n"+paragraphs[len(paragraphs)-1], "\n#", " ")), " ")
			}
			walk(node.Content[i+1], strings.TrimPrefix(path+"."+key.Value, "."), own)
		}
	}
	walk(document.Content[0], "", "")
	return found
}

// schemaPaths returns the paths that a schema allows: its leaves, and objects with
// free content.
func schemaPaths(t *testing.T, chart string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(charts, chart, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	type schema struct {
		Properties           map[string]json.RawMessage
		AdditionalProperties any
	}
	var paths []string
	var walk func(text []byte, path string)
	walk = func(text []byte, path string) {
		var s schema
		if err := json.Unmarshal(text, &s); err != nil {
			t.Fatal(err)
		}
		if len(s.Properties) == 0 || s.AdditionalProperties != false && path != "global" {
			paths = append(paths, path)
		}
		for key, property := range s.Properties {
			walk(property, strings.TrimPrefix(path+"."+key, "."))
		}
	}
	walk(text, "")
	return paths
}

var usePattern = regexp.MustCompile(`\.Values\.([A-Za-z0-9.]+)`)

// usedPaths returns the values that a chart's templates and the shared templates use.
func usedPaths(t *testing.T, chart string) []string {
	t.Helper()
	var used []string
	for _, folder := range []string{chart, "common"} {
		files, err := filepath.Glob(filepath.Join(charts, folder, "templates", "*"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range usePattern.FindAllStringSubmatch(string(text), -1) {
				used = append(used, m[1])
			}
		}
	}
	slices.Sort(used)
	return slices.Compact(used)
}

func within(path, of string) bool { return path == of || strings.HasPrefix(path, of+".") }

// Every value is in values.yaml, in the schema and in a template.
func TestValuesAreDocumentedCheckedAndUsed(t *testing.T) {
	t.Parallel()
	for _, chart := range []string{"inventory", "orders"} {
		values := readValues(t, chart)
		if len(values) < 60 {
			t.Fatalf("%s has %d values", chart, len(values))
		}
		has := func(of string) bool {
			return slices.ContainsFunc(values, func(v value) bool { return within(v.path, of) || within(of, v.path) && v.preset == "{}" })
		}
		allowed, used := schemaPaths(t, chart), usedPaths(t, chart)
		for _, v := range values {
			if v.description == "" {
				t.Errorf("%s: %s has no description", chart, v.path)
			}
			if !slices.ContainsFunc(allowed, func(a string) bool { return within(v.path, a) && a != "" }) {
				t.Errorf("%s: the schema does not know %s", chart, v.path)
			}
			if !slices.ContainsFunc(used, func(u string) bool { return within(v.path, u) }) {
				t.Errorf("%s: no template uses %s", chart, v.path)
			}
		}
		for _, a := range allowed {
			if !has(a) && !slices.Contains(notPreset, a) {
				t.Errorf("%s: the schema allows %q, which is not in values.yaml", chart, a)
			}
		}
		for _, u := range used {
			if !has(u) {
				t.Errorf("%s: a template uses %s, which is not in values.yaml", chart, u)
			}
		}
	}
}

// notPreset are allowed values without a default: fields of Kubernetes objects, and
// the library chart, which has no values.
var notPreset = []string{"", "common", "resources.claims", "tls.certificate.issuerRef.group"}

// A value that both charts have has the same schema in both.
func TestChartSchemasAgree(t *testing.T) {
	t.Parallel()
	read := func(chart string) (s struct{ Properties map[string]any }) {
		text, err := os.ReadFile(filepath.Join(charts, chart, "values.schema.json"))
		if err == nil {
			err = json.Unmarshal(text, &s)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	inventory, orders := read("inventory").Properties, read("orders").Properties
	for key, of := range inventory {
		if _, both := orders[key]; !both || slices.Contains([]string{"nats", "networkPolicy"}, key) { // these differ with the wires
			continue
		}
		if !reflect.DeepEqual(of, orders[key]) {
			t.Errorf("%s differs: %v and %v", key, of, orders[key])
		}
	}
}

// extraEnv can't set a variable that a value of the chart sets.
func TestExtraEnvCannotOverrideChartVariables(t *testing.T) {
	t.Parallel()
	var s struct {
		Properties struct {
			ExtraEnv struct {
				Items struct {
					Properties struct {
						Name struct{ Not struct{ Enum []string } }
					}
				}
			}
		}
	}
	text, err := os.ReadFile(filepath.Join(charts, "orders", "values.schema.json")) // inventory's is the same
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	refused := s.Properties.ExtraEnv.Items.Properties.Name.Not.Enum
	if err != nil || len(refused) == 0 {
		t.Fatalf("nothing is refused: %v", err)
	}
	each(t, func(t *testing.T, v values, objects []object) {
		for _, p := range podsOf(t, objects) {
			for name := range environment(p.spec.Containers[0]) {
				if !slices.Contains(refused, name) && !strings.Contains(v.values, "{name: "+name+",") {
					t.Errorf("%s sets %s, and the schema allows it in extraEnv", p.of, name)
				}
			}
		}
	})
}

// The maximum number of replicas, and one more during a rollout, fit the connections
// of a PostgreSQL with defaults: it has 100, of which 3 are for superusers, and the
// Job takes up to 2.
func TestDefaultConnectionsFitPostgreSQL(t *testing.T) {
	t.Parallel()
	for _, chart := range []string{"inventory", "orders"} {
		preset := map[string]int{}
		for _, v := range readValues(t, chart) {
			preset[v.path], _ = strconv.Atoi(v.preset)
		}
		if n := (preset["autoscaling.maxReplicas"] + 1) * preset["database.connections"]; n == 0 || n > 100-3-2 {
			t.Errorf("%s may use %d connections", chart, n)
		}
	}
}

const valuesFile = charts + "/VALUES.md"

// The table is generated from values.yaml by `make values`.
func TestValuesTableIsUpToDate(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	table.WriteString("# Every value of the charts\n\nMade of each chart's `values.yaml` by `make values`; don't edit it. `roundtrip` has both charts' values, under `inventory`\nand `orders`.\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	for _, chart := range []string{"inventory", "orders"} {
		fmt.Fprintf(&table, "\n## %s\n\n| value | preset | what it is |\n|---|---|---|\n", chart)
		for _, v := range readValues(t, chart) {
			fmt.Fprintf(&table, "| `%s` | `%s` | %s |\n", v.path, cell.Replace(v.preset), cell.Replace(v.description))
		}
	}
	if *update {
		if err := os.WriteFile(valuesFile, []byte(table.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(valuesFile); err != nil || string(have) != table.String() {
		t.Errorf("%s is not up to date (%v); run `make values`", valuesFile, err)
	}
}
