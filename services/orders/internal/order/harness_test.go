package order

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/problem"
)

// harness is the protocol with a fake store and a fake inventory.
type harness struct {
	*Protocol
	t      *testing.T
	store  *fakeStore
	client *fakeClient
	// unreachable makes the protocol believe that it can't connect to inventory.
	unreachable atomic.Bool
	alarms      *alarmRecorder
}

// alarmRecorder records the reasons of alarms.
type alarmRecorder struct {
	mu      sync.Mutex
	reasons []string
}

func (a *alarmRecorder) add(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reasons = append(a.reasons, reason)
}

// newHarness has 10 of "a" at main and 10 of "b" at east. When the test ends, no
// write may have broken a rule.
func newHarness(t *testing.T) *harness {
	now := func() time.Time { return time.Now().Truncate(time.Millisecond) }
	h := &harness{
		t: t, store: newFakeStore(now), client: &fakeClient{fakeInventory: newFakeInventory(now, map[string]int64{"a": 10})},
		alarms: new(alarmRecorder),
	}
	h.client.onHand[levelKey{"east", "b"}] = 10
	h.Protocol = NewProtocol(h.store, h.client, h.unreachable.Load, h.alarms.add)
	t.Cleanup(func() {
		if err := errors.Join(h.store.violations...); err != nil {
			t.Error(err)
		}
	})
	return h
}

// dropRequests loses every request on its way to inventory, until restore is
// called.
func (h *harness) dropRequests() (restore func()) {
	h.client.onPut.set(func(context.Context, Request, func() (Reservation, error)) (Reservation, error) {
		return Reservation{}, connectionLost()
	})
	return func() { h.client.onPut.set(nil) }
}

// dropReplies lets every request reach inventory and loses the answer, until
// restore is called.
func (h *harness) dropReplies() (restore func()) {
	h.client.onPut.set(func(_ context.Context, _ Request, deliver func() (Reservation, error)) (Reservation, error) {
		_, _ = deliver()
		return Reservation{}, connectionLost()
	})
	return func() { h.client.onPut.set(nil) }
}

func (h *harness) wantSettled(answer Response, err error) Order {
	h.t.Helper()
	if err != nil || !answer.Settled {
		h.t.Fatalf("the answer is %+v, %v; want a settled operation", answer, err)
	}
	return answer.Order
}

func (h *harness) wantUnknown(answer Response, err error) Order {
	h.t.Helper()
	if err != nil || answer.Settled {
		h.t.Fatalf("the answer is %+v, %v; want a recorded operation that is not settled", answer, err)
	}
	return answer.Order
}

func (h *harness) order(id string) Order {
	h.t.Helper()
	o, ok := h.store.find(id)
	if !ok {
		h.t.Fatalf("there is no order %s", id)
	}
	return o
}

func (h *harness) wantState(id string, state State, pending Operation) {
	h.t.Helper()
	o := h.order(id)
	var operation Operation
	if o.Intent != nil {
		operation = o.Intent.Operation
	}
	if o.State != state || operation != pending {
		h.t.Errorf("order %s is %s with %q pending, want %s with %q", id, o.State, operation, state, pending)
	}
}

func (h *harness) wantRequests(want ...string) {
	h.t.Helper()
	if got := h.client.requests(); !slices.Equal(got, want) {
		h.t.Errorf("the requests are %v, want %v", got, want)
	}
}

func (h *harness) wantAlarms(want ...string) {
	h.t.Helper()
	h.alarms.mu.Lock()
	defer h.alarms.mu.Unlock()
	if !slices.Equal(h.alarms.reasons, want) {
		h.t.Errorf("the alarms are %v, want %v", h.alarms.reasons, want)
	}
}

func wantCode(t *testing.T, err error, want problem.Code) {
	t.Helper()
	if got := problem.CodeOf(err); got != want {
		t.Errorf("the code is %q (%v), want %q", got, err, want)
	}
}

const (
	settleEvery = time.Second
	giveUpAfter = 30 * time.Second
)

// runSettler starts a settler. stop ends it and waits for it.
func (h *harness) runSettler(log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(h.t.Context())
	var running sync.WaitGroup
	running.Go(func() { NewSettler(h.Protocol, settleEvery, giveUpAfter, log).Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// advance lets time pass, and waits until all goroutines are idle.
func advance(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// mustPlace places an order. Whether it settles depends on the faults that are set.
func (h *harness) mustPlace(id string) {
	h.t.Helper()
	if _, err := h.Place(h.t.Context(), placeCommand(id)); err != nil {
		h.t.Fatal(err)
	}
}

func discardLogger() *slog.Logger { return slog.New(slog.DiscardHandler) }
