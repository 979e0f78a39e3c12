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

	"roundtrip/test/e2e/taken"
	"roundtrip/test/support/natsauth"
)

// leastRate is the requests a second that there should be; a busy machine makes fewer.
const leastRate = 100

var services = []string{"inventory", "orders"}

// production is the pair on PostgreSQL, two replicas each and with NetworkPolicies,
// under a constant load of a shop's in another namespace.
type production struct {
	*testing.T
	pair, servers, shop *namespace
	values              string
}

// TestUnderLoad does to the pair what is done in production, and nobody notices.
func TestUnderLoad(t *testing.T) {
	theCluster(t)
	// Before there is load, as a compiler would be much of it.
	makeImagesThat(t, "e2e-next", 99999, map[string]string{
		"inventory": "ALTER TABLE levels ADD COLUMN e2e text;", "orders": "ALTER TABLE orders ADD COLUMN e2e text;",
	})
	makeImagesThat(t, "e2e-bad", 100000, map[string]string{"inventory": "ALTER TABLE nothing ADD COLUMN e2e text;"})
	p := startProduction(t)
	before := "http"
	for _, wire := range []string{"http", "nats", "grpc"} {
		if wire != before {
			p.step("from "+before+" to "+wire, func() { p.upgrade("orders", "inventory.wire="+wire) })
			before = wire
		}
		p.step("rolling restart of both, "+wire, func() {
			p.pair.kubectl("rollout", "restart", "deployment/inventory", "deployment/orders")
			for _, service := range services {
				p.pair.kubectl("rollout", "status", "deployment/"+service, "--timeout=3m")
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
			p.pair.helm("rollback", service, "--wait", "--timeout=3m")
		}
	})
	p.step("a pod of each deleted", func() {
		for _, service := range services {
			pod, _, _ := strings.Cut(p.pods(service), " ")
			p.pair.kubectl("delete", "pod", pod)
			p.pair.kubectl("rollout", "status", "deployment/"+service, "--timeout=3m")
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
			until(t, "the autoscaler gives "+service+" its least replicas", func() bool {
				return p.pair.kubectl("get", "deployment", service, "--output=jsonpath={.spec.replicas} {.status.availableReplicas}") == "2 2"
			})
		}
		for _, service := range services {
			p.upgrade(service, "autoscaling.enabled=false")
		}
	})

	p.step("a stranger, who reaches nothing", func() { t.Run("a stranger reaches nothing", p.stranger) })

	p.step("a migration that fails", func() {
		p.fails("inventory", "image.tag=e2e-bad")
		p.says("does not exist", "logs", "--selector=app.kubernetes.io/component=migration,app.kubernetes.io/name=inventory", "--tail=-1")
		p.pair.helm("rollback", "inventory", "--wait", "--timeout=3m")
	})
	p.step("a Secret with a wrong password", func() {
		p.pair.kubectl("create", "secret", "generic", "wrong", "--from-literal=uri="+p.address("orders", "wrong"))
		p.fails("orders", "database.secret.name=wrong")
		p.says("password authentication failed", "logs", "--selector=app.kubernetes.io/component=migration,app.kubernetes.io/name=orders", "--tail=-1")
		p.pair.helm("rollback", "orders", "--wait", "--timeout=3m")
	})
	p.step("a Secret that is not there", func() {
		p.fails("inventory", "database.secret.name=absent")
		p.says(`secret "absent" not found`, "events", "--types=Warning")
		p.pair.helm("rollback", "inventory", "--wait", "--timeout=3m")
	})
	p.step("an image that is not there", func() {
		p.fails("orders", "image.tag=e2e-absent")
		p.says("roundtrip/orders:e2e-absent", "events", "--types=Warning")
		p.pair.helm("rollback", "orders", "--wait", "--timeout=3m")
	})
}

func startProduction(t *testing.T) *production {
	t.Helper()
	c := theCluster(t)
	began := time.Now()
	p := &production{T: t}
	p.servers, p.shop, p.pair = c.namespace(t, "servers", "baseline"), c.namespace(t, "shop", "restricted"), c.namespace(t, "pair", "restricted")
	account := natsauth.New()
	p.servers.apply(p.servers.manifest("servers.yaml", map[string]string{"Postgres": c.postgres, "NATS": c.nats, "NATSConfig": account.Config()}))
	p.servers.kubectl("wait", "--for=condition=Ready", "pod/postgres", "pod/nats", "--timeout=3m")
	for _, service := range services {
		p.servers.kubectl("exec", "postgres", "--", "env", "PGPASSWORD=roundtrip", "createdb", "--host=127.0.0.1", "--username=roundtrip", service)
		p.pair.kubectl("create", "secret", "generic", service+"-app", "--from-literal=uri="+p.address(service, "roundtrip"))
	}
	for service, credentials := range map[string][]byte{
		"inventory": account.User(time.Hour, natsauth.Responder("inventory.v1.*"), natsauth.Caller("inventory-check", "inventory.v1.GetStock")),
		"orders":    account.User(time.Hour, natsauth.Caller("orders", "inventory.v1.*")),
	} {
		p.pair.kubectl("create", "secret", "generic", service+"-nats", "--from-literal=nats.creds="+string(credentials))
	}
	p.values = filepath.Join(t.TempDir(), "production.yaml")
	text := p.pair.manifest("production.yaml", map[string]string{"Servers": p.servers.name, "Shop": p.shop.name})
	if err := os.WriteFile(p.values, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p.pair.helm("install", "inventory", "deploy/helm/inventory", "--values="+p.values, "--set=grpc.enabled=true,nats.enabled=true,nats.credentialsSecret.name=inventory-nats", "--wait", "--timeout=3m")
	p.pair.helm("install", "orders", "deploy/helm/orders", "--values="+p.values, "--set=networkPolicy.namespaces[0]="+p.shop.name+",nats.credentialsSecret.name=orders-nats", "--wait", "--timeout=3m")
	for _, service := range services {
		p.pair.helm("test", service)
	}
	if _, err := output(t.Context(), "sku,on_hand\nA,1000000000\n", "kubectl", "--namespace="+p.pair.name, "exec", "--stdin", "deployment/inventory", "--",
		"/inventory", "import", "--url=http://127.0.0.1:8080", "--format=csv", "-"); err != nil {
		t.Fatal(err)
	}
	p.shop.caller("load", "http://orders."+p.pair.name+":8080")
	until(t, "the load flows", func() bool {
		out, err := p.shop.try("exec", "caller", "--", "/caller", "take")
		var t taken.Taken
		return err == nil && json.Unmarshal([]byte(out), &t) == nil && t.Requests > t.Failures
	})
	note("PostgreSQL, two replicas: from nothing to load", time.Since(began), taken.Taken{})
	return p
}

func (p *production) address(database, password string) string {
	return fmt.Sprintf("postgres://roundtrip:%s@postgres.%s:5432/%s?sslmode=disable", password, p.servers.name, database)
}

// step does something, and waits for its end: callers notice nothing, and the
// audits find nothing.
func (p *production) step(name string, do func()) {
	p.Helper()
	began := time.Now()
	do()
	for _, service := range services {
		until(p.T, "no pod of "+service+" is stopping", func() bool {
			want := p.pair.kubectl("get", "deployment", service, "--output=jsonpath={.spec.replicas}")
			return strconv.Itoa(len(strings.Fields(p.pods(service)))) == want
		})
	}
	until(p.T, "there was enough load", func() bool { return time.Since(began) > 5*time.Second })
	met := p.take()
	for _, service := range services {
		p.pair.kubectl("exec", "deployment/"+service, "--", "/"+service, "audit")
	}
	note(name, time.Since(began), met)
	p.Logf("%s: %d requests in %.1f s, %d failures; the slowest: %s", name, met.Requests, met.Seconds, met.Failures, met.Slowest)
	if met.Failures > 0 {
		p.Errorf("%s: %d of %d requests failed:\n%s", name, met.Failures, met.Requests, strings.Join(met.Examples, "\n"))
	}
	if rate := float64(met.Requests) / met.Seconds; rate < leastRate {
		p.Logf("!! %s: there were %.0f requests a second, fewer than %d", name, rate, leastRate)
	}
}

// take is what the load met since it was last asked.
func (p *production) take() (t taken.Taken) {
	p.Helper()
	if err := json.Unmarshal([]byte(p.shop.kubectl("exec", "caller", "--", "/caller", "take")), &t); err != nil {
		p.Fatal(err)
	}
	return t
}

func (p *production) upgrade(service, set string) {
	p.Helper()
	p.pair.helm("upgrade", service, "deploy/helm/"+service, "--reset-then-reuse-values", "--set="+set, "--wait", "--timeout=3m")
}

// fails upgrades to what can't work.
func (p *production) fails(service, set string) {
	p.Helper()
	if out, err := p.pair.tryHelm("upgrade", service, "deploy/helm/"+service, "--reset-then-reuse-values", "--set="+set, "--wait", "--timeout=5s"); err == nil {
		p.Errorf("with %s helm is content: %s", set, out)
	}
}

// says waits until kubectl shows a text, as it does to who looks for the cause.
func (p *production) says(text string, args ...string) {
	p.Helper()
	until(p.T, fmt.Sprintf("%s shows %q", args, text), func() bool {
		out, _ := p.pair.try(args...)
		return strings.Contains(out, text)
	})
}

// pods are the names of a service's pods, also of those that stop.
func (p *production) pods(service string) string {
	p.Helper()
	return p.pair.kubectl("get", "pods", "--selector=app.kubernetes.io/component=service,app.kubernetes.io/name="+service, "--output=jsonpath={.items[*].metadata.name}")
}

// share waits until every pod of a service answers at least half of what it would
// if all answered the same.
func (p *production) share(service, label string) {
	p.Helper()
	began := time.Now()
	answered := func() map[string]float64 {
		counts := map[string]float64{}
		for _, ip := range strings.Fields(p.pair.kubectl("get", "pods", "--selector=app.kubernetes.io/component=service,app.kubernetes.io/name="+service,
			"--output=jsonpath={.items[*].status.podIP}")) {
			out, _ := p.shop.try("exec", "caller", "--", "/caller", "metric", "http://"+ip+":9090", "roundtrip_exchanges_total", `role="responder"`, label)
			counts[ip], _ = strconv.ParseFloat(strings.TrimSpace(out), 64) // one that has answered nothing has no such series
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
		p.Logf("pods of %s answered %v, %.1f s after they were ready", service, delta, time.Since(began).Seconds())
		return true
	})
}

// makeImagesThat makes the pair's images that have one migration more, and puts them into
// the cluster.
func makeImagesThat(t *testing.T, tag string, number int, migrations map[string]string) {
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

// stranger is a pod that no policy names: it reaches neither service's wires.
func (p *production) stranger(t *testing.T) {
	n := p.pair.namespace(t, "stranger", "restricted")
	n.caller("wait")
	refused := func(n *namespace, url string) bool {
		_, err := n.call("GET", url, "--within=3s")
		return err != nil && strings.Contains(err.Error(), "Client.Timeout exceeded")
	}
	if refused(n, "http://nats."+p.servers.name+":4222") { // which is for everybody
		t.Fatal("the stranger reaches nothing at all, so nothing is shown by it")
	}
	var all sync.WaitGroup
	for _, wire := range []string{"orders:8080", "inventory:8080", "inventory:8090", "inventory-headless:8090", "orders-headless:9090"} {
		all.Go(func() {
			name, port, _ := strings.Cut(wire, ":")
			url := "http://" + name + "." + p.pair.name + ":" + port
			if !refused(n, url) {
				t.Errorf("a stranger reaches %s", url)
			}
		})
	}
	all.Go(func() {
		if url := "http://inventory." + p.pair.name + ":8080"; !refused(p.shop, url) {
			t.Errorf("a shop reaches %s, which is for orders", url)
		}
	})
	all.Wait()
}
