//go:build contract

package contract

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	codev1 "google.golang.org/genproto/googleapis/rpc/code"
	statusv1 "google.golang.org/genproto/googleapis/rpc/status"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
)

// traffic is a request or a response, in the same form for every wire.
type traffic struct {
	wire string
	// target is where a request goes: HTTP method and path, NATS subject, or gRPC
	// method.
	target string
	// status is the status of a response over HTTP or gRPC. On NATS it is in headers.
	status  string
	headers map[string]string
	// body is JSON, decoded; numbers are json.Number.
	body any
}

// operation is the operation that a request calls.
func (m *traffic) operation() string {
	switch {
	case m.wire != "http":
		return m.target[strings.LastIndexAny(m.target, "./")+1:]
	case strings.HasPrefix(m.target, "PUT "):
		return "PutReservation"
	case strings.HasPrefix(m.target, "GET /v1/stock"):
		return "GetStock"
	case strings.HasPrefix(m.target, "GET /v1/reservations?"):
		return "ListReservations"
	}
	return "GetReservation"
}

// change is how a mutant changes the traffic. A nil change does nothing.
type change struct {
	request  func(*traffic)
	response func(request, response *traffic)
}

func (c *change) changeRequest(m *traffic) {
	if c != nil && c.request != nil {
		c.request(m)
	}
}

func (c *change) changeResponse(request, m *traffic) {
	if c != nil && c.response != nil {
		c.response(request, m)
	}
}

func decode(text []byte) (value any, err error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	return value, decoder.Decode(&value)
}

func encode(value any) []byte {
	if value == nil {
		return nil
	}
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}

// httpProxy forwards HTTP requests to a base URL and counts them.
func httpProxy(t *testing.T, base string, c *change) (url string, passed *atomic.Int64) {
	t.Helper()
	passed = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed.Add(1)
		if err := passHTTP(w, r, base, c); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL, passed
}

func passHTTP(w http.ResponseWriter, r *http.Request, base string, c *change) error {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	request := &traffic{wire: "http", target: r.Method + " " + r.URL.RequestURI(), headers: flat(r.Header)}
	if request.body, err = decode(content); err != nil {
		return err
	}
	c.changeRequest(request)
	method, where, _ := strings.Cut(request.target, " ")
	out, err := http.NewRequestWithContext(r.Context(), method, base+where, bytes.NewReader(encode(request.body)))
	if err != nil {
		return err
	}
	for name, value := range request.headers {
		if name != "Content-Length" {
			out.Header.Set(name, value)
		}
	}
	from, err := http.DefaultTransport.RoundTrip(out)
	if err != nil {
		return err
	}
	defer from.Body.Close()
	if content, err = io.ReadAll(from.Body); err != nil {
		return err
	}
	response := &traffic{wire: "http", status: strconv.Itoa(from.StatusCode), headers: flat(from.Header)}
	if response.body, err = decode(content); err != nil {
		return err
	}
	c.changeResponse(request, response)
	for name, value := range response.headers {
		if name != "Content-Length" {
			w.Header().Set(name, value)
		}
	}
	if _, ok := response.headers["Content-Type"]; !ok {
		w.Header()["Content-Type"] = nil // nil keeps the library from guessing one
	}
	code, err := strconv.Atoi(response.status)
	if err != nil {
		return err
	}
	w.WriteHeader(code)
	_, err = w.Write(encode(response.body))
	return err
}

func flat(h http.Header) map[string]string {
	all := map[string]string{}
	for name := range h {
		all[name] = h.Get(name)
	}
	return all
}

// Protobuf's messages as JSON, by the names of the .proto.
var (
	toJSON   = protojson.MarshalOptions{UseProtoNames: true}
	fromJSON = protojson.UnmarshalOptions{DiscardUnknown: true}
	// A zero in a response must be visible.
	answerToJSON = protojson.MarshalOptions{UseProtoNames: true, EmitDefaultValues: true}
)

// messagesOf makes the messages of a gRPC method. They are empty if there is no
// such method.
func messagesOf(method string) (in, out proto.Message) {
	service := inventoryv1.File_inventory_v1_inventory_proto.Services().ByName("InventoryService")
	found := service.Methods().ByName(protoreflect.Name(path.Base(method)))
	if found == nil {
		return new(emptypb.Empty), new(emptypb.Empty)
	}
	make := func(d protoreflect.MessageDescriptor) proto.Message {
		kind, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			panic(err)
		}
		return kind.New().Interface()
	}
	return make(found.Input()), make(found.Output())
}

// serveGRPC starts a real gRPC server that responds to every method.
func serveGRPC(t *testing.T, response func(request *traffic) *traffic) (url string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		in, out := messagesOf(method)
		if err := stream.RecvMsg(in); err != nil {
			return err
		}
		text, err := toJSON.Marshal(in)
		if err != nil {
			return err
		}
		request := &traffic{wire: "grpc", target: method, headers: map[string]string{}}
		if request.body, err = decode(text); err != nil {
			return err
		}
		if _, ok := stream.Context().Deadline(); ok {
			request.headers["grpc-timeout"] = "some"
		}
		sent, _ := metadata.FromIncomingContext(stream.Context())
		for name, values := range sent {
			request.headers[name] = values[0]
		}
		reply := response(request)
		if reply.status != "OK" {
			problem := new(statusv1.Status)
			if err := fromJSON.Unmarshal(encode(reply.body), problem); err != nil {
				return err
			}
			problem.Code = codev1.Code_value[reply.status]
			return status.FromProto(problem).Err()
		}
		if err := fromJSON.Unmarshal(encode(reply.body), out); err != nil {
			return err
		}
		return stream.SendMsg(out)
	}))
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	return "dns:///" + l.Addr().String(), func() {
		server.Stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// callGRPC sends a request to a real server.
func callGRPC(ctx context.Context, c *grpc.ClientConn, request *traffic) (*traffic, error) {
	in, out := messagesOf(request.target)
	if err := fromJSON.Unmarshal(encode(request.body), in); err != nil {
		return nil, err
	}
	for name, value := range request.headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value)
	}
	response := &traffic{wire: "grpc", status: "OK", headers: map[string]string{}}
	message := out
	if err := c.Invoke(ctx, request.target, in, out); err != nil {
		problem := status.Convert(err)
		response.status, message = codev1.Code(problem.Code()).String(), problem.Proto()
	}
	text, err := answerToJSON.Marshal(message)
	if err == nil {
		response.body, err = decode(text)
	}
	return response, err
}

// serveNATS responds to every NATS request for inventory.
func serveNATS(t *testing.T, c *nats.Conn, response func(request *traffic) *traffic) (stop func()) {
	t.Helper()
	subscription, err := c.Subscribe("inventory.>", func(m *nats.Msg) {
		request := &traffic{wire: "nats", target: m.Subject, headers: flat(http.Header(m.Header))}
		var err error
		if request.body, err = decode(m.Data); err != nil {
			t.Error(err)
		}
		reply := response(request)
		out := nats.NewMsg(m.Reply)
		for name, value := range reply.headers {
			out.Header.Set(name, value)
		}
		out.Data = encode(reply.body)
		if err := m.RespondMsg(out); err != nil {
			t.Error(err)
		}
	})
	if err == nil {
		err = c.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := subscription.Unsubscribe(); err != nil {
			t.Error(err)
		}
	}
}

// callNATS sends a request over a real connection.
func callNATS(ctx context.Context, c *nats.Conn, request *traffic) (*traffic, error) {
	out := nats.NewMsg(request.target)
	for name, value := range request.headers {
		out.Header.Set(name, value)
	}
	if deadline, ok := ctx.Deadline(); ok {
		out.Header.Set("Request-Deadline", strconv.FormatInt(deadline.UnixMilli(), 10))
	}
	out.Data = encode(request.body)
	reply, err := c.RequestMsgWithContext(ctx, out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", request.target, err)
	}
	response := &traffic{wire: "nats", headers: flat(http.Header(reply.Header))}
	response.body, err = decode(reply.Data)
	return response, err
}
