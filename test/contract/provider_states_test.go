package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"roundtrip/internal/problem"
	inventory "roundtrip/services/inventory/app"
	"roundtrip/test/support/inprocess"
)

// testInventory is a real inventory that serves every wire.
type testInventory struct {
	*inprocess.Inventory
	// failure, if set, is the error of every request.
	failure atomic.Pointer[error]
}

// startInventory starts an inventory with an empty database.
func startInventory(t *testing.T) *testInventory {
	t.Helper()
	s := new(testInventory)
	s.Inventory = inprocess.StartInventory(t, inventory.Options{
		NATSURL: startNATS(t), MaxInFlight: 64,
		Around: func(_ string, handle func() error) error {
			if failure := s.failure.Load(); failure != nil {
				return *failure
			}
			return handle()
		},
	})
	return s
}

// startNATS starts a NATS server and returns its URL.
func startNATS(t *testing.T) string {
	t.Helper()
	return inprocess.StartNATS(t, server.RANDOM_PORT).ClientURL()
}

// limit is how long a test waits for a condition. Every wait here is much shorter.
const limit = 10 * time.Second

// states sets up each provider state from an empty inventory, through its REST API.
// A reservation that an interaction has changed stays changed: the same request gets
// the same response. Failures inside inventory are injected around its handlers.
var states = map[string]func(s *testInventory, parameters map[string]any) error{
	levelsState: func(s *testInventory, levels map[string]any) error {
		for sku, onHand := range levels {
			if err := s.level(sku, onHand); err != nil {
				return err
			}
		}
		return nil
	},
	reservationState: func(s *testInventory, p map[string]any) error {
		return s.reservation(fmt.Sprint(p["id"]), fmt.Sprint(p["is"]), fmt.Sprint(p["sku"]), p["quantity"])
	},
	noneState: func(*testInventory, map[string]any) error { return nil },
	awayState: func(s *testInventory, _ map[string]any) error {
		return s.fail(problem.New(problem.Unavailable, "The database can't be used at the moment."))
	},
	fullState: func(s *testInventory, _ map[string]any) error {
		return s.fail(problem.New(problem.Overloaded, "Too many requests are in flight."))
	},
	slowState: func(s *testInventory, _ map[string]any) error { return s.fail(context.DeadlineExceeded) },
}

// expireHolds sets up all expired reservations of the pact at once. One after the
// other would take a second each.
func (s *testInventory) expireHolds(p *pact) error {
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

// fail makes every request fail until reset.
func (s *testInventory) fail(with error) error {
	s.failure.Store(&with)
	return nil
}

// reset ends [testInventory.fail].
func (s *testInventory) reset() { s.failure.Store(nil) }

func (s *testInventory) level(sku string, onHand any) error {
	return s.put("/v1/adjustments/"+sku, fmt.Sprintf(`{"sku": %q, "on_hand": %v, "reason": "counted"}`, sku, onHand), http.StatusOK)
}

// reservation creates a reservation under seq 1 and moves it to a state.
func (s *testInventory) reservation(id, state, sku string, quantity any) error {
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
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		now, err := s.state(id)
		if err != nil || now == state {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s did not become %s within %s", id, state, limit)
		}
	}
}

// state is a reservation's state, or "" if there is no reservation.
func (s *testInventory) state(id string) (string, error) {
	body, status, err := s.send(http.MethodGet, "/v1/reservations/"+id, "")
	if status == http.StatusNotFound {
		return "", nil
	}
	if err != nil || status != http.StatusOK {
		return "", fmt.Errorf("get %s: %d %s (%w)", id, status, body, err)
	}
	_, after, ok := strings.Cut(body, `"state":"`)
	if !ok {
		return "", errors.New("no state in the response " + body)
	}
	state, _, _ := strings.Cut(after, `"`)
	return state, nil
}

func (s *testInventory) put(path, body string, want int) error {
	answer, status, err := s.send(http.MethodPut, path, body)
	if err != nil || status != want {
		return fmt.Errorf("PUT %s %s: %d %s (%w)", path, body, status, answer, err)
	}
	return nil
}

func (s *testInventory) send(method, path, body string) (answer string, status int, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, s.URL("http")+path, strings.NewReader(body))
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
