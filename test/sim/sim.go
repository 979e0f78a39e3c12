// Package sim runs the pair in virtual time: both apps, put together as their
// processes put them together, in one testing/synctest bubble, with connections
// that are memory. Fifteen minutes pass in milliseconds, and nothing is slow, so
// what a test sees is what the protocol does.
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"roundtrip/internal/database"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
)

// Network connects listeners by name, in memory.
type Network struct {
	mu        sync.Mutex
	listeners map[string]*listener
	broken    map[string]bool
	// open are the connections to each address, also those that have ended.
	open map[string][]net.Conn
}

// NewNetwork makes a network without listeners.
func NewNetwork() *Network {
	return &Network{listeners: map[string]*listener{}, broken: map[string]bool{}, open: map[string][]net.Conn{}}
}

// Listen makes a listener with that address.
func (n *Network) Listen(address string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := &listener{address: address, conns: make(chan net.Conn), closed: make(chan struct{})}
	n.listeners[address] = l
	return l
}

// Cut makes an address unreachable, and breaks the connections to it; or makes it
// reachable again.
func (n *Network) Cut(address string, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.broken[address] = cut
	if cut {
		for _, c := range n.open[address] {
			c.Close()
		}
		delete(n.open, address)
	}
}

// Dial connects to the listener with that address.
func (n *Network) Dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	l, cut := n.listeners[address], n.broken[address]
	n.mu.Unlock()
	if l == nil || cut {
		return nil, errors.New("connection refused")
	}
	near, far := net.Pipe()
	select {
	case l.conns <- far:
		n.mu.Lock()
		defer n.mu.Unlock()
		n.open[address] = append(n.open[address], near)
		return near, nil
	case <-l.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type listener struct {
	address string
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address(l.address) }

type address string

func (address) Network() string  { return "memory" }
func (a address) String() string { return string(a) }

// Pair is both apps and a client for whoever calls them.
type Pair struct {
	Network *Network
	Client  *http.Client

	folder    string
	t         *testing.T
	Inventory *inventory.App
	Orders    *orders.App
}

// Start starts both apps on SQLite in a new folder. It is called inside a
// bubble; the test stops the pair with Stop before the bubble ends.
func Start(t *testing.T, folder string) *Pair {
	t.Helper()
	network := NewNetwork()
	p := &Pair{
		Network: network, folder: folder, t: t,
		Client: &http.Client{Transport: &http.Transport{DialContext: network.Dial}},
	}
	p.StartInventory()
	p.StartOrders()
	return p
}

func (p *Pair) database(name string) database.Source {
	return database.FromAddress("sqlite:" + filepath.Join(p.folder, name+".db"))
}

// StartInventory starts inventory, for the first time or again on what it left.
func (p *Pair) StartInventory() {
	p.t.Helper()
	a, err := inventory.New(p.t.Context(), inventory.Options{
		HTTP: p.Network.Listen("inventory:80"), Admin: p.Network.Listen("inventory:90"), Database: p.database("inventory"),
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 512,
	})
	p.Inventory = a
	p.started(a, err)
}

// StartOrders starts orders, for the first time or again on what it left.
func (p *Pair) StartOrders() {
	p.t.Helper()
	a, err := orders.New(p.t.Context(), orders.Options{
		HTTP: p.Network.Listen("orders:80"), Admin: p.Network.Listen("orders:90"), Database: p.database("orders"),
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 512,
		InventoryWire: "http", InventoryURL: "http://inventory:80", Dial: p.Network.Dial, SettleInterval: time.Second, GiveUpAfter: 30 * time.Second,
	})
	p.Orders = a
	p.started(a, err)
}

func (p *Pair) started(app interface{ Start(context.Context) error }, err error) {
	p.t.Helper()
	if err == nil {
		err = app.Start(p.t.Context())
	}
	if err != nil {
		p.t.Fatal(err)
	}
}

// Stop stops both.
func (p *Pair) Stop() {
	p.t.Helper()
	p.Client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.t.Context()), time.Minute)
	defer cancel()
	if err := errors.Join(p.Orders.Stop(ctx), p.Inventory.Stop(ctx)); err != nil {
		p.t.Error(fmt.Errorf("stop the pair: %w", err))
	}
}
