package httpapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/resttest"
)

func TestTooShortDeadlineStartsNothing(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	before := s.dump(t)
	for _, ms := range []string{"1", "19"} {
		for _, o := range []struct{ method, path, body string }{
			{"PUT", "/v1/reservations/x", holdBody}, {"GET", "/v1/reservations/x", ""}, {"GET", "/v1/reservations", ""}, {"GET", "/v1/stock", ""},
			{"GET", "/v1/stock/a", ""}, {"PUT", "/v1/adjustments/x", adjustBody}, {"GET", "/v1/adjustments/x", ""}, {"GET", "/v1/ledger", ""},
		} {
			s.Call(t, o.method, o.path, o.body, "Request-Timeout-Ms", ms).Want(t, ms+" ms for "+o.path, 504, problem.DeadlineExceeded)
		}
	}
	if after := s.dump(t); after != before {
		t.Errorf("the rows changed from\n%s to\n%s", before, after)
	}
	// A longer timeout than the highest is the highest, and an import has no
	// deadline.
	s.ok(t, "GET", "/v1/stock", "", "Request-Timeout-Ms", "9000000000000000000")
	s.ok(t, "POST", "/v1/stock/import", "sku,on_hand\nc,1\n", "Content-Type", "text/csv", "Request-Timeout-Ms", "1")
}

// blockingStore is a store whose Do blocks until it is released, or fails with err.
type blockingStore struct {
	stock.Store
	entered, release chan struct{}
	err              error
}

func (h *blockingStore) Do(ctx context.Context, commands []stock.Command) []stock.Result {
	if h.err != nil {
		return slices.Repeat([]stock.Result{{Err: h.err}}, len(commands))
	}
	h.entered <- struct{}{}
	<-h.release
	return h.Store.Do(context.WithoutCancel(ctx), commands)
}

func TestCommitAndReleaseAreShedLast(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	full := &blockingStore{Store: s.store, entered: make(chan struct{}), release: make(chan struct{})}
	client := serve(t, full, 10) // the last two are for requests with priority
	hold := func(i int) resttest.Response {
		return client.Call(t, "PUT", fmt.Sprintf("/v1/reservations/x%d", i), `{"seq": 1, "state": "held", "lines": [{"sku": "a", "quantity": 1}]}`)
	}
	finish := func(i int, state string) resttest.Response {
		return client.Call(t, "PUT", fmt.Sprintf("/v1/reservations/y%d", i), `{"seq": 1, "state": "`+state+`"}`)
	}
	var all sync.WaitGroup
	begin := func(call func() resttest.Response) {
		t.Helper()
		answered := make(chan resttest.Response, 1)
		all.Go(func() { answered <- call() })
		select {
		case <-full.entered:
		case r := <-answered:
			t.Errorf("a request was not admitted: %d %s", r.Status, r.Body)
		}
	}
	for i := range 8 {
		begin(func() resttest.Response { return hold(i) })
	}
	hold(8).Want(t, "a hold with eight in flight", 503, problem.Overloaded)
	client.Call(t, "GET", "/v1/stock", "").Want(t, "a read with eight in flight", 503, problem.Overloaded)
	client.Call(t, "PUT", "/v1/adjustments/x", adjustBody).Want(t, "an adjustment with eight in flight", 503, problem.Overloaded)
	for i, state := range []string{"released", "committed"} {
		begin(func() resttest.Response { return finish(i, state) })
	}
	finish(2, "released").Want(t, "a release with ten in flight", 503, problem.Overloaded)
	close(full.release)
	all.Wait()
	s.wantLevel(t, "after the admitted requests", "a", 10, 8)
	s.Call(t, "GET", "/v1/reservations/x8", "").Want(t, "the shed hold", 404, problem.NotFound)
}

func TestInternalErrorsAreNotDisclosed(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	broken := serve(t, &blockingStore{Store: s.store, err: errors.New("sql: secret")}, 8)
	for _, c := range []struct{ path, body string }{{"/v1/reservations/x", holdBody}, {"/v1/adjustments/x", adjustBody}} {
		r := broken.Call(t, "PUT", c.path, c.body)
		if r.Want(t, c.path, 500, problem.Internal); strings.Contains(r.Body, "secret") {
			t.Errorf("%s: %s", c.path, r.Body)
		}
	}
	imported := broken.Call(t, "POST", "/v1/stock/import", "sku,on_hand\na,1\n", "Content-Type", "text/csv")
	if !strings.Contains(imported.Body, `"code":"internal"`) || strings.Contains(imported.Body, "secret") {
		t.Errorf("an import: %s", imported.Body)
	}
}

func TestClosedDatabaseIsUnavailable(t *testing.T) {
	t.Parallel()
	s := startStocked(t)
	if err := s.store.Close(); err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct{ method, path, body string }{
		{"PUT", "/v1/reservations/x", holdBody}, {"GET", "/v1/reservations/x", ""}, {"GET", "/v1/reservations", ""}, {"GET", "/v1/stock", ""},
		{"GET", "/v1/stock?sku=a", ""}, {"GET", "/v1/stock/a", ""}, {"PUT", "/v1/adjustments/x", adjustBody}, {"GET", "/v1/adjustments/x", ""}, {"GET", "/v1/ledger", ""},
	} {
		s.Call(t, o.method, o.path, o.body).Want(t, o.method+" "+o.path, 503, problem.Unavailable)
	}
}
