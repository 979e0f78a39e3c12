package store

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/batch"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

// memory is a session on a map. What a transaction writes is there at once: its
// transact decides whether that counts.
type memory map[string]order.Order

func (m memory) orders(ids []string) (found []order.Order, err error) {
	for _, id := range ids {
		if o, ok := m[id]; ok {
			found = append(found, o)
		}
	}
	return found, nil
}

func (m memory) write(_ time.Time, c order.Changes) error {
	for _, o := range c.Orders {
		m[o.ID] = o
	}
	return nil
}

func TestACommitWhoseResultIsUnknownSaysSo(t *testing.T) {
	t.Parallel()
	lost := problem.Wrap(errors.New("the connection broke"), problem.Unavailable, "The database can't be used.")
	m := memory{}
	results := do(t.Context(), newBatcher(batch.Options{Queue: 8, InFlight: 1}, func(_ context.Context, f func(session) error) error {
		return errors.Join(f(m), lost)
	}), []order.Command{place("a")})
	p := problem.From(results[0].Err)
	if p.Code != problem.Unavailable || !strings.Contains(p.Detail, "may be recorded; repeat it with the same id") || !errors.Is(p, lost) {
		t.Errorf("got %v", p)
	}
	if results[0].Order.ID != "" || results[0].Created {
		t.Errorf("what was decided got out: %+v", results[0])
	}
}

func TestWhatWasDecidedBesideAFailureIsDecidedAgain(t *testing.T) {
	t.Parallel()
	m := memory{}
	var batches []int
	results := do(t.Context(), newBatcher(batch.Options{Queue: 8, InFlight: 1}, func(_ context.Context, f func(session) error) error {
		scratch := memory{}
		if err := f(scratch); err != nil {
			return err
		}
		batches = append(batches, len(scratch))
		if _, ok := scratch["poison"]; ok {
			return errors.New("it can't be written")
		}
		for id, o := range scratch {
			m[id] = o
		}
		return nil
	}), []order.Command{place("a"), place("poison"), place("b")})
	if !slices.Equal(batches, []int{3, 1, 1, 1}) {
		t.Errorf("the transactions wrote %v orders", batches)
	}
	if results[0].Err != nil || results[1].Err == nil || results[2].Err != nil || len(m) != 2 {
		t.Errorf("got %+v; stored are %d", results, len(m))
	}
}

// A caller whose time is up while the database works is not told that nothing was
// recorded.
func TestACallerWhoLeavesWhileItIsRecorded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		batcher := newBatcher(batch.Options{Queue: 10, InFlight: 1}, func(context.Context, func(session) error) error {
			time.Sleep(time.Minute)
			return nil
		})
		within := func(d time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			return do(ctx, batcher, []order.Command{place("a")})[0].Err
		}
		go func() { _ = within(time.Hour) }()
		synctest.Wait()
		if err := within(time.Second); problem.CodeOf(err) != problem.Internal || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before it is its turn: %v", err)
		}
		err := within(61 * time.Second)
		if wantCode(t, "while it is recorded", err, problem.Unavailable); !strings.Contains(err.Error(), "may be recorded") {
			t.Errorf("it says %v", err)
		}
		time.Sleep(time.Hour)
	})
}
