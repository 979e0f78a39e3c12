package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/test/e2e/loadstats"
	"roundtrip/test/support/helm"
)

const (
	anOrder = `{"customer":"c","currency":"GBP","lines":[{"sku":"A","quantity":2,"unit_price":100}]}`
	stock   = `{"sku":"A","on_hand":10,"reason":"counted"}`
	// soon is the maximum time from installation to the first served order. The images
	// are loaded before.
	soon = 30 * time.Second
)

func TestInstallWithDefaults(t *testing.T) {
	n := theCluster(t).namespace(t, "first", "restricted")
	n.caller("wait")
	orders, inventory := "http://roundtrip-orders:8080/v1", "http://roundtrip-inventory:8080/v1"

	began := time.Now()
	n.helm("install", "roundtrip", "deploy/helm/roundtrip")
	answered := func(method, url, body string) func() bool {
		return func() bool {
			out, _ := n.call(method, url, body)
			return strings.HasPrefix(out, "200 ") || strings.HasPrefix(out, "201 ")
		}
	}
	until(t, "there is stock", answered("PUT", inventory+"/adjustments/first", stock))
	until(t, "an order is served", answered("PUT", orders+"/orders/1", anOrder))
	took := time.Since(began)
	recordStep("no values: from install to an order", took, loadstats.Stats{})
	if took > soon {
		t.Errorf("it took %s until an order was served", took)
	}

	n.must("200", "PUT", orders+"/orders/1/lines", `{"lines":[{"sku":"A","quantity":3,"unit_price":100}]}`)
	n.must("200", "POST", orders+"/orders/1/confirm")
	n.must("201", "PUT", orders+"/orders/2", anOrder)
	n.must("200", "POST", orders+"/orders/2/cancel")
	n.helm("test", "roundtrip")

	before := n.must("200", "GET", orders+"/orders/1")
	level := n.must("200", "GET", inventory+"/stock/A")
	n.kubectl("delete", "pods", "--selector=app.kubernetes.io/instance=roundtrip")
	n.kubectl("wait", "--for=condition=Available", "deployments", "--all", "--timeout=3m")
	until(t, "orders answers", answered("GET", orders+"/orders/1", ""))
	until(t, "inventory answers", answered("GET", inventory+"/stock/A", ""))
	if after := n.must("200", "GET", orders+"/orders/1"); after != before {
		t.Errorf("the order was\n%sIn a new pod it is\n%s", before, after)
	}
	if after := n.must("200", "GET", inventory+"/stock/A"); after != level {
		t.Errorf("the level was\n%sIn a new pod it is\n%s", level, after)
	}

	n.kubectl("scale", "deployment/roundtrip-orders", "--replicas=0")
	n.kubectl("wait", "--for=delete", "pod", "--selector=app.kubernetes.io/name=orders,app.kubernetes.io/component=service", "--timeout=2m")
	n.kubectl("create", "--filename=deploy/repair.yaml")
	n.kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/orders-repair", "--timeout=2m")
	if out := n.kubectl("logs", "orders-repair"); !strings.Contains(out, "orders and reservations agree") {
		t.Errorf("the repair printed %s", out)
	}
	n.kubectl("delete", "pod", "orders-repair")
	n.kubectl("scale", "deployment/roundtrip-orders", "--replicas=1")
	until(t, "orders answers again", answered("GET", orders+"/orders/1", ""))

	t.Run("second release with Helm 3", func(t *testing.T) {
		n := &namespace{t, n.cluster, n.name, helm.Three}
		pods := n.kubectl("get", "pods", "--selector=app.kubernetes.io/instance=roundtrip", "--output=name")
		n.helm("install", "other", "deploy/helm/roundtrip", "--wait", "--timeout=3m")
		n.helm("test", "other")
		if out := n.must("409", "PUT", "http://other-orders:8080/v1/orders/1", anOrder); !strings.Contains(out, "insufficient-stock") {
			t.Errorf("the second release sees data of the first: %s", out)
		}
		n.helm("uninstall", "other", "--wait", "--timeout=2m")
		n.leaves("other")
		n.must("201", "PUT", orders+"/orders/3", anOrder)
		if after := n.kubectl("get", "pods", "--selector=app.kubernetes.io/instance=roundtrip", "--output=name"); after != pods {
			t.Errorf("the first release's pods were\n%sNow they are\n%s", pods, after)
		}
	})

	n.helm("uninstall", "roundtrip", "--wait", "--timeout=2m")
	n.leaves("roundtrip")
	recordStep("no values: the whole test", time.Since(began), loadstats.Stats{})
}

// leaves waits until only the claims of a release are left.
func (n *namespace) leaves(release string) {
	n.Helper()
	kinds := slices.DeleteFunc(strings.Fields(n.kubectl("api-resources", "--namespaced", "--verbs=list", "--output=name")), func(kind string) bool {
		return strings.HasSuffix(kind, "metrics.k8s.io") || strings.HasPrefix(kind, "events")
	})
	claims := "persistentvolumeclaim/" + release + "-inventory\npersistentvolumeclaim/" + release + "-orders\n"
	var left string
	n.Cleanup(func() {
		if n.Failed() {
			n.Log("left over:", left)
		}
	})
	until(n.T, "only claims are left of "+release, func() bool {
		left = n.kubectl("get", strings.Join(kinds, ","), "--selector=app.kubernetes.io/instance="+release, "--output=name")
		return left == claims
	})
}
