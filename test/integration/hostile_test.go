package integration

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/moby/moby/client"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
)

// lie is what a hostile inventory answers to everything.
type lie struct {
	// body is for http and nats, with the status on http.
	status int
	body   string
	// frame is for grpc: its bytes are the message's.
	frame []byte
	code  codes.Code
}

// tooMuch is more than orders reads of an answer.
var tooMuch = strings.Repeat(" ", 17<<20)

const done = `{"id":"another","seq":1,"state":"held","lines":[{"sku":"sku-place","location":"main","quantity":3}],"expires_at":"2100-01-01T00:00:00Z"}`

var (
	garbage     = lie{status: 200, body: "<html>\x00\xff", frame: []byte("\xff\xff\xff<html>")}
	oversized   = lie{status: 200, body: tooMuch + done, frame: []byte(tooMuch)}
	unavailable = lie{status: 503, body: `{"type":"urn:roundtrip:problem:unavailable","title":"Unavailable","status":503,"code":"unavailable","detail":"It is broken."}`, code: codes.Unavailable}
	another     = lie{status: 200, body: done, frame: anotherFrame()}
)

func anotherFrame() []byte {
	message := &inventoryv1.PutReservationResponse{Reservation: &inventoryv1.Reservation{
		Id: "another", Seq: 1, State: inventoryv1.ReservationState_RESERVATION_STATE_HELD, ExpiresAt: timestamppb.New(time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)),
	}}
	frame, err := proto.Marshal(message)
	if err != nil {
		panic(err)
	}
	return frame
}

// hostile puts somebody else where inventory is.
func hostile(name, about string, l lie) fault {
	return fault{name: name, about: about, told: unknown, run: func(p *pair, requests func()) {
		p.diary.during(name, func() {
			if p.wire == "nats" {
				real := p.links[len(p.links)-1]
				p.cut(real)
				stop := l.answerNATS(p)
				requests()
				stop()
				p.join(real)
				return
			}
			address, stop := l.serve(p)
			before := p.links[0].Upstream
			onAll(p, func(l link) { p.redirect(l, address) })
			requests()
			onAll(p, func(l link) { p.redirect(l, before) })
			stop()
		})
	}}
}

// serve serves a lie where containers reach it: on this machine's own address in
// their network, or, where the engine is in a machine of its own, by the name that it
// has for this one.
func (l lie) serve(p *pair) (address string, stop func()) {
	p.Helper()
	host := "host.docker.internal"
	listener, err := net.Listen("tcp", net.JoinHostPort(p.gateway().String(), "0"))
	if err == nil {
		host = p.gateway().String()
	} else if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		p.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	p.check(err)
	if p.wire == "grpc" {
		server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
			if l.code != codes.OK {
				return status.Error(l.code, "It is broken.")
			}
			return stream.SendMsg(l.frame)
		}))
		go func() { _ = server.Serve(listener) }() // until it is stopped
		return net.JoinHostPort(host, port), server.Stop
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(l.status)
		_, _ = w.Write([]byte(l.body)) // orders may have hung up
	})}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return net.JoinHostPort(host, port), func() { p.check(server.Close()) }
}

// gateway is this machine in the containers' network.
func (p *pair) gateway() netip.Addr {
	p.Helper()
	n, err := p.engine.NetworkInspect(p.Context(), p.network.ID, client.NetworkInspectOptions{})
	p.check(err)
	for _, config := range n.Network.IPAM.Config {
		if config.Gateway.IsValid() {
			return config.Gateway
		}
	}
	p.Fatal("the network has no gateway")
	return netip.Addr{}
}

// raw is the codec of bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(_ []byte, _ any) error { return nil }
func (raw) Name() string                    { return "proto" }

// answerNATS answers a case's requests in inventory's place.
func (l lie) answerNATS(p *pair) (stop func()) {
	p.Helper()
	endpoint, err := p.nats.Endpoint(p.Context(), "4222")
	p.check(err)
	connection, err := nats.Connect("nats://"+endpoint, nats.UserInfo(p.account, p.account))
	p.check(err)
	_, err = connection.Subscribe("inventory.v1.*", func(m *nats.Msg) {
		answer := nats.NewMsg(m.Reply)
		answer.Data = []byte(l.body)
		if len(answer.Data) > int(connection.MaxPayload()) { // the server takes no more
			answer.Data = answer.Data[:connection.MaxPayload()-1000]
		}
		if l.status >= 400 {
			answer.Header.Set("Nats-Service-Error", "unavailable")
			answer.Header.Set("Nats-Service-Error-Code", "503")
		}
		_ = connection.PublishMsg(answer)
	})
	p.check(err)
	p.check(connection.FlushTimeout(patience))
	return connection.Close
}
