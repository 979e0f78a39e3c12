package containers

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
)

// Fate is what happens to a COMMIT on its way to the server.
type Fate int

const (
	// Pass: it arrives, and so does the response.
	Pass Fate = iota
	// Lost: the connection breaks before it arrives. Nothing is committed.
	Lost
	// Unanswered: it is committed, and the connection breaks before the response.
	Unanswered
)

// ProxyCommits starts a proxy in front of a database and returns its address. It
// calls fate for every COMMIT. It stops when the test ends.
func ProxyCommits(t testing.TB, address string, fate func() Fate) (proxied string) {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() {
		listener.Close()
		all.Wait() // stores that use the proxy are closed already
	})
	server := u.Host
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { proxy(client, server, fate) })
		}
	})
	u.Host = listener.Addr().String()
	return u.String()
}

// proxy forwards one connection until either side closes it.
func proxy(client net.Conn, address string, fate func() Fate) {
	defer client.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	var unanswered atomic.Bool
	var answers sync.WaitGroup
	answers.Go(func() {
		defer client.Close()
		for buffer := make([]byte, 1<<15); ; {
			n, err := server.Read(buffer)
			if err != nil || unanswered.Load() {
				return
			}
			if _, err := client.Write(buffer[:n]); err != nil {
				return
			}
		}
	})
	defer answers.Wait()
	defer server.Close()
	in := bufio.NewReader(client)
	// The first message has no type (PostgreSQL 15, 55.2 Message Flow).
	for typed := false; ; typed = true {
		message, err := read(in, typed)
		if err != nil {
			return
		}
		if string(message) == commitMessage {
			switch fate() {
			case Lost:
				return
			case Unanswered:
				unanswered.Store(true)
			}
		}
		if _, err := server.Write(message); err != nil {
			return
		}
	}
}

// commitMessage is a Query message, as pgx sends it.
const commitMessage = "Q\x00\x00\x00\x0bcommit\x00"

// read reads one message of a client: its type, if it has one, its length, which
// includes itself, and the rest.
func read(in io.Reader, typed bool) ([]byte, error) {
	head := make([]byte, 4, 64)
	if typed {
		head = head[:5]
	}
	if _, err := io.ReadFull(in, head); err != nil {
		return nil, err
	}
	n := len(head)
	message := append(head, make([]byte, binary.BigEndian.Uint32(head[n-4:])-4)...)
	_, err := io.ReadFull(in, message[n:])
	return message, err
}
