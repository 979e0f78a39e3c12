package shop

import (
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Front passes connections on to a service's replicas in turn, and past one that
// refuses them, as a Kubernetes Service does.
type Front struct {
	mu       sync.Mutex
	replicas []string
	turn     int

	// address is where it was opened first.
	address  string
	listener net.Listener
}

// URL is where it is.
func (f *Front) URL() string { return "http://" + f.address }

// Set says where the replicas are, from the next connection on.
func (f *Front) Set(replicas ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas = replicas
}

// next are the replicas, the one whose turn it is first.
func (f *Front) next() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.replicas) == 0 {
		return nil
	}
	f.turn = (f.turn + 1) % len(f.replicas)
	return slices.Concat(f.replicas[f.turn:], f.replicas[:f.turn])
}

// Open does nothing where it is open; opened again, it is where it was.
func (f *Front) Open() error {
	if f.listener != nil {
		return nil
	}
	at := f.address
	if at == "" {
		at = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", at)
	if err != nil {
		return err
	}
	f.listener, f.address = listener, listener.Addr().String()
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			go pass(from, f.next())
		}
	}()
	return nil
}

// Close refuses what comes from now on.
func (f *Front) Close() {
	if f.listener != nil {
		f.listener.Close()
		f.listener = nil
	}
}

// dialTimeout is for replicas that are gone with their address, which nobody refuses.
const dialTimeout = 2 * time.Second

// pass joins a connection with the first replica that takes it, until either
// side ends it.
func pass(from net.Conn, replicas []string) {
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
