package shop

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Outcome is what an order is, as far as its caller cares; the zero value is an
// order that is not there.
type Outcome struct {
	State    string
	Quantity int64
}

// Callers and Pace are a load's unless it says otherwise: little enough that all
// that was ever ordered can be compared after each fault.
const (
	Callers = 4
	Pace    = 100 * time.Millisecond
)

// Load places orders, amends, confirms and cancels them from several callers, and
// remembers what it was told. An order belongs to one caller, who makes one
// request after the other and repeats each until it is answered for good.
type Load struct {
	Shop
	// Seed is that of what callers do; Name begins the ids of their orders.
	Seed uint64
	Name string
	// Callers is how many make requests at the same time, and Pace how long each
	// waits after an order.
	Callers int
	Pace    time.Duration
	// Looks makes callers also ask for the reservation and the availability of what
	// they ordered.
	Looks bool
	// Observe, where it is not nil, is told of every reply.
	Observe func(operation, id string, began time.Time, r Reply)

	// Acknowledged counts the answers that were for good, Unknown those that were
	// not, and Unavailable the refusals.
	Acknowledged, Unknown, Unavailable atomic.Int64

	t      testing.TB
	mu     sync.Mutex
	placed int
	// may is, for each order, what it may be by what its caller was told.
	may map[string][]Outcome
}

const scarce = "scarce"

var plenty = []string{"A", "B", "C"}

// NewLoad makes stock of four SKUs, of one of them too little.
func NewLoad(t testing.TB, s Shop, seed uint64) *Load {
	t.Helper()
	for _, sku := range append(slices.Clone(plenty), scarce) {
		onHand := int64(1_000_000)
		if sku == scarce {
			onHand = 30
		}
		Wait(t, patience, "there is stock of "+sku, nil, func() bool { return s.Count(t.Context(), sku, onHand).Done() })
	}
	return &Load{Shop: s, Seed: seed, Name: "order", Callers: Callers, Pace: Pace, t: t, may: map[string][]Outcome{}}
}

// Run makes requests until stop is called. What is not answered by then is left
// as it is.
func (l *Load) Run() (stop func()) {
	ctx, cancel := context.WithCancel(l.t.Context())
	var all sync.WaitGroup
	for range l.Callers {
		all.Go(func() {
			for ctx.Err() == nil {
				l.order(ctx)
				select {
				case <-ctx.Done():
				case <-time.After(l.Pace):
				}
			}
		})
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// order takes an order through its life.
func (l *Load) order(ctx context.Context) {
	l.mu.Lock()
	l.placed++
	n := l.placed
	l.mu.Unlock()
	id, random := fmt.Sprint(l.Name, "-", n), rand.New(rand.NewPCG(l.Seed, uint64(n)))
	sku, quantity := plenty[random.IntN(len(plenty))], 1+random.Int64N(3)
	if random.IntN(8) == 0 {
		sku = scarce
	}
	asked := l.t.Context() // what was asked is answered, also after the end
	now, ok := l.until(ctx, "place", id, Outcome{}, func() Reply { return l.Place(asked, id, sku, quantity) },
		Outcome{"placed", quantity}, Outcome{"rejected", quantity})
	if l.Looks && ok {
		l.look("reservation", id, "/v1/orders/"+id+"/reservation")
		l.look("availability", id, "/v1/availability?sku="+sku)
	}
	if ok && now.State == "placed" && random.IntN(2) == 0 {
		quantity++
		now, ok = l.until(ctx, "amend", id, now, func() Reply { return l.Amend(asked, id, sku, quantity) }, Outcome{"placed", quantity})
	}
	if ok && now.State == "placed" && random.IntN(2) == 0 {
		now, ok = l.until(ctx, "confirm", id, now, func() Reply { return l.Confirm(asked, id) }, Outcome{"confirmed", now.Quantity})
	}
	if ok && (now.State == "placed" || now.State == "confirmed") && random.IntN(3) == 0 {
		l.until(ctx, "cancel", id, now, func() Reply { return l.Cancel(asked, id) }, Outcome{"cancelled", now.Quantity})
	}
}

// look asks what changes nothing; that may fail while something is broken.
func (l *Load) look(operation, id, path string) {
	began := time.Now()
	l.observe(operation, id, began, l.Orders.Call(l.t.Context(), "GET", path, ""))
}

func (l *Load) observe(operation, id string, began time.Time, r Reply) {
	if l.Observe != nil {
		l.Observe(operation, id, began, r)
	}
}

// until repeats a request until it is answered for good, and returns what the
// order is then; false where ctx was done before. The request makes of the order
// the first that it may become, or else is refused for want of stock.
func (l *Load) until(ctx context.Context, operation, id string, before Outcome, request func() Reply, becomes ...Outcome) (now Outcome, ok bool) {
	l.set(id, append([]Outcome{before}, becomes...)...)
	for {
		began := time.Now()
		r := request()
		l.observe(operation, id, began, r)
		switch {
		case r.Err != nil: // nobody knows
		case r.Done():
			now := Outcome{r.State, r.Lines[0].Quantity}
			if r.ID != id || now != becomes[0] {
				l.t.Errorf("%s was to become %v, and the answer was %s", id, becomes[0], r.Text)
			}
			return l.answered(id, now), true
		case r.Status == 202:
			l.Unknown.Add(1)
			if r.ID != id {
				l.t.Errorf("asked for %s, and the answer was %s", id, r.Text)
			}
			if before == (Outcome{}) { // it is recorded, and will not vanish
				l.set(id, becomes...)
			}
		case r.Code == "insufficient-stock" || r.Code == "given-up":
			if len(becomes) > 1 {
				before = becomes[1]
			}
			return l.answered(id, before), true
		// What the caller gave up waiting for may still be on its way somewhere.
		case r.Code == "operation-pending":
		case r.Code == "unavailable" || r.Code == "overloaded":
			l.Unavailable.Add(1)
		case r.Code == "deadline-exceeded":
		default:
			l.t.Errorf("%s was to become %v, and the answer was %d %s", id, becomes[0], r.Status, r.Text)
			return before, false
		}
		select {
		case <-ctx.Done():
			return before, false
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (l *Load) answered(id string, now Outcome) Outcome {
	l.Acknowledged.Add(1)
	l.set(id, now)
	return now
}

func (l *Load) set(id string, may ...Outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.may[id] = may
}

// Flows waits for n answers from now on.
func (l *Load) Flows(n int64, logs func() string) {
	l.t.Helper()
	enough := l.Acknowledged.Load() + n
	Wait(l.t, patience, "requests are answered", logs, func() bool { return l.Acknowledged.Load() >= enough })
}

// Check holds what is there against what callers were told, once all is settled.
func (l *Load) Check(logs func() string) {
	l.t.Helper()
	found := map[string]Outcome{}
	for path := "/v1/orders?limit=200"; path != ""; {
		var r Reply
		Wait(l.t, patience, "orders are listed", logs, func() bool {
			r = l.Orders.Call(l.t.Context(), "GET", path, "")
			return r.Done() && r.Err == nil
		})
		for _, o := range r.Orders {
			if strings.HasPrefix(o.ID, l.Name+"-") {
				found[o.ID] = Outcome{o.State, o.Lines[0].Quantity}
			}
		}
		if path = ""; r.NextCursor != "" {
			path = "/v1/orders?limit=200&cursor=" + r.NextCursor
		}
	}
	for id, may := range l.may {
		if !slices.Contains(may, found[id]) {
			l.t.Errorf("%s is %v, and its caller knows that it is one of %v", id, found[id], may)
		}
		l.may[id] = []Outcome{found[id]}
		delete(found, id)
	}
	if len(found) > 0 {
		l.t.Errorf("nobody placed %v", found)
	}
}

// patience is how long a test waits for what must happen, on a machine however
// busy. Nothing is judged by it but that it happens.
const patience = 3 * time.Minute

// Wait waits for a condition; where it never comes to be, the test ends, with
// what the services wrote.
func Wait(t testing.TB, patience time.Duration, what string, logs func() string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !condition() {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			text := ""
			if logs != nil {
				text = logs()
			}
			t.Fatalf("it never came to be that %s%s", what, text)
		}
	}
}
