package httpapi

import (
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
)

func TestOrderLifecycle(t *testing.T) {
	t.Parallel()
	s := start(t)
	placed := s.call(t, "PUT", "/v1/orders/a", body)
	placed.want(t, "place", 201, "")
	if placed.Header.Get("Location") != "/v1/orders/a" {
		t.Errorf("the Location is %q", placed.Header.Get("Location"))
	}
	o := placed.order
	if o.ID != "a" || o.State != "placed" || o.Total != 6*255 || o.Intent != nil ||
		!reflect.DeepEqual(o.LastOperation, map[string]any{"operation": "place", "seq": 1.0, "outcome": "done"}) {
		t.Errorf("the placed order is %s", placed.Body)
	}
	times := regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
	if !times.MatchString(o.CreatedAt) || !times.MatchString(o.HoldExpiresAt) {
		t.Errorf("the times are %q and %q", o.CreatedAt, o.HoldExpiresAt)
	}
	if o.Lines[0]["location"] != "main" || o.Lines[1]["location"] != "north" {
		t.Errorf("the lines are %v", o.Lines)
	}
	for _, c := range []struct{ method, path, body string }{{"PUT", "/v1/orders/a", body}, {"GET", "/v1/orders/a", ""}} {
		again := s.call(t, c.method, c.path, c.body)
		again.want(t, c.method, 200, "")
		if again.Body != placed.Body {
			t.Errorf("%s gives\n%s, want\n%s", c.method, again.Body, placed.Body)
		}
	}
	asked := s.inventory.asked.Load()
	if asked != 1 {
		t.Errorf("inventory was asked %d times", asked)
	}
	s.call(t, "PUT", "/v1/orders/a", strings.Replace(body, "6", "7", 1)).want(t, "a repeat with other content", 422, problem.KeyReused)

	amended := s.call(t, "PUT", "/v1/orders/a/lines", otherLines)
	amended.want(t, "amend", 200, "")
	if amended.order.Total != 7*255 || len(amended.order.Lines) != 1 {
		t.Errorf("the amended order is %s", amended.Body)
	}
	for _, step := range []struct{ operation, state string }{{"confirm", "confirmed"}, {"cancel", "cancelled"}} {
		first := s.call(t, "POST", "/v1/orders/a/"+step.operation, "")
		first.want(t, step.operation, 200, "")
		again := s.call(t, "POST", "/v1/orders/a/"+step.operation, "")
		again.want(t, step.operation+" again", 200, "")
		if first.order.State != step.state || again.Body != first.Body || first.order.HoldExpiresAt != "" {
			t.Errorf("%s: %s, and the repeat got %s", step.operation, first.Body, again.Body)
		}
	}
	s.call(t, "POST", "/v1/orders/a/confirm", "").want(t, "confirm a cancelled order", 409, problem.WrongState)
	s.call(t, "PUT", "/v1/orders/a/lines", otherLines).want(t, "amend a cancelled order", 409, problem.WrongState)
	repeat := s.call(t, "PUT", "/v1/orders/a", body)
	if repeat.want(t, "a late repeat of place", 200, ""); repeat.order.State != "cancelled" {
		t.Errorf("a late repeat got %s", repeat.Body)
	}
}

func TestShortageListsEveryShortLineAndIsStored(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.inventory.put = func(r order.Request) (order.Reservation, error) {
		p := problem.New(problem.InsufficientStock, "There is not enough.")
		p.Shortages = []problem.Shortage{{SKU: "71053", Location: "north", Requested: 1, Available: 0}, {SKU: "85123A", Location: "main", Requested: 6, Available: 2}}
		p.Current = &problem.Current{ID: r.ID, Seq: r.Seq, State: "none"}
		return order.Reservation{}, p
	}
	first := s.call(t, "PUT", "/v1/orders/a", body)
	first.want(t, "place", 409, problem.InsufficientStock)
	if len(first.Problem.Shortages) != 2 {
		t.Errorf("got %s", first.Body)
	}
	again := s.call(t, "PUT", "/v1/orders/a", body)
	if again.want(t, "place again", 409, problem.InsufficientStock); again.Body != first.Body {
		t.Errorf("the repeat got %s", again.Body)
	}
	o := s.call(t, "GET", "/v1/orders/a", "")
	o.want(t, "get", 200, "")
	if o.order.State != "rejected" || o.order.LastOperation["outcome"] != "rejected" || o.order.LastOperation["problem"] == nil {
		t.Errorf("the order is %s", o.Body)
	}
	s.call(t, "POST", "/v1/orders/a/cancel", "").want(t, "cancel a rejected order", 409, problem.WrongState)
}

func TestUnsettledOperationIsAccepted(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.inventory.put = func(order.Request) (order.Reservation, error) {
		return order.Reservation{}, problem.New(problem.Unavailable, "It is gone.")
	}
	first := s.call(t, "PUT", "/v1/orders/a", body)
	first.want(t, "place", 202, "")
	if in := first.order.Intent; first.order.State != "pending" || in["operation"] != "place" || in["seq"] != 1.0 || in["since"] != first.order.CreatedAt {
		t.Errorf("the order is %s", first.Body)
	}
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place again", 202, "")
	s.call(t, "GET", "/v1/orders/a", "").want(t, "get", 200, "")
	s.call(t, "POST", "/v1/orders/a/confirm", "").want(t, "confirm meanwhile", 409, problem.OperationPending)
	s.inventory.put = nil
	settled := s.call(t, "PUT", "/v1/orders/a", body)
	if settled.want(t, "place when inventory is back", 200, ""); settled.order.State != "placed" {
		t.Errorf("the order is %s", settled.Body)
	}
}

func TestRefusedPlaceRecordsNothing(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.unreachable.Store(true)
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "inventory is unreachable", 503, problem.Unavailable)
	s.unreachable.Store(false)
	for _, ms := range []string{"1", "19", "100"} {
		s.call(t, "PUT", "/v1/orders/a", body, "Request-Timeout-Ms", ms).want(t, ms+" ms left", 504, problem.DeadlineExceeded)
	}
	if rows, asked := s.dump(t), s.inventory.asked.Load(); rows != "" || asked != 0 {
		t.Errorf("the rows are %s and inventory was asked %d times, want none", rows, asked)
	}
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "place", 201, "")
	s.unreachable.Store(true)
	s.call(t, "PUT", "/v1/orders/a", body).want(t, "a repeat while inventory is unreachable", 200, "")
	if err := s.store.Close(); err != nil {
		t.Error(err)
	}
	s.call(t, "PUT", "/v1/orders/b", body).want(t, "place without a database", 503, problem.Unavailable)
	s.call(t, "GET", "/v1/orders/a", "").want(t, "get without a database", 503, problem.Unavailable)
}

func TestIdempotencyKeyMakesOneOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	first := s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", "536365")
	first.want(t, "place", 201, "")
	// The UUIDv5 of "0:536365", in a namespace that must never change.
	const derivedID = "3be87009-0ec7-5144-86ed-b3d237b3f16a"
	if first.Header.Get("Location") != "/v1/orders/"+first.order.ID || first.order.ID != derivedID {
		t.Errorf("the order is %s at %s, want %s", first.order.ID, first.Header.Get("Location"), derivedID)
	}
	again := s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", "536365")
	if again.want(t, "again", 200, ""); again.Body != first.Body {
		t.Errorf("the repeat got %s", again.Body)
	}
	s.call(t, "POST", "/v1/orders", strings.Replace(body, "6", "7", 1), "Idempotency-Key", "536365").want(t, "a repeat with other content", 422, problem.KeyReused)
	s.call(t, "PUT", "/v1/orders/"+derivedID, body).want(t, "by its id", 200, "")
	longest := strings.Repeat("~", 255)
	s.call(t, "POST", "/v1/orders", body, "Idempotency-Key", longest).want(t, "the longest key", 201, "")
}

func TestConcurrentIdenticalPlacesMakeOneOrder(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method, path string
		headers      []string
	}{
		"PUT":  {"PUT", "/v1/orders/a", nil},
		"POST": {"POST", "/v1/orders", []string{"Idempotency-Key", "k"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			var decided sync.Map
			s.inventory.put = func(r order.Request) (order.Reservation, error) {
				// Like inventory: the same seq gets the stored answer again.
				answer, _ := decided.LoadOrStore(r.Seq, grantedReservation(r))
				return answer.(order.Reservation), nil
			}
			answers := make([]response, 50)
			var all sync.WaitGroup
			for i := range answers {
				all.Go(func() {
					// On a busy machine an answer may come too late. Then the
					// caller repeats.
					for range 20 {
						if answers[i] = s.call(t, c.method, c.path, body, c.headers...); answers[i].Status < 202 {
							return
						}
					}
				})
			}
			all.Wait()
			created := 0
			for _, r := range answers {
				if r.Status == 201 {
					created++
				}
				if r.Status > 201 || r.Body != answers[0].Body {
					t.Errorf("got %d\n%s and\n%s", r.Status, r.Body, answers[0].Body)
				}
			}
			if created > 1 {
				t.Errorf("%d callers got 201", created)
			}
			if orders, _, err := s.store.Orders(t.Context(), "", "", order.Page{Limit: 10}); err != nil || len(orders) != 1 || orders[0].Seq != 1 {
				t.Errorf("the stored orders are %+v, %v", orders, err)
			}
		})
	}
}
