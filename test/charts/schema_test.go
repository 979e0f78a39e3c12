package charts

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/yannh/kubeconform/pkg/resource"
	"github.com/yannh/kubeconform/pkg/validator"
	"sigs.k8s.io/yaml"

	"roundtrip/test/support/helm"
)

// kubernetes is the module with the schemas of Kubernetes. definitions are the custom
// resource definitions of other kinds.
const kubernetes = "k8s.io/kubernetes@" + kubernetesVersion

var definitions = map[string][]string{
	"sigs.k8s.io/gateway-api@v1.4.0":                             {"config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"},
	"github.com/cert-manager/cert-manager@v1.19.1":               {"deploy/crds/cert-manager.io_certificates.yaml"},
	"github.com/prometheus-operator/prometheus-operator@v0.85.0": {"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml", "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"},
}

// module downloads a Go module and returns its folder.
func module(t *testing.T, version string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", version).Output()
	var m struct{ Dir, Error string }
	if err := json.Unmarshal(out, &m); err != nil || m.Dir == "" {
		t.Fatalf("download %s: %v %s", version, err, m.Error)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Dir
}

// strict makes a schema forbid unknown fields, as the API server's strict validation
// does. It allows numbers where Kubernetes accepts them as text.
func strict(schema any) {
	switch s := schema.(type) {
	case []any:
		for _, v := range s {
			strict(v)
		}
	case map[string]any:
		if _, ok := s["properties"].(map[string]any); ok && s["additionalProperties"] == nil && s["x-kubernetes-preserve-unknown-fields"] != true {
			s["additionalProperties"] = false
		}
		if s["format"] == "int-or-string" || s["x-kubernetes-int-or-string"] == true {
			delete(s, "format")
			s["type"] = []any{"integer", "string"}
		}
		for _, v := range s {
			strict(v)
		}
	}
}

// schemas is a folder with a schema for every kind that the charts use.
var schemas = sync.OnceValue(func() string {
	folder, err := os.MkdirTemp("", "roundtrip-schemas-")
	if err != nil {
		panic(err)
	}
	return folder
})

func TestMain(m *testing.M) {
	status := m.Run()
	if err := os.RemoveAll(schemas()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// writeSchemas writes the schemas and returns a validator.
func writeSchemas(t *testing.T) validator.Validator {
	t.Helper()
	write := func(name string, v any) {
		text, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(schemas(), name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(module(t, kubernetes), "api/openapi-spec/swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(text, &api); err != nil {
		t.Fatal(err)
	}
	file := func(group, version, kind string) string {
		if group == "" { // kubeconform uses the version as the group of the core
			group = version
		}
		return strings.ToLower(group + "_" + version + "_" + kind + ".json")
	}
	for name, d := range api.Definitions {
		switch name {
		case "io.k8s.apimachinery.pkg.api.resource.Quantity":
			d["type"] = []any{"number", "string"}
		case "io.k8s.apimachinery.pkg.util.intstr.IntOrString":
			d["type"] = []any{"integer", "string"}
			delete(d, "format")
		}
		strict(d)
		kinds, _ := d["x-kubernetes-group-version-kind"].([]any)
		for _, k := range kinds {
			k := k.(map[string]any)
			write(file(k["group"].(string), k["version"].(string), k["kind"].(string)), map[string]any{"$ref": "kubernetes.json#/definitions/" + name})
		}
	}
	write("kubernetes.json", map[string]any{"definitions": api.Definitions})
	for m, files := range definitions {
		folder := module(t, m)
		for _, f := range files {
			text, err := os.ReadFile(filepath.Join(folder, f))
			if err != nil {
				t.Fatal(err)
			}
			var d struct {
				Spec struct {
					Group    string
					Names    struct{ Kind string }
					Versions []struct {
						Name   string
						Schema struct{ OpenAPIV3Schema map[string]any }
					}
				}
			}
			if err := yaml.Unmarshal(text, &d); err != nil {
				t.Fatal(err)
			}
			for _, v := range d.Spec.Versions {
				schema := v.Schema.OpenAPIV3Schema
				strict(schema)
				schema["properties"].(map[string]any)["metadata"] = map[string]any{"$ref": "kubernetes.json#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
				write(file(d.Spec.Group, v.Name, d.Spec.Names.Kind), schema)
			}
		}
	}
	v, err := validator.New([]string{schemas() + "/{{ .Group }}_{{ .ResourceAPIVersion }}_{{ .ResourceKind }}.json"}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func conforms(v validator.Validator, o object) error {
	text, err := yaml.Marshal(o)
	if err != nil {
		return err
	}
	switch result := v.ValidateResource(resource.Resource{Path: o.name(), Bytes: text}); result.Status {
	case validator.Valid:
		return nil
	default:
		return fmt.Errorf("%w %v", result.Err, result.ValidationErrors)
	}
}

func TestRenderedObjectsFitKubernetesSchemas(t *testing.T) {
	t.Parallel()
	find(t, helm.Four)
	v := writeSchemas(t)
	var mu sync.Mutex
	kinds := map[string]bool{}
	t.Run("matrix", func(t *testing.T) {
		each(t, func(t *testing.T, _ values, objects []object) {
			for _, o := range objects {
				mu.Lock()
				kinds[o.kind()] = true
				mu.Unlock()
				if err := conforms(v, o); err != nil {
					t.Errorf("%s %s: %v", o.kind(), o.name(), err)
				}
			}
		})
	})
	for _, kind := range []string{"Deployment", "Service", "PersistentVolumeClaim", "Job", "Pod", "NetworkPolicy", "HorizontalPodAutoscaler",
		"PodDisruptionBudget", "Ingress", "HTTPRoute", "Certificate", "ServiceMonitor", "PrometheusRule", "ConfigMap"} {
		if !kinds[kind] {
			t.Errorf("no %s is rendered", kind)
		}
	}
	// Invalid objects must be refused.
	for _, planted := range []string{
		"{apiVersion: apps/v1, kind: Deployment, metadata: {name: a}, spec: {selector: {}, template: {}, replica: 1}}",
		"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: http}]}}",
		"{apiVersion: monitoring.coreos.com/v1, kind: ServiceMonitor, metadata: {name: a}, spec: {selector: {}, endpoints: [{prt: a}]}}",
		"{apiVersion: v2, kind: Service, metadata: {name: a}}",
	} {
		if err := conforms(v, parse(t, planted)[0]); err == nil {
			t.Errorf("an invalid object is accepted: %s", planted)
		}
	}
}

func TestRenderingIsDeterministicAndHasNoNulls(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, v values, objects []object) {
		if a, b := template(t, helm.Four, v.release, v.chart, v.values), template(t, helm.Four, v.release, v.chart, v.values); a != b {
			t.Error("the second rendering differs")
		}
		for _, o := range objects {
			for _, path := range nulls("", map[string]any(o)) {
				t.Errorf("%s %s: %s is null", o.kind(), o.name(), path)
			}
		}
	})
}

func nulls(path string, v any) (found []string) {
	switch v := v.(type) {
	case nil:
		return []string{path}
	case map[string]any:
		for key, value := range v {
			found = append(found, nulls(path+"."+key, value)...)
		}
	case []any:
		for i, value := range v {
			found = append(found, nulls(fmt.Sprintf("%s[%d]", path, i), value)...)
		}
	}
	return found
}

// A namespace may have a numeric name, such as the number of a pull request.
func TestNumericNamespace(t *testing.T) {
	t.Parallel()
	find(t, helm.Four)
	for _, v := range matrix {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			out, err := run(t, helm.Four, v.values, "template", v.release, charts+"/"+v.chart, "--namespace=77", "--values=-", "--kube-version="+kubernetesVersion)
			if err != nil {
				t.Fatal(err)
			}
			for _, o := range parse(t, out) {
				if namespace, ok := o["metadata"].(map[string]any)["namespace"]; ok && namespace != "77" {
					t.Errorf("%s %s is in the namespace %v", o.kind(), o.name(), namespace)
				}
			}
		})
	}
}

// Both versions of Helm accept the charts and render the same.
func TestHelm3And4RenderTheSame(t *testing.T) {
	t.Parallel()
	for _, version := range []helm.Version{helm.Four, helm.Three} { // 3 last: if it is missing, the test ends here
		if out, err := run(t, version, "", "lint", "--strict", charts+"/inventory", charts+"/orders", charts+"/roundtrip", charts+"/common"); err != nil {
			t.Errorf("Helm %s: %s %v", version, out, err)
		}
	}
	each(t, func(t *testing.T, v values, objects []object) {
		order := func(objects []object) (texts []string) {
			for _, o := range objects {
				text, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				texts = append(texts, string(text))
			}
			slices.Sort(texts)
			return texts
		}
		if three := parse(t, template(t, helm.Three, v.release, v.chart, v.values)); !slices.Equal(order(three), order(objects)) {
			t.Error("Helm 3 and 4 render it differently")
		}
	})
}

// A package contains the files that symlinks point to.
func TestPackagedChartRendersTheSame(t *testing.T) {
	t.Parallel()
	for _, chart := range []string{"inventory", "orders", "roundtrip"} {
		folder := t.TempDir()
		if _, err := run(t, helm.Four, "", "package", charts+"/"+chart, "--destination="+folder); err != nil {
			t.Fatal(err)
		}
		packed, err := run(t, helm.Four, "", "template", "a", folder+"/"+chart+"-0.0.0.tgz", "--namespace=shop", "--kube-version="+kubernetesVersion)
		if err != nil {
			t.Fatal(err)
		}
		if packed != template(t, helm.Four, "a", chart, "") {
			t.Errorf("%s renders differently from its package", chart)
		}
	}
}

func TestInvalidValuesAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ chart, set, says string }{
		{"orders", "replica=2", "additional properties 'replica' not allowed"},
		{"orders", "image.version=2", "additional properties 'version' not allowed"},
		{"inventory", "networkPolicy.on=true", "additional properties 'on' not allowed"},
		{"roundtrip", "order.replicas=2", "additional properties 'order' not allowed"},
		{"roundtrip", "orders.replica=2", "additional properties 'replica' not allowed"},
		{"orders", "replicas=2", "several replicas do not share a file of SQLite; else set replicas to 1"},
		{"inventory", "replicas=2", "several replicas do not share a file of SQLite"},
		{"orders", "autoscaling.enabled=true", "autoscaling makes several replicas"},
		{"inventory", "autoscaling.enabled=true", "autoscaling makes several replicas"},
		{"orders", "inventory.wire=nats", "with inventory.wire nats orders must know its NATS server"},
		{"inventory", "nats.enabled=true", "with nats.enabled inventory must know its NATS server"},
		{"orders", "nats.url=nats:4222", "does not match pattern"},
		{"orders", "inventory.wire=udp", "value must be one of 'http', 'grpc', 'nats'"},
		{"roundtrip", "orders.inventory.wire=grpc", "true: orders asks by grpc"},
		{"roundtrip", "orders.inventory.wire=nats,orders.nats.url=nats://n:1", "true: orders asks by nats"},
		{"orders", "ingress.enabled=true", "with ingress.enabled it must have one"},
		{"orders", "httpRoute.enabled=true", "with httpRoute.enabled it must belong to one"},
		{"orders", "tls.certificate.enabled=true,hosts[0]=a.example.com", "with tls.certificate.enabled there must be one"},
		{"orders", "tls.certificate.enabled=true", "there must be one to certify"},
		{"orders", "image.digest=latest", "does not match pattern"},
		{"orders", "resources.limits.memory=1e9", "does not match pattern"},
		{"orders", "preStopSeconds=0", "minimum"},
		{"orders", "fullnameOverride=" + strings.Repeat("a", 45), "maxLength"},
		{"roundtrip", "inventory.fullnameOverride=stock", "orders and the notes know inventory by the name of the release"},
		{"roundtrip", "orders.fullnameOverride=desk", "the notes know orders by the name of the release"},
		{"orders", "nats.url=nats://user:password@nats:4222", "does not match pattern"},
		{"orders", "extraEnv[0].name=ORDERS_DRAIN_TIMEOUT,extraEnv[0].value=60s", "at '/extraEnv/0/name': 'not' failed"},
		{"orders", `labels.app\.kubernetes\.io/part-of=platform`, "'not' failed"},
		{"inventory", `podLabels.app\.kubernetes\.io/component=web`, "'not' failed"},
		{"orders", "database.kind=postgres,autoscaling.enabled=true,autoscaling.minReplicas=9", "minReplicas may be at most autoscaling.maxReplicas"},
		{"orders", "database.kind=postgres,autoscaling.enabled=true,resources.requests.cpu=null", "autoscaling.cpuPercent is a part of what is requested"},
		{"orders", "networkPolicy.enabled=true,ingress.enabled=true,hosts[0]=a.example.com", "that of its controller must be let in"},
		{"orders", "networkPolicy.enabled=true,httpRoute.enabled=true,httpRoute.parentRefs[0].name=a", "that of its controller must be let in"},
		{"inventory", "networkPolicy.enabled=true,monitoring.serviceMonitor.enabled=true", "that of Prometheus must be let in"},
	} {
		for _, version := range []helm.Version{helm.Three, helm.Four} {
			out, err := run(t, version, "", "template", "a", charts+"/"+c.chart, "--kube-version="+kubernetesVersion, "--set="+c.set)
			if err == nil {
				t.Errorf("%s with %s is rendered:\n%.300s", c.chart, c.set, out)
			} else if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s with %s: got the error\n%v", c.chart, c.set, err)
			}
		}
	}
}
