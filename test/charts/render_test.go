// Package charts tests the Helm charts without a cluster: it renders them with many
// values and the pinned versions of Helm. `make charts` gets Helm and runs the tests.
// Without Helm they are skipped; in CI they fail.
package charts

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"roundtrip/test/support/helm"
	"roundtrip/test/support/testcache"
)

const (
	// kubernetesVersion is the version of the schemas and of the test cluster.
	kubernetesVersion = "v1.34.4"

	root   = "../.."
	charts = root + "/deploy/helm"
)

// find returns the path of a version of Helm.
func find(t *testing.T, version helm.Version) string {
	t.Helper()
	testcache.Watch(t, charts) // Helm reads them
	path, err := filepath.Abs(version.Path(root + "/.tools"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "" {
			t.Skipf("LEFT OUT: there is no Helm %s; run `make charts HELM3=1`", version)
		}
		t.Fatalf("there is no Helm %s; run `make charts HELM3=1`", version)
	}
	return path
}

// run runs Helm and returns its output. An error has its stderr.
func run(t *testing.T, version helm.Version, stdin string, args ...string) (out string, err error) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	c := exec.CommandContext(t.Context(), find(t, version), args...)
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(stdin), &stdout, &stderr
	// Do not use the user's cluster, plugins or repositories.
	home := t.TempDir()
	c.Env = append(os.Environ(), "KUBECONFIG="+home+"/none", "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home)
	if err := c.Run(); err != nil {
		return stdout.String(), errors.New(stderr.String())
	}
	return stdout.String(), nil
}

// template renders a chart as a release.
func template(t *testing.T, version helm.Version, release, chart, values string) string {
	t.Helper()
	// A Helm built by Go assumes an old Kubernetes by default.
	out, err := run(t, version, values, "template", release, filepath.Join(charts, chart), "--namespace=shop", "--values=-", "--kube-version="+kubernetesVersion)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// object is a rendered document of any kind.
type object map[string]any

func (o object) kind() string { return o["kind"].(string) }
func (o object) name() string { return o["metadata"].(map[string]any)["name"].(string) }

// into decodes an object strictly.
func into[T any](t *testing.T, o object) T {
	t.Helper()
	var v T
	text, err := yaml.Marshal(o)
	if err == nil {
		err = yaml.UnmarshalStrict(text, &v)
	}
	if err != nil {
		t.Fatalf("%s %s: %v", o.kind(), o.name(), err)
	}
	return v
}

// all decodes every object of a kind.
func all[T any](t *testing.T, objects []object, kind string) (found []T) {
	t.Helper()
	for _, o := range objects {
		if o.kind() == kind {
			found = append(found, into[T](t, o))
		}
	}
	return found
}

// parse reads the documents that a chart renders.
func parse(t *testing.T, text string) (objects []object) {
	t.Helper()
	for documents := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(text))); ; {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatal(err)
		}
		var o object
		if err := yaml.UnmarshalStrict(document, &o); err != nil {
			t.Fatalf("%v in\n%s", err, document)
		}
		if o != nil {
			objects = append(objects, o)
		}
	}
}

// pod is a pod that a chart creates, directly or through another object.
type pod struct {
	of   string
	meta metav1.ObjectMeta
	spec corev1.PodSpec
}

func podsOf(t *testing.T, objects []object) (pods []pod) {
	t.Helper()
	for _, d := range all[appsv1.Deployment](t, objects, "Deployment") {
		pods = append(pods, pod{"Deployment " + d.Name, d.Spec.Template.ObjectMeta, d.Spec.Template.Spec})
	}
	for _, j := range all[batchv1.Job](t, objects, "Job") {
		pods = append(pods, pod{"Job " + j.Name, j.Spec.Template.ObjectMeta, j.Spec.Template.Spec})
	}
	for _, p := range all[corev1.Pod](t, objects, "Pod") {
		pods = append(pods, pod{"Pod " + p.Name, p.ObjectMeta, p.Spec})
	}
	return pods
}

// values are a set of values to render a chart with.
type values struct{ name, release, chart, values string }

// everything turns on every option. The options for wires are added for each chart.
const everything = `
image: {registry: images.example.com, digest: "sha256:` + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" + `", pullSecrets: [images]}
database: {kind: postgres, secret: {name: pg, key: address}, connections: 8}
replicas: 3
hosts: [shop.example.com, www.shop.example.com]
ingress: {enabled: true, className: nginx, annotations: {a: b}}
httpRoute: {enabled: true, parentRefs: [{name: public, namespace: gateways}]}
tls: {certificate: {enabled: true, issuerRef: {name: letsencrypt, kind: ClusterIssuer}}}
networkPolicy:
  enabled: true
  namespaces: [web]
  metricsNamespaces: [monitoring]
  database: {to: [{podSelector: {matchLabels: {cnpg.io/cluster: pg}}}]}
  nats: {to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: nats}}}]}
  extraIngress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]
  extraEgress: [{to: [{ipBlock: {cidr: 10.1.0.0/16}}]}]
monitoring:
  serviceMonitor: {enabled: true, labels: {release: prometheus}}
  prometheusRule: {enabled: true, labels: {release: prometheus}}
  dashboard: {enabled: true}
service: {type: LoadBalancer, annotations: {c: d}}
labels: {team: shop}
annotations: {e: f}
podLabels: {g: h}
podAnnotations: {i: j}
nodeSelector: {kubernetes.io/os: linux}
tolerations: [{key: a, operator: Exists}]
affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
priorityClassName: high
serviceAccountName: shop
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ssl/certs}]
global: {imageRegistry: mirror.example.com, imagePullSecrets: [mirror]}
extraObjects:
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: more}, data: {a: b}}
  - |
    apiVersion: v1
    kind: ConfigMap
    metadata: {name: "{{ .Release.Name }}-text"}
`

// matrix has the values that the charts are tested with.
var matrix = []values{
	{"both services with defaults", "roundtrip", "roundtrip", ""},
	{"both services over gRPC", "try", "roundtrip", "{inventory: {grpc: {enabled: true, reflection: true}}, orders: {inventory: {wire: grpc}}}"},
	{"both services over NATS, on PostgreSQL", "try", "roundtrip", `
global: {imageRegistry: mirror.example.com}
inventory: {database: {kind: postgres}, replicas: 2, nats: {enabled: true, url: "nats://nats:4222"}, networkPolicy: {enabled: true}}
orders: {database: {kind: postgres}, replicas: 2, inventory: {wire: nats}, nats: {url: "nats://nats:4222"}, networkPolicy: {enabled: true}}`},
	{"both services with network policies", "try", "roundtrip", `
inventory: {grpc: {enabled: true}, networkPolicy: {enabled: true}}
orders: {inventory: {wire: grpc}, networkPolicy: {enabled: true, namespaces: [web]}}`},
	{"inventory", "inventory", "inventory", ""},
	{"inventory with an existing claim", "inventory", "inventory", "{persistence: {existingClaim: stock}, resources: {limits: null}, preStopSeconds: 7, drainSeconds: 20}"},
	{"inventory with everything", "stock", "inventory", everything + `
grpc: {enabled: true}
nats: {enabled: true, url: "nats://nats:4222", credentialsSecret: {name: nats}}
extraEnv: [{name: INVENTORY_ALLOW_UNSAFE_DATABASE, value: "true"}]`},
	{"inventory with autoscaling", "inventory", "inventory", "{database: {kind: postgres}, autoscaling: {enabled: true}, resources: {limits: {memory: 1Gi}}}"},
	{"orders", "orders", "orders", ""},
	{"orders with an inventory in another namespace", "sales", "orders", "{fullnameOverride: desk, inventory: {name: stock, namespace: warehouse}, persistence: {storageClass: fast, size: 20Gi}}"},
	{"orders with everything", "orders", "orders", everything + `
inventory: {wire: nats}
nats: {url: "nats://nats:4222", credentialsSecret: {name: nats}}
extraEnv: [{name: ORDERS_GIVE_UP_AFTER, value: 24h}]`},
	{"both services with a long name, on PostgreSQL", strings.Repeat("long-", 10) + "one", "roundtrip", `
inventory: {database: {kind: postgres}}
orders: {database: {kind: postgres}}`},
	{"inventory with numeric names and duplicate labels", "1234", "inventory", `
database: {kind: postgres, secret: {name: "12", key: "on"}}
nats: {enabled: true, url: "tls://nats:4222", credentialsSecret: {name: "13", key: "1.5"}}
image: {pullSecrets: ["14"]}
serviceAccountName: "15"
priorityClassName: "16"
hosts: ["17"]
ingress: {enabled: true, className: "18"}
tls: {secretName: "19"}
networkPolicy: {enabled: true, namespaces: ["20"], metricsNamespaces: ["true"], ordersNamespace: "21"}
maxInFlight: 2000000
labels: {team: shop}
podLabels: {team: stock}
monitoring:
  serviceMonitor: {enabled: true, labels: {team: watch}}
  dashboard: {enabled: true}
extraEnv: [{name: INVENTORY_ALLOW_UNSAFE_DATABASE, value: "true"}]
extraVolumes: [{name: ca, secret: {secretName: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /ca}]
extraObjects: [{apiVersion: v1, kind: ConfigMap, metadata: {name: text}, data: {text: "{{ $labels.pod }}"}}]`},
	{"orders with a numeric claim", "1234", "orders", `{persistence: {existingClaim: "22", size: 1.5Ti}, inventory: {namespace: "23"}, networkPolicy: {enabled: true}}`},
	{"orders with autoscaling", "orders", "orders", "{database: {kind: postgres}, autoscaling: {enabled: true, minReplicas: 3}, inventory: {wire: grpc}, networkPolicy: {enabled: true}}"},
}

// each runs a test for every set of values.
func each(t *testing.T, test func(t *testing.T, v values, objects []object)) {
	t.Helper()
	for _, v := range matrix {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			test(t, v, parse(t, template(t, helm.Four, v.release, v.chart, v.values)))
		})
	}
}
