package charts

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/client_golang/prometheus"

	"roundtrip/internal/cli"
	"roundtrip/internal/database"
	"roundtrip/internal/metrics"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
	"roundtrip/test/support/helm"
	"roundtrip/test/support/inprocess"
	"roundtrip/test/support/processes"
	"roundtrip/test/support/testcache"
)

// binaries builds both services and returns the folder.
var binaries = sync.OnceValues(func() (string, error) {
	folder := filepath.Join(schemas(), "bin")
	return folder, errors.Join(os.Mkdir(folder, 0o700), processes.Build(context.Background(), folder))
})

func binary(t *testing.T, name string) string {
	t.Helper()
	testcache.Watch(t, root+"/services") // the sources of the binaries
	folder, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(folder, name)
}

// execute runs a service's binary with only the given environment.
func execute(t *testing.T, name string, environment []string, args ...string) (exit int, out string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), binary(t, name), args...)
	c.Env, c.Dir = append([]string{"PATH=" + os.Getenv("PATH")}, environment...), t.TempDir()
	text, err := c.CombinedOutput()
	if c.ProcessState == nil {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), string(text)
}

// runtimeVariables are variables of Go's runtime.
var runtimeVariables = []string{"GOMEMLIMIT"}

// The binaries know every variable that a chart sets, and accept its value and the
// arguments.
func TestBinariesAcceptChartSettings(t *testing.T) {
	t.Parallel()
	find(t, helm.Four)
	known := map[string]string{}
	for _, name := range []string{"orders", "inventory"} {
		for _, command := range []string{"serve", "migrate up", "check", "audit"} {
			_, help := execute(t, name, nil, append(strings.Fields(command), "--help")...)
			known[name] += help
		}
	}
	each(t, func(t *testing.T, _ values, objects []object) {
		for _, p := range podsOf(t, objects) {
			c, name := p.spec.Containers[0], p.meta.Labels["app.kubernetes.io/name"]
			var set []string
			for variable, value := range environment(c) {
				set = append(set, variable+"="+value)
				if !regexp.MustCompile(`\$`+variable+`\b`).MatchString(known[name]) && !slices.Contains(runtimeVariables, variable) {
					t.Errorf("%s: %s does not know %s", p.of, name, variable)
				}
			}
			// All settings are valid if the command fails only at the invalid address.
			args, want := c.Args, ""
			switch c.Args[0] {
			case "serve":
				args, want = append(slices.Clone(args), "--http-addr=:-1"), "listen tcp: address -1: invalid port"
			case "migrate":
				want = "no such file" // the Secret is not mounted here
			case "check":
				continue // TestChecksAndProbesOfRunningServices runs it
			}
			if exit, out := execute(t, name, set, args...); exit != cli.ExitFailed || !strings.HasPrefix(out, name+": ") || !strings.Contains(out, want) {
				t.Errorf("%s: with %v: exit %d: %s", p.of, set, exit, out)
			}
		}
	})
	for variable, message := range map[string]string{"ORDERS_DRAIN_TIMEOUT=10": "error:", "ORDERS_INVENTORY_WIRE=udp": "error:", "GOMEMLIMIT=115Mi": "malformed GOMEMLIMIT"} {
		if exit, out := execute(t, "orders", []string{variable}, "serve", "--http-addr=:-1"); exit != cli.ExitFailed || !strings.Contains(out, message) {
			t.Errorf("with %s: exit %d: %s", variable, exit, out)
		}
	}
}

// The chart's test command and probes work with services that run with the chart's
// settings.
func TestChecksAndProbesOfRunningServices(t *testing.T) {
	t.Parallel()
	find(t, helm.Four)
	for _, wire := range []string{"http", "grpc", "nats"} {
		t.Run(wire, func(t *testing.T) {
			t.Parallel()
			l := inprocess.Listen(t)
			address := l.Addr().String()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			environments := map[string][]string{}
			for _, p := range podsOf(t, parse(t, template(t, helm.Four, "try", "roundtrip", ""))) {
				if strings.HasPrefix(p.of, "Deployment ") {
					for variable, value := range environment(p.spec.Containers[0]) {
						environments[p.meta.Labels["app.kubernetes.io/name"]] = append(environments[p.meta.Labels["app.kubernetes.io/name"]], variable+"="+value)
					}
				}
			}
			folder := t.TempDir()
			both, err := processes.StartSystem(t.Context(), folder, processes.Wire{Name: wire, Addr: address},
				processes.Options{Binary: binary(t, "inventory"), Env: environments["inventory"]}, processes.Options{Binary: binary(t, "orders"), Env: environments["orders"]})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				if err := both.Stop(ctx); err != nil {
					t.Error(err)
				}
			})
			inventoryCheck := []string{"check", "--url=" + both.Inventory.URL}
			switch wire {
			case "grpc":
				inventoryCheck = append(inventoryCheck, "--grpc-target=dns:///"+both.Inventory.GRPCAddr)
			case "nats":
				inventoryCheck = append(inventoryCheck, "--nats-url=nats://"+address)
			}
			if exit, out := execute(t, "inventory", nil, inventoryCheck...); exit != 0 || !strings.Contains(out, wire+": GetStock") {
				t.Errorf("inventory check: exit %d: %s", exit, out)
			}
			for range 2 {
				if exit, out := execute(t, "orders", nil, "check", "--url="+both.Orders.URL); exit != 0 {
					t.Errorf("orders check: exit %d: %s", exit, out)
				}
			}
			for _, s := range []*processes.Process{both.Inventory, both.Orders} {
				for _, path := range []string{"/startupz", "/livez", "/readyz", "/metrics"} {
					response, err := http.Get(s.AdminURL + path)
					if err != nil {
						t.Fatal(err)
					}
					if err := response.Body.Close(); err != nil || response.StatusCode != http.StatusOK {
						t.Errorf("%s: %d", path, response.StatusCode)
					}
				}
			}
			// Each check leaves a rejected order, for which inventory holds nothing.
			if exit, out := execute(t, "orders", nil, "audit", "--database=sqlite:"+filepath.Join(folder, "orders.db"), "--inventory-url="+both.Inventory.URL); exit != 0 || !strings.Contains(out, "2 orders and 2 reservations") {
				t.Errorf("orders audit: exit %d: %s", exit, out)
			}
		})
	}
}

// exported returns the labels of every exported metric, by service and name.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	ordersMetrics, inventoryMetrics := metrics.New(), metrics.New()
	o, err := orders.New(t.Context(), orders.Options{
		HTTP: inprocess.Listen(t), Admin: inprocess.Listen(t), Database: database.Options{Source: inprocess.Database(t, "orders")},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1, Metrics: ordersMetrics, InventoryWire: "http", InventoryURL: "http://127.0.0.1:1", SettleInterval: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	i, err := inventory.New(t.Context(), inventory.Options{
		HTTP: inprocess.Listen(t), Admin: inprocess.Listen(t), Database: database.Options{Source: inprocess.Database(t, "inventory")},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1, Metrics: inventoryMetrics,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(o.Stop(context.Background()), i.Stop(context.Background())); err != nil {
			t.Error(err)
		}
	}()
	found := map[string][]string{}
	for name, registry := range map[string]*prometheus.Registry{"orders": ordersMetrics.Registry, "inventory": inventoryMetrics.Registry} {
		described := make(chan *prometheus.Desc)
		go func() { registry.Describe(described); close(described) }()
		for d := range described {
			m := descPattern.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("unknown description of a metric: %s", d)
			}
			found[name+" "+m[1]] = strings.Split(m[2], ",")
		}
	}
	return found
}

var descPattern = regexp.MustCompile(`^Desc\{fqName: "([^"]+)", .*variableLabels: \{(.*)\}\}$`)

// Labels that Prometheus and the operator add to every series.
var targetLabels = []string{"namespace", "job", "service", "pod", "instance", "le"}

// unknown returns the names in a query that a service does not export.
func unknown(t *testing.T, service, query string, metrics map[string][]string) (names []string) {
	t.Helper()
	parsed, err := metricsql.Parse(query)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	var labels, grouped []string
	metricsql.VisitAll(parsed, func(e metricsql.Expr) {
		switch e := e.(type) {
		case *metricsql.MetricExpr:
			for _, filters := range e.LabelFilterss {
				for _, f := range filters {
					if f.Label != "__name__" {
						grouped = append(grouped, f.Label)
						continue
					}
					name := f.Value
					for _, suffix := range []string{"_bucket", "_sum", "_count"} {
						name = strings.TrimSuffix(name, suffix)
					}
					of, ok := metrics[service+" "+name]
					if !ok {
						names = append(names, f.Value)
					}
					labels = append(labels, of...)
				}
			}
		case *metricsql.AggrFuncExpr:
			grouped = append(grouped, e.Modifier.Args...)
		}
	})
	for _, l := range grouped {
		if !slices.Contains(labels, l) && !slices.Contains(targetLabels, l) {
			names = append(names, l)
		}
	}
	return names
}

var legendPattern = regexp.MustCompile(`\{\{(\w+)\}\}`)

// dashboard has the parts of a dashboard that the test reads.
type dashboard struct {
	UID    string
	Panels []struct {
		Title   string
		Targets []struct{ Expr, LegendFormat string }
	}
}

func TestAlertsAndDashboardsUseExportedMetrics(t *testing.T) {
	t.Parallel()
	metrics := exported(t)
	for _, chart := range []string{"inventory", "orders"} {
		queries := 0
		for _, o := range parse(t, template(t, helm.Four, "a", chart, "monitoring: {prometheusRule: {enabled: true}, dashboard: {enabled: true}}")) {
			switch o.kind() {
			case "PrometheusRule":
				for _, g := range o["spec"].(map[string]any)["groups"].([]any) {
					for _, r := range g.(map[string]any)["rules"].([]any) {
						queries++
						if names := unknown(t, chart, r.(map[string]any)["expr"].(string), metrics); len(names) > 0 {
							t.Errorf("%s: %v uses unknown names %v", chart, r, names)
						}
					}
				}
			case "ConfigMap":
				for _, text := range o["data"].(map[string]any) {
					var d dashboard
					if err := json.Unmarshal([]byte(text.(string)), &d); err != nil || d.UID == "" {
						t.Fatalf("%v in %s", err, text)
					}
					for _, panel := range d.Panels {
						for _, target := range panel.Targets {
							queries++
							names := unknown(t, chart, target.Expr, metrics)
							for _, label := range legendPattern.FindAllStringSubmatch(target.LegendFormat, -1) {
								if !strings.Contains(target.Expr, label[1]) && label[1] != "pod" {
									names = append(names, label[1])
								}
							}
							if len(names) > 0 {
								t.Errorf("%s: %s uses unknown names %v", chart, panel.Title, names)
							}
						}
					}
				}
			}
		}
		if queries < 9 {
			t.Errorf("%s has %d queries, want at least 9", chart, queries)
		}
	}
	if names := unknown(t, "orders", `sum by (kind) (rate(roundtrip_exchange_total{role="caller"}[5m]))`, metrics); len(names) != 3 {
		t.Errorf("found the unknown names %v, want three", names)
	}
}
