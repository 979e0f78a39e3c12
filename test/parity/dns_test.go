package parity

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// replicasName is a DNS name with several addresses, like a headless Service in
// Kubernetes. The addresses are reserved for documentation (RFC 5737). A test's
// Dial maps them to listeners.
const replicasName = "inventory.test."

// movingName is a DNS name whose addresses change. They are in movingIPs.
const movingName = "moving.test."

var movingIPs atomic.Pointer[[]netip.Addr]

var replicaIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")}

// TestMain answers this process's DNS queries. gRPC resolves names with Go's
// default resolver and accepts no other.
func TestMain(m *testing.M) {
	movingIPs.Store(&[]netip.Addr{})
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go serveDNS(far)
		return near, nil
	}}
	os.Exit(m.Run())
}

// serveDNS answers queries in DNS's format for TCP: the length, then the message.
func serveDNS(c net.Conn) {
	defer c.Close()
	for {
		var size uint16
		if binary.Read(c, binary.BigEndian, &size) != nil {
			return
		}
		query := make([]byte, size)
		if _, err := io.ReadFull(c, query); err != nil {
			return
		}
		answer, err := answerDNS(query)
		if err != nil {
			return
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// answerDNS answers a query for the IPv4 addresses of the two names.
func answerDNS(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	for _, q := range m.Questions {
		ips, known := map[string][]netip.Addr{replicasName: replicaIPs, movingName: *movingIPs.Load()}[q.Name.String()]
		switch {
		case !known:
			m.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			for _, ip := range ips {
				header := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
				m.Answers = append(m.Answers, dnsmessage.Resource{Header: header, Body: &dnsmessage.AResource{A: ip.As4()}})
			}
		}
	}
	return m.Pack()
}
