// Package memnet is a network in memory. Tests use it in a testing/synctest bubble.
// There virtual time advances only while every goroutine is blocked on something
// inside the bubble. A real socket is outside.
package memnet

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
)

// errRefused is the error of a dial to an address at which nothing listens.
var errRefused = errors.New("connection refused")

// Network connects dialers to listeners by address. The zero value has no
// listeners and is ready to use.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*Listener
	// cut is the set of addresses that are unreachable.
	cut map[string]bool
	// open are the dialed connections to each address. Some may be closed.
	open map[string][]net.Conn
}

// Listen makes a listener at the address. It replaces an earlier one.
func (n *Network) Listen(address string) *Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.listeners == nil {
		n.listeners = map[string]*Listener{}
	}
	l := Listen()
	l.address = addr(address)
	n.listeners[address] = l
	return l
}

// Cut makes an address unreachable and closes the connections to it.
func (n *Network) Cut(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cut == nil {
		n.cut = map[string]bool{}
	}
	n.cut[address] = true
	for _, c := range n.open[address] {
		c.Close()
	}
	delete(n.open, address)
}

// Restore ends a [Network.Cut].
func (n *Network) Restore(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, address)
}

// Dial connects to the listener at the address.
func (n *Network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	n.mu.Lock()
	l, cut := n.listeners[address], n.cut[address]
	n.mu.Unlock()
	if l == nil || cut {
		return nil, errRefused
	}
	c, err := l.Dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.open == nil {
		n.open = map[string][]net.Conn{}
	}
	n.open[address] = append(n.open[address], c)
	return c, nil
}

// Client makes an HTTP client that connects over the network.
func (n *Network) Client() *http.Client { return client(n.Dial) }

// Listener is a net.Listener. It can be dialed without a network.
type Listener struct {
	address     addr
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

// Listen makes a listener that is on no network: only its own Dial reaches it.
func Listen() *Listener {
	return &Listener{address: "memory", connections: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept waits for the next connection.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.connections:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close stops accepting. Open connections stay open.
func (l *Listener) Close() error { l.once.Do(func() { close(l.closed) }); return nil }

// Addr is the address on the network.
func (l *Listener) Addr() net.Addr { return l.address }

// Dial connects to the listener. It ignores the address.
func (l *Listener) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case l.connections <- far:
		return near, nil
	case <-l.closed:
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Client makes an HTTP client that sends every request to the listener.
func (l *Listener) Client() *http.Client { return client(l.Dial) }

func client(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// addr is a net.Addr in memory.
type addr string

func (addr) Network() string  { return "memory" }
func (a addr) String() string { return string(a) }
