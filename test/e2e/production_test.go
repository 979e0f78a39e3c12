package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"roundtrip/test/e2e/loadstats"
	"roundtrip/test/support/natsauth"
)

// leastRate is the expected number of requests a second. A busy machine may send
// fewer.
const leastRate = 100

var services = []string{"inventory", "orders"}

// production is both services on PostgreSQL, with two replicas each and with
// NetworkPolicies, under constant load from another namespace.
type production struct {
	*testing.T
	services, servers, callers *namespace
	values                     string
}

// TestRolloutsUnderLoad does what operators do in production. No request may fail.
func TestRolloutsUnderLoad(t *testing.T) {
	theCluster(t)
	// Build before the load starts: compilers need the machine.
	makeImagesWithMigration(t, "e2e-next", 99999, map[string]string{
		"inventory": "ALTER TABLE levels ADD COLUMN e2e text;", "orders": "ALTER TABLE orders ADD COLUMN e2e text;",
	})
	makeImagesWithMigration(t, "e2e-bad", 100000, map[string]string{"inventory": "ALTER TABLE nothing ADD COLUMN e2e text;"})
	p := startProduction(t)
	before := "http"
	for _, wire := range []string{"http", "nats", "grpc"} {
		if wire != before {
			p.step("from "+before+" to "+wire, func() { p.upgrade("orders", "inventory.wire="+wire) })
			before = wire
		}
		p.step("rolling restart of both, "+wire, func() {
			p.services.kubectl("rollout", "restart", "deployment/inventory", "deployment/orders")
			for _, service := range services {
				p.services.kubectl("rollout", "status", "deployment/"+service, "--timeout=3m")
			}
		})
	}
	p.step("another image, with a migration", func() {
		for _, service := range services {
			p.upgrade(service, "image.tag=e2e-next")
		}
	})
	p.step("rollback", func() {
		for _, service := range []string{"orders", "inventory"} {
			p.services.helm("rollback", service, "--wait", "--timeout=3m")
		}
	})
	p.step("a pod of each deleted", func() {
		for _, service := range services {
			pod, _, _ := strings.Cut(p.pods(service), " ")
			p.services.kubectl("delete", "pod", pod)
			p.services.kubectl("rollout", "status", "deployment/"+service, "--timeout=3m")
		}
	})
	p.step("from 2 replicas to 4", func() {
		for _, service := range services {
			p.upgrade(service, "replicas=4")
		}
		p.share("orders", `wire="http"`)
		p.share("inventory", `wire="grpc"`)
	})
	p.step("from 4 replicas to 2", func() {
		for _, service := range services {
			p.upgrade(service, "replicas=2")
		}
	})
	p.step("autoscaling on, and off", func() {
		for _, service := range services {
			p.upgrade(service, "autoscaling.enabled=true")
		}
		for _, service := range services {
			until(t, "the autoscaler gives "+service+" its minimum number of replicas", func() bool {
				return p.services.kubectl("get", "deployment", service, "--output=jsonpath={.spec.replicas} {.status.availableReplicas}") == "2 2"
			})
		}
		for _, service := range services {
			p.upgrade(service, "autoscaling.enabled=false")
		}
	})

	p.step("an unauthorized pod reaches nothing", func() { t.Run("an unauthorized pod reaches nothing", p.unauthorizedPod) })

	p.step("a migration that fails", func() {
		p.fails("inventory", "image.tag=e2e-bad")
		p.says("does not exist", "logs", "--selector=app.kubernetes.io/component=migration,app.kubernetes.io/name=inventory", "--tail=-1")
		p.services.helm("rollback", "inventory", "--wait", "--timeout=3m")
	})
	p.step("a Secret with a wrong password", func() {
		p.services.kubectl("create", "secret", "generic", "wrong", "--from-literal=uri="+p.address("orders", "wrong"))
		p.fails("orders", "database.secret.name=wrong")
		p.says("password authentication failed", "logs", "--selector=app.kubernetes.io/component=migration,app.kubernetes.io/name=orders", "--tail=-1")
		p.services.helm("rollback", "orders", "--wait", "--timeout=3m")
	})
	p.step("a missing Secret", func() {
		p.fails("inventory", "database.secret.name=absent")
		p.says(`secret "absent" not found`, "events", "--types=Warning")
		p.services.helm("rollback", "inventory", "--wait", "--timeout=3m")
	})
	p.step("a missing image", func() {
		p.fails("orders", "image.tag=e2e-absent")
		p.says("roundtrip/orders:e2e-absent", "events", "--types=Warning")
		p.services.helm("rollback", "orders", "--wait", "--timeout=3m")
	})
}

func startProduction(t *testing.T) *production {
	t.Helper()
	c := theCluster(t)
	began := time.Now()
	p := &production{T: t}
	p.servers, p.callers, p.services = c.namespace(t, "servers", "baseline"), c.namespace(t, "callers", "restricted"), c.namespace(t, "services", "restricted")
	account := natsauth.New()
	p.servers.apply(p.servers.manifest("servers.yaml", map[string]string{"Postgres": c.postgres, "NATS": c.nats, "NATSConfig": account.Config()}))
	p.servers.kubectl("wait", "--for=condition=Ready", "pod/postgres", "pod/nats", "--timeout=3m")
	for _, service := range services {
		p.servers.kubectl("exec", "postgres", "--", "env", "PGPASSWORD=roundtrip", "createdb", "--host=127.0.0.1", "--username=roundtrip", service)
		p.services.kubectl("create", "secret", "generic", service+"-app", "--from-literal=uri="+p.address(service, "roundtrip"))
	}
	for service, credentials := range map[string][]byte{
		"inventory": account.User(time.Hour, natsauth.Responder("inventory.v1.*"), natsauth.Caller("inventory-check", "inventory.v1.GetStock")),
		"orders":    account.User(time.Hour, natsauth.Caller("orders", "inventory.v1.*")),
	} {
		p.services.kubectl("create", "secret", "generic", service+"-nats", "--from-literal=nats.creds="+string(credentials))
	}
	p.values = filepath.Join(t.TempDir(), "production.yaml")
	text := p.services.manifest("production.yaml", map[string]string{"Servers": p.servers.name, "Callers": p.callers.name})
	if err := os.WriteFile(p.values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.services.helm("install", "inventory", "deploy/helm/inventory", "--values="+p.values, "--set=grpc.enabled=true,nats.enabled=true,nats.credentialsSecret.name=inventory-nats", "--wait", "--timeout=3m")
	p.services.helm("install", "orders", "deploy/helm/orders", "--values="+p.values, "--set=networkPolicy.namespaces[0]="+p.callers.name+",nats.credentialsSecret.name=orders-nats", "--wait", "--timeout=3m")
	for _, service := range services {
		p.services.helm("test", service)
	}
	if _, err := output(t.Context(), "sku,on_hand\nA,1000000000\n", "kubectl", "--namespace="+p.services.name, "exec", "--stdin", "deployment/inventory", "--",
		"/inventory", "import", "--url=http://127.0.0.1:8080", "--format=csv", "-"); err != nil {
		t.Fatal(err)
	}
	p.callers.caller("load", "http://orders."+p.services.name+":8080")
	until(t, "the load is running", func() bool {
		out, err := p.callers.try("exec", "caller", "--", "/caller", "stats")
		var s loadstats.Stats
		return err == nil && json.Unmarshal([]byte(out), &s) == nil && s.Requests > s.Failures
	})
	recordStep("PostgreSQL, two replicas: from installation to load", time.Since(began), loadstats.Stats{})
	return p
}

func (p *production) address(database, password string) string {
	return fmt.Sprintf("postgres://roundtrip:%s@postgres.%s:5432/%s?sslmode=disable", password, p.servers.name, database)
}

// step runs do and waits until it has taken effect. No request may fail, and the
// audits must find nothing.
func (p *production) step(name string, do func()) {
	p.Helper()
	began := time.Now()
	do()
	for _, service := range services {
		until(p.T, "no pod of "+service+" is stopping", func() bool {
			want := p.services.kubectl("get", "deployment", service, "--output=jsonpath={.spec.replicas}")
			return strconv.Itoa(len(strings.Fields(p.pods(service)))) == want
		})
	}
	until(p.T, "there was enough load", func() bool { return time.Since(began) > 5*time.Second })
	stats := p.stats()
	for _, service := range services {
		p.services.kubectl("exec", "deployment/"+service, "--", "/"+service, "audit")
	}
	recordStep(name, time.Since(began), stats)
	p.Logf("%s: %d requests in %.1f s, %d failures; the slowest: %s", name, stats.Requests, stats.Seconds, stats.Failures, stats.Slowest)
	if stats.Failures > 0 {
		p.Errorf("%s: %d of %d requests failed:\n%s", name, stats.Failures, stats.Requests, strings.Join(stats.Examples, "\n"))
	}
	if rate := float64(stats.Requests) / stats.Seconds; rate < leastRate {
		p.Logf("!! %s: %.0f requests a second, fewer than %d", name, rate, leastRate)
	}
}

// stats returns the statistics of the load since the last call.
func (p *production) stats() (s loadstats.Stats) {
	p.Helper()
	if err := json.Unmarshal([]byte(p.callers.kubectl("exec", "caller", "--", "/caller", "stats")), &s); err != nil {
		p.Fatal(err)
	}
	return s
}

func (p *production) upgrade(service, set string) {
	p.Helper()
	p.services.helm("upgrade", service, "deploy/helm/"+service, "--reset-then-reuse-values", "--set="+set, "--wait", "--timeout=3m")
}

// fails upgrades with a value that can't work.
func (p *production) fails(service, set string) {
	p.Helper()
	if out, err := p.services.tryHelm("upgrade", service, "deploy/helm/"+service, "--reset-then-reuse-values", "--set="+set, "--wait", "--timeout=5s"); err == nil {
		p.Errorf("with %s the upgrade succeeded: %s", set, out)
	}
}

// says waits until kubectl shows a text that tells an operator the cause.
func (p *production) says(text string, args ...string) {
	p.Helper()
	until(p.T, fmt.Sprintf("%s shows %q", args, text), func() bool {
		out, _ := p.services.try(args...)
		return strings.Contains(out, text)
	})
}

// pods returns the names of a service's pods, including stopping ones.
func (p *production) pods(service string) string {
	p.Helper()
	return p.services.kubectl("get", "pods", "--selector=app.kubernetes.io/component=service,app.kubernetes.io/name="+service, "--output=jsonpath={.items[*].metadata.name}")
}

// share waits until every pod of a service handles at least half of its fair share
// of the requests.
func (p *production) share(service, label string) {
	p.Helper()
	began := time.Now()
	answered := func() map[string]float64 {
		counts := map[string]float64{}
		for ip := range strings.FieldsSeq(p.services.kubectl("get", "pods", "--selector=app.kubernetes.io/component=service,app.kubernetes.io/name="+service,
			"--output=jsonpath={.items[*].status.podIP}")) {
			out, _ := p.callers.try("exec", "caller", "--", "/caller", "metric", "http://"+ip+":9090", "roundtrip_exchanges_total", `role="responder"`, label)
			counts[ip], _ = strconv.ParseFloat(strings.TrimSpace(out), 64) // a pod without requests lacks this series
		}
		return counts
	}
	before := answered()
	until(p.T, "each pod of "+service+" has its share", func() bool {
		delta, sum := answered(), 0.0
		for ip := range delta {
			delta[ip] -= before[ip]
			sum += delta[ip]
		}
		least := sum
		for n := range maps.Values(delta) {
			least = min(least, n)
		}
		if sum < 400 || least < sum/float64(2*len(delta)) {
			return false
		}
		p.Logf("pods of %s handled %v, %.1f s after they were ready", service, delta, time.Since(began).Seconds())
		return true
	})
}

// makeImagesWithMigration builds images with an additional migration and loads them
// into the cluster.
func makeImagesWithMigration(t *testing.T, tag string, number int, migrations map[string]string) {
	t.Helper()
	folder, replace := t.TempDir(), map[string]string{}
	top, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		path := filepath.Join(folder, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for service, statement := range migrations {
		replace[filepath.Join(top, "services", service, "internal/store/migrations/postgres", fmt.Sprintf("%d_e2e.sql", number))] =
			write(service+".sql", "-- +goose Up\n"+statement+"\n")
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := makeImages(t.Context(), tag, "--overlay", write("overlay.json", string(overlay))); err != nil {
		t.Fatal(err)
	}
}

// unauthorizedPod checks that a pod without a policy reaches no port of the services.
func (p *production) unauthorizedPod(t *testing.T) {
	n := p.services.namespace(t, "unauthorized", "restricted")
	n.caller("wait")
	refused := func(n *namespace, url string) bool {
		_, err := n.call("GET", url, "--within=3s")
		return err != nil && strings.Contains(err.Error(), "Client.Timeout exceeded")
	}
	if refused(n, "http://nats."+p.servers.name+":4222") { // every pod may connect to NATS
		t.Fatal("the pod can't connect to anything, so the test proves nothing")
	}
	var all sync.WaitGroup
	for _, wire := range []string{"orders:8080", "inventory:8080", "inventory:8090", "inventory-headless:8090", "orders-headless:9090"} {
		all.Go(func() {
			name, port, _ := strings.Cut(wire, ":")
			url := "http://" + name + "." + p.services.name + ":" + port
			if !refused(n, url) {
				t.Errorf("an unauthorized pod reaches %s", url)
			}
		})
	}
	all.Go(func() {
		if url := "http://inventory." + p.services.name + ":8080"; !refused(p.callers, url) {
			t.Errorf("a caller reaches %s, which only orders may", url)
		}
	})
	all.Wait()
}
