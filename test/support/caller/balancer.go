package caller

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Balancer is a load balancer: it forwards connections to a service's replicas in
// turn, and skips a replica that refuses them, as a Kubernetes Service does.
type Balancer struct {
	mu       sync.Mutex
	replicas []string
	turn     int

	// address is set when it is first opened.
	address  string
	listener net.Listener
}

// URL is its address. It stays the same when it is closed and opened again.
func (b *Balancer) URL() string { return "http://" + b.address }

// Set sets the addresses of the replicas for new connections.
func (b *Balancer) Set(replicas ...string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replicas = replicas
}

// next returns the replicas in the order to try them.
func (b *Balancer) next() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.replicas) == 0 {
		return nil
	}
	b.turn = (b.turn + 1) % len(b.replicas)
	return slices.Concat(b.replicas[b.turn:], b.replicas[:b.turn])
}

// Open starts listening. It does nothing if it is open. After Close it listens at
// the same address again.
func (b *Balancer) Open() error {
	if b.listener != nil {
		return nil
	}
	at := b.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	b.listener, b.address = listener, listener.Addr().String()
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go forward(from, b.next())
		}
	}()
	return nil
}

// Close refuses new connections.
func (b *Balancer) Close() {
	if b.listener != nil {
		b.listener.Close()
		b.listener = nil
	}
}

// dialTimeout limits a dial to an address that no longer exists. Such a dial is never
// refused.
const dialTimeout = 2 * time.Second

// forward connects a connection to the first replica that accepts, until either side
// closes.
func forward(from net.Conn, replicas []string) {
	defer from.Close()
	for _, replica := range replicas {
		to, err := net.DialTimeout("tcp", replica, dialTimeout)
		if err != nil {
			continue
		}
		defer to.Close()
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(from, to)
		return
	}
}
