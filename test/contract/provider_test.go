//go:build contract

package contract

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/pact-foundation/pact-go/v2/models"
	"github.com/pact-foundation/pact-go/v2/provider"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// providerTest is the real inventory, and the clients that send it the verifier's
// requests.
type providerTest struct {
	*testInventory
	rpc       *grpc.ClientConn
	messaging *nats.Conn
}

func startProvider(t *testing.T) *providerTest {
	t.Helper()
	s := &providerTest{testInventory: startInventory(t)}
	var err error
	if s.rpc, err = grpc.NewClient(s.URL("grpc"), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.rpc.Close(); err != nil {
			t.Error(err)
		}
	})
	s.messaging = connect(t, s.URL("nats"))
	return s
}

// verification is a run of Pact's verifier. Only restricts the pact file to the
// descriptions that match a pattern; change mutates the traffic.
type verification struct {
	file, only string
	change     *change
}

// verify runs Pact's verifier: it sends every request of a pact to inventory, over
// the request's own wire, and compares the responses. If the verification covers
// only a part of the pact, the verifier need not send every request.
func (s *providerTest) verify(t *testing.T, v verification) (err error) {
	p, err := readPact(v.file)
	if err != nil {
		return err
	}
	if err := p.strict(); err != nil {
		return err
	}
	if err := s.expireHolds(p); err != nil {
		t.Fatal(err)
	}
	request, count := s.request(t, v.change)
	request.PactFiles, request.FilterDescription = []string{v.file}, v.only
	output := quietly(t, func() { err = provider.NewVerifier().VerifyProvider(t, request) })
	if err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	if n := count(); v.only == "" && n != len(p.Interactions) || n == 0 {
		return fmt.Errorf("the pact has %d interactions, and inventory got %d requests", len(p.Interactions), n)
	}
	return nil
}

// request makes the verifier's options, without the pacts. count returns how many
// requests inventory has got.
func (s *providerTest) request(t *testing.T, c *change) (r provider.VerifyRequest, count func() int) {
	t.Helper()
	base, httpCount := httpProxy(t, s.URL("http"), c)
	bridge, bridgeCount := s.bridge(t, c)
	handlers := models.StateHandlers{}
	for name, setUp := range states {
		handlers[name] = func(setup bool, state models.ProviderState) (models.ProviderStateResponse, error) {
			s.reset()
			if !setup {
				return nil, nil
			}
			parameters, _ := state.Parameters["params"].(map[string]any) // pact-go passes the verifier's whole message
			return nil, setUp(s.testInventory, parameters)
		}
	}
	return provider.VerifyRequest{
		Provider: Provider, ProviderBaseURL: base, StateHandlers: handlers,
		Transports:         []provider.Transport{{Protocol: "message", Scheme: "http", Port: bridge, Path: "/"}},
		FailIfNoPactsFound: true, DisableColoredOutput: true, RequestTimeout: limit,
		// A difference is returned as an error: for a mutant it is expected. (pact-go
		// calls that a skipped test. Other errors fail the test.)
		SoftFail: true,
	}, func() int { return int(httpCount.Load() + bridgeCount.Load()) }
}

// quietly runs f and returns what it wrote to standard output. Pact's library
// writes its reports there.
func quietly(t *testing.T, f func()) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "output"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	stdout, err := unix.Dup(1)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Dup2(int(file.Fd()), 1); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if err := errors.Join(unix.Dup2(stdout, 1), unix.Close(stdout)); err != nil {
				t.Fatal(err)
			}
		}()
		f()
	}()
	text, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// bridge takes the requests of synchronous messages, which the verifier posts, and
// sends each over its own wire.
func (s *providerTest) bridge(t *testing.T, c *change) (port uint16, passed *atomic.Int64) {
	t.Helper()
	passed = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed.Add(1)
		content, err := io.ReadAll(r.Body)
		var response *traffic
		if err == nil {
			response, err = s.send(r.Context(), content, c)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		metadata := response.headers
		if response.status != "" {
			metadata[statusKey] = response.status
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Pact-Message-Metadata", base64.StdEncoding.EncodeToString(encode(metadata)))
		_, _ = w.Write(encode(response.body))
	}))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	return uint16(n), passed
}

// send sends the request that the verifier describes.
func (s *providerTest) send(ctx context.Context, content []byte, c *change) (*traffic, error) {
	var described struct {
		Request struct {
			Contents struct{ Content json.RawMessage }
			Metadata map[string]string
		}
	}
	if err := json.Unmarshal(content, &described); err != nil {
		return nil, fmt.Errorf("%s: %w", content, err)
	}
	request := &traffic{wire: described.Request.Metadata[wireKey], headers: map[string]string{}}
	for name, value := range described.Request.Metadata {
		switch name {
		case subjectKey, methodKey:
			request.target = value
		case wireKey, "contentType":
		default:
			request.headers[name] = value
		}
	}
	var err error
	if request.body, err = decode(described.Request.Contents.Content); err != nil {
		return nil, err
	}
	c.changeRequest(request)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var response *traffic
	switch request.wire {
	case "grpc":
		response, err = callGRPC(ctx, s.rpc, request)
	case "nats":
		response, err = callNATS(ctx, s.messaging, request)
	default:
		err = fmt.Errorf("unknown wire %q: %s", request.wire, content)
	}
	if err != nil {
		return nil, err
	}
	c.changeResponse(request, response)
	return response, nil
}

// TestInventoryAnswersAsThePactSays verifies the pact of the flag -pact against the
// real inventory, on every wire.
func TestInventoryAnswersAsThePactSays(t *testing.T) {
	if err := startProvider(t).verify(t, verification{file: *pactFile}); err != nil {
		t.Error(err)
	}
}
