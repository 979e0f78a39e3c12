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

// providerSide is the real inventory, and who asks it for Pact's verifier.
type providerSide struct {
	*inventorySide
	rpc       *grpc.ClientConn
	messaging *nats.Conn
}

func startProvider(t *testing.T) *providerSide {
	t.Helper()
	s := &providerSide{inventorySide: startInventory(t)}
	var err error
	if s.rpc, err = grpc.NewClient(s.urls["grpc"], grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.rpc.Close(); err != nil {
			t.Error(err)
		}
	})
	s.messaging = connect(t, s.urls["nats"])
	return s
}

// verification is what is verified: a pact file, of which only the descriptions
// that match a pattern, with a change in between.
type verification struct {
	file, only string
	change     *change
}

// verify lets Pact's verifier send every request of a pact to inventory, over
// the request's own wire, and compare the answers. Who verifies a part of a pact
// expects a difference.
func (s *providerSide) verify(t *testing.T, v verification) (err error) {
	p, err := readPact(v.file)
	if err != nil {
		return err
	}
	if err := p.strict(); err != nil {
		return err
	}
	if err := s.letHoldsRunOut(p); err != nil {
		t.Fatal(err)
	}
	request, asked := s.request(t, v.change)
	request.PactFiles, request.FilterDescription = []string{v.file}, v.only
	said := quietly(t, func() { err = provider.NewVerifier().VerifyProvider(t, request) })
	if err != nil {
		return fmt.Errorf("%w\n%s", err, said)
	}
	if n := asked(); v.only == "" && n != len(p.Interactions) || n == 0 {
		return fmt.Errorf("the pact has %d interactions, and inventory was asked %d times", len(p.Interactions), n)
	}
	return nil
}

// request is what the verifier is told of inventory, whatever the pacts, and
// asked how often inventory was asked since.
func (s *providerSide) request(t *testing.T, c *change) (r provider.VerifyRequest, asked func() int) {
	t.Helper()
	base, overHTTP := httpProxy(t, s.urls["http"], c)
	bridge, overBridge := s.bridge(t, c)
	handlers := models.StateHandlers{}
	for name, enter := range states {
		handlers[name] = func(setup bool, state models.ProviderState) (models.ProviderStateResponse, error) {
			s.leave()
			if !setup {
				return nil, nil
			}
			parameters, _ := state.Parameters["params"].(map[string]any) // pact-go gives the verifier's whole message
			return nil, enter(s.inventorySide, parameters)
		}
	}
	return provider.VerifyRequest{
		Provider: Provider, ProviderBaseURL: base, StateHandlers: handlers,
		Transports:         []provider.Transport{{Protocol: "message", Scheme: "http", Port: bridge, Path: "/"}},
		FailIfNoPactsFound: true, DisableColoredOutput: true, RequestTimeout: patience,
		// A difference is returned, and judged by the caller: mutants have to differ.
		// (pact-go calls that a skipped test. Anything else that goes wrong fails.)
		SoftFail: true,
	}, func() int { return int(overHTTP.Load() + overBridge.Load()) }
}

// quietly runs f and returns what it wrote to the standard output, which Pact's
// library writes its reports to.
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

// bridge takes the requests of synchronous messages, as the verifier posts them,
// and makes each on its own wire.
func (s *providerSide) bridge(t *testing.T, c *change) (port uint16, passed *atomic.Int64) {
	t.Helper()
	passed = new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		passed.Add(1)
		content, err := io.ReadAll(r.Body)
		var answer *traffic
		if err == nil {
			answer, err = s.make(r.Context(), content, c)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		metadata := answer.headers
		if answer.status != "" {
			metadata[statusKey] = answer.status
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Pact-Message-Metadata", base64.StdEncoding.EncodeToString(encode(metadata)))
		_, _ = w.Write(encode(answer.body))
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

// make makes the request that the verifier describes.
func (s *providerSide) make(ctx context.Context, content []byte, c *change) (*traffic, error) {
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
	c.toRequest(request)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var answer *traffic
	switch request.wire {
	case "grpc":
		answer, err = callGRPC(ctx, s.rpc, request)
	case "nats":
		answer, err = callNATS(ctx, s.messaging, request)
	default:
		err = fmt.Errorf("no wire is called %q: %s", request.wire, content)
	}
	if err != nil {
		return nil, err
	}
	c.toAnswer(request, answer)
	return answer, nil
}

// TestInventoryAnswersAsThePactSays verifies the committed pact, or another, against
// the real inventory, on all its wires.
func TestInventoryAnswersAsThePactSays(t *testing.T) {
	if err := startProvider(t).verify(t, verification{file: *pactFile}); err != nil {
		t.Error(err)
	}
}
