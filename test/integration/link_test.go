package integration

import (
	"net"
	"strconv"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"
)

// link is a proxy in a connection of the wire.
type link struct{ *toxiproxy.Proxy }

// Directions of a link: from who connects to who was connected to, and back.
const (
	there = "upstream"
	back  = "downstream"
)

// link makes a proxy to a host and port in the network and returns its own.
func (p *pair) link(upstream string) string {
	p.Helper()
	port := strconv.FormatInt(firstPort+p.ports.Add(1), 10)
	proxy, err := p.toxiproxy.CreateProxy(p.name+"-"+port, ":"+port, upstream)
	p.check(err)
	p.Cleanup(func() {
		if err := proxy.Delete(); err != nil {
			p.Error(err)
		}
	})
	p.links = append(p.links, link{proxy})
	return net.JoinHostPort(proxyName, port)
}

// spoil adds a toxic, and mend takes it away: what was held back arrives then, and a
// connection whose bytes were dropped breaks.
func (p *pair) spoil(l link, direction, kind string, attributes toxiproxy.Attributes) {
	p.Helper()
	_, err := l.AddToxic(kind+"-"+direction, kind, direction, 1, attributes)
	p.check(err)
}

func (p *pair) mend(l link, direction, kind string) {
	p.Helper()
	p.check(l.RemoveToxic(kind + "-" + direction))
}

// cut refuses connections and breaks those that there are; join is the end of it.
func (p *pair) cut(l link)  { p.Helper(); p.check(l.Disable()) }
func (p *pair) join(l link) { p.Helper(); p.check(l.Enable()) }

// redirect has a link lead elsewhere from now on.
func (p *pair) redirect(l link, upstream string) {
	p.Helper()
	l.Upstream = upstream
	p.check(l.Save())
}

func milliseconds(n int) toxiproxy.Attributes { return toxiproxy.Attributes{"latency": n} }
