package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
)

// inventorySide is the real inventory, on all its wires.
type inventorySide struct {
	// urls are where its wires are.
	urls map[string]string
	// refuses, where it is set, is what every request is answered with.
	refuses atomic.Pointer[error]
}

// startInventory starts an inventory with an empty database.
func startInventory(t *testing.T) *inventorySide {
	t.Helper()
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	rpc := listen()
	s := &inventorySide{urls: map[string]string{"grpc": "dns:///" + rpc.Addr().String(), "nats": startBroker(t)}}
	a, err := inventory.New(t.Context(), inventory.Options{
		HTTP: listen(), GRPC: rpc, Admin: listen(), NATSURL: s.urls["nats"], Logger: slog.New(slog.DiscardHandler), MaxInFlight: 64,
		Database: database.FromAddress("sqlite:" + filepath.Join(t.TempDir(), "inventory.db")),
		Around: func(_ string, handle func() error) error {
			if refusal := s.refuses.Load(); refusal != nil {
				return *refusal
			}
			return handle()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.urls["http"] = "http://" + a.Addr().String()
	return s
}

// startBroker starts a NATS server and returns its URL.
func startBroker(t *testing.T) string {
	t.Helper()
	broker, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	broker.Start()
	t.Cleanup(func() {
		broker.Shutdown()
		broker.WaitForShutdown()
	})
	if !broker.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not answer")
	}
	return broker.ClientURL()
}

// patience is far more time than anything here takes.
const patience = 10 * time.Second

// states bring inventory to each provider state, from nothing, through its own
// REST API. A reservation that an interaction has moved on since stays as it is:
// the same request gets the same answer. What no request can bring about, what
// fails inside of inventory, is put around its handlers.
var states = map[string]func(s *inventorySide, parameters map[string]any) error{
	levelsState: func(s *inventorySide, levels map[string]any) error {
		for sku, onHand := range levels {
			if err := s.level(sku, onHand); err != nil {
				return err
			}
		}
		return nil
	},
	reservationState: func(s *inventorySide, p map[string]any) error {
		return s.reservation(fmt.Sprint(p["id"]), fmt.Sprint(p["is"]), fmt.Sprint(p["sku"]), p["quantity"])
	},
	noneState: func(*inventorySide, map[string]any) error { return nil },
	awayState: func(s *inventorySide, _ map[string]any) error {
		return s.refuse(problem.New(problem.Unavailable, "The database can't be used at the moment."))
	},
	fullState: func(s *inventorySide, _ map[string]any) error {
		return s.refuse(problem.New(problem.Overloaded, "Too many requests are in flight."))
	},
	slowState: func(s *inventorySide, _ map[string]any) error { return s.refuse(context.DeadlineExceeded) },
}

// letHoldsRunOut makes the reservations that have to be expired, all at once: to
// wait for one after the other would take as many seconds.
func (s *inventorySide) letHoldsRunOut(p *pact) error {
	var all sync.WaitGroup
	failed := make(chan error, len(p.Interactions))
	for _, i := range p.Interactions {
		for _, state := range i.ProviderStates {
			if state.Params["is"] == "expired" {
				all.Go(func() { failed <- states[state.Name](s, state.Params) })
			}
		}
	}
	all.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (s *inventorySide) refuse(with error) error {
	s.refuses.Store(&with)
	return nil
}

// leave ends a state.
func (s *inventorySide) leave() { s.refuses.Store(nil) }

func (s *inventorySide) level(sku string, onHand any) error {
	return s.put("/v1/adjustments/"+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %v, "reason": "counted"}`, sku, onHand), http.StatusOK)
}

// reservation makes a reservation and takes it to a state by way of seq 1.
func (s *inventorySide) reservation(id, state, sku string, quantity any) error {
	if err := s.level(sku, 10); err != nil {
		return err
	}
	if now, err := s.state(id); err != nil || now != "" {
		return err
	}
	want, seconds, more := http.StatusOK, 900, 0
	switch state {
	case "none":
		want, more = http.StatusConflict, 100
	case "expired":
		seconds = 1
	}
	path := "/v1/reservations/" + id
	hold := fmt.Sprintf(`{"seq": 1, "state": "held", "hold_seconds": %d, "lines": [{"sku": %q, "location": "main", "quantity": %v}]}`, seconds, sku, quantity)
	if more > 0 {
		hold = strings.Replace(hold, fmt.Sprintf(`"quantity": %v`, quantity), fmt.Sprintf(`"quantity": %d`, more), 1)
	}
	if err := s.put(path, hold, want); err != nil {
		return err
	}
	if state == "committed" || state == "released" {
		if err := s.put(path, fmt.Sprintf(`{"seq": 2, "state": %q}`, state), http.StatusOK); err != nil {
			return err
		}
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		now, err := s.state(id)
		if err != nil || now == state {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not become %s", id, state)
		}
	}
}

// state is a reservation's state; "" where there is none.
func (s *inventorySide) state(id string) (string, error) {
	body, status, err := s.send(http.MethodGet, "/v1/reservations/"+id, "")
	if status == http.StatusNotFound {
		return "", nil
	}
	if err != nil || status != http.StatusOK {
		return "", fmt.Errorf("get %s: %d %s (%w)", id, status, body, err)
	}
	_, after, ok := strings.Cut(body, `"state":"`)
	if !ok {
		return "", errors.New("no state in " + body)
	}
	state, _, _ := strings.Cut(after, `"`)
	return state, nil
}

func (s *inventorySide) put(path, body string, want int) error {
	answer, status, err := s.send(http.MethodPut, path, body)
	if err != nil || status != want {
		return fmt.Errorf("PUT %s %s: %d %s (%w)", path, body, status, answer, err)
	}
	return nil
}

func (s *inventorySide) send(method, path, body string) (answer string, status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.urls["http"]+path, strings.NewReader(body))
	if err != nil {
		return "", 0, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return string(text), response.StatusCode, err
}
