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

// fakeResponse is the response of a fake inventory to every request.
type fakeResponse struct {
	// body is for http and nats. The status is for http.
	status int
	body   string
	// frame is for grpc: the bytes of the message.
	frame []byte
	code  codes.Code
}

// tooLarge is longer than the longest response that orders accepts.
var tooLarge = strings.Repeat(" ", 17<<20)

const done = `{"id":"another","seq":1,"state":"held","lines":[{"sku":"sku-place","location":"main","quantity":3}],"expires_at":"2100-01-01T00:00:00Z"}`

var (
	garbageResponse     = fakeResponse{status: 200, body: "<html>\x00\xff", frame: []byte("\xff\xff\xff<html>")}
	oversizedResponse   = fakeResponse{status: 200, body: tooLarge + done, frame: []byte(tooLarge)}
	unavailableResponse = fakeResponse{status: 503, body: `{"type":"urn:roundtrip:problem:unavailable","title":"Unavailable","status":503,"code":"unavailable","detail":"It is broken."}`, code: codes.Unavailable}
	otherOrderResponse  = fakeResponse{status: 200, body: done, frame: anotherFrame()}
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

// fakeInventory is a fault: a fake inventory replaces inventory and gives the same
// response to every request.
func fakeInventory(name, about string, l fakeResponse) fault {
	return fault{name: name, about: about, expectation: unknown, run: func(sys *system, requests func()) {
		sys.recorder.during(name, func() {
			if sys.wire == "nats" {
				real := sys.proxies[len(sys.proxies)-1]
				sys.disable(real)
				stop := l.serveNATS(sys)
				requests()
				stop()
				sys.enable(real)
				return
			}
			address, stop := l.serve(sys)
			before := sys.proxies[0].Upstream
			forAllProxies(sys, func(l proxy) { sys.redirect(l, address) })
			requests()
			forAllProxies(sys, func(l proxy) { sys.redirect(l, before) })
			stop()
		})
	}}
}

// serve starts the fake inventory on this machine. Containers reach it at the gateway
// of their network or, if the engine runs in a virtual machine, under the name
// host.docker.internal.
func (l fakeResponse) serve(sys *system) (address string, stop func()) {
	sys.Helper()
	host := "host.docker.internal"
	listener, err := net.Listen("tcp", net.JoinHostPort(sys.gateway().String(), "0"))
	if err == nil {
		host = sys.gateway().String()
	} else if listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		sys.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	sys.check(err)
	if sys.wire == "grpc" {
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
		_, _ = w.Write([]byte(l.body)) // orders may have closed the connection
	})}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return net.JoinHostPort(host, port), func() { sys.check(server.Close()) }
}

// gateway is the address of this machine in the containers' network.
func (sys *system) gateway() netip.Addr {
	sys.Helper()
	n, err := sys.engine.NetworkInspect(sys.Context(), sys.network.ID, client.NetworkInspectOptions{})
	sys.check(err)
	for _, config := range n.Network.IPAM.Config {
		if config.Gateway.IsValid() {
			return config.Gateway
		}
	}
	sys.Fatal("the network has no gateway")
	return netip.Addr{}
}

// raw is a codec for bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(_ []byte, _ any) error { return nil }
func (raw) Name() string                    { return "proto" }

// serveNATS responds to the case's requests on NATS.
func (l fakeResponse) serveNATS(sys *system) (stop func()) {
	sys.Helper()
	endpoint, err := sys.nats.Endpoint(sys.Context(), "4222")
	sys.check(err)
	connection, err := nats.Connect("nats://"+endpoint, nats.UserInfo(sys.account, sys.account))
	sys.check(err)
	_, err = connection.Subscribe("inventory.v1.*", func(m *nats.Msg) {
		answer := nats.NewMsg(m.Reply)
		answer.Data = []byte(l.body)
		if len(answer.Data) > int(connection.MaxPayload()) { // the server's limit
			answer.Data = answer.Data[:connection.MaxPayload()-1000]
		}
		if l.status >= 400 {
			answer.Header.Set("Nats-Service-Error", "unavailable")
			answer.Header.Set("Nats-Service-Error-Code", "503")
		}
		_ = connection.PublishMsg(answer)
	})
	sys.check(err)
	sys.check(connection.FlushTimeout(limit))
	return connection.Close
}
