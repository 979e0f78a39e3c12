package integration

import (
	"net"
	"strconv"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
)

// proxy is a Toxiproxy proxy in a connection of the wire.
type proxy struct{ *toxiproxy.Proxy }

// Directions of a proxy. Toxiproxy calls the server upstream.
const (
	toInventory = "upstream"
	toOrders    = "downstream"
)

// proxy makes a proxy to a host and port in the network and returns its address.
func (sys *system) proxy(upstream string) string {
	sys.Helper()
	port := strconv.FormatInt(firstPort+sys.ports.Add(1), 10)
	created, err := sys.toxiproxy.CreateProxy(sys.name+"-"+port, ":"+port, upstream)
	sys.check(err)
	sys.Cleanup(func() {
		if err := created.Delete(); err != nil {
			sys.Error(err)
		}
	})
	sys.proxies = append(sys.proxies, proxy{created})
	return net.JoinHostPort(proxyName, port)
}

// addToxic adds a toxic. removeToxic removes it: then delayed bytes arrive, and a
// connection whose bytes were dropped breaks.
func (sys *system) addToxic(l proxy, direction, kind string, attributes toxiproxy.Attributes) {
	sys.Helper()
	_, err := l.AddToxic(kind+"-"+direction, kind, direction, 1, attributes)
	sys.check(err)
}

func (sys *system) removeToxic(l proxy, direction, kind string) {
	sys.Helper()
	sys.check(l.RemoveToxic(kind + "-" + direction))
}

// disable refuses new connections and breaks open ones. enable ends that.
func (sys *system) disable(l proxy) { sys.Helper(); sys.check(l.Disable()) }
func (sys *system) enable(l proxy)  { sys.Helper(); sys.check(l.Enable()) }

// redirect changes the upstream of a proxy.
func (sys *system) redirect(l proxy, upstream string) {
	sys.Helper()
	l.Upstream = upstream
	sys.check(l.Save())
}

func milliseconds(n int) toxiproxy.Attributes { return toxiproxy.Attributes{"latency": n} }
