package integration

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/test/integration/report"
	"roundtrip/test/support/shop"
)

// everyExchange is what is made on every wire.
var everyExchange = []string{"place", "amend", "confirm", "cancel", "reservation", "availability"}

// call is one request of the caller's.
type call struct {
	operation, order, requestID string
	began, ended                time.Time
	timeout                     time.Duration
	reply                       shop.Reply
}

// late is how long past its deadline it was answered.
func (c call) late() time.Duration { return c.ended.Sub(c.began) - c.timeout }

func (c call) unknown() bool { return c.reply.Status == 202 }

func (c call) refused() bool { return c.reply.Status == 503 || c.reply.Status == 504 }

// diary is what was done to a pair, and when.
type diary struct {
	mu    sync.Mutex
	calls []call
	notes []note
	// settled is how long after the last fault's end everything was.
	settled time.Duration
}

type note struct {
	began, ended time.Time
	text         string
}

func (d *diary) add(c call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, c)
}

// of are the calls of an operation, about one order where that is named.
func (d *diary) of(operation, order string) (calls []call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c.operation == operation && (order == "" || c.order == order) {
			calls = append(calls, c)
		}
	}
	return calls
}

// during notes what is done while do runs.
func (d *diary) during(text string, do func()) {
	began := time.Now()
	do()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notes = append(d.notes, note{began, time.Now(), text})
}

// timeout is what a caller allows for its answer.
const timeout = 2 * time.Second

// make makes a request under an id of its own, and notes it.
func (p *pair) make(operation, order string, timeout time.Duration, request func(headers ...string) shop.Reply) call {
	c := call{operation: operation, order: order, requestID: exchange.NewRequestID(), began: time.Now(), timeout: timeout}
	c.reply = request(exchange.RequestIDHeader, c.requestID, exchange.TimeoutHeader, fmt.Sprint(timeout.Milliseconds()))
	c.ended = time.Now()
	p.diary.add(c)
	return c
}

// line is one of a service's log.
type line struct {
	Time      time.Time
	Msg       string
	RequestID string `json:"request_id"`
	Operation string
	Wire      string
	Outcome   string
	Error     string
	Order     string
	Attempt   int
	Attempts  int
	Resend    bool
	Duration  float64 `json:"duration_ms"`
	Tried     []struct {
		After    float64 `json:"after_ms"`
		Duration float64 `json:"duration_ms"`
		Outcome  string
		Error    string
	}
}

func (l line) began() time.Time {
	return l.Time.Add(-time.Duration(l.Duration * float64(time.Millisecond)))
}

// book is what both services wrote, by request.
type book struct {
	orders, inventory map[string][]line
	// again are the ids of the requests by which the settler asked about an order.
	again map[string][]string
}

// read reads both services' logs.
func (p *pair) read() book {
	p.Helper()
	b := book{orders: map[string][]line{}, inventory: map[string][]line{}, again: map[string][]string{}}
	for _, s := range []struct {
		*service
		into map[string][]line
	}{{p.orders, b.orders}, {p.inventory, b.inventory}} {
		for text := range strings.Lines(p.logs(s.service)) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				p.Errorf("%s wrote a line that is no JSON: %s", s.name, text)
				continue
			}
			s.into[l.RequestID] = append(s.into[l.RequestID], l)
			if l.Msg == "asks again" {
				b.again[l.Order] = append(b.again[l.Order], l.RequestID)
			}
		}
	}
	return b
}

// asked are the exchanges that orders made under a request's id, and arrived what of
// them inventory answered.
func (b book) asked(requestID string) (lines []line) {
	for _, l := range b.orders[requestID] {
		if l.Msg == "asked inventory" {
			lines = append(lines, l)
		}
	}
	return lines
}

func (b book) arrived(requestID string) (lines []line) {
	for _, l := range b.inventory[requestID] {
		if l.Msg == "exchange" {
			lines = append(lines, l)
		}
	}
	return lines
}

// attempts is how often orders asked inventory under a request's id.
func (b book) attempts(requestID string) (n int) {
	for _, l := range b.asked(requestID) {
		n += l.Attempts
	}
	return n
}

// story tells what happened to a request, and what the settler did for its order.
func (p *pair) story(b book, c call) []report.Event {
	at := func(t time.Time) float64 { return math.Round(float64(t.Sub(c.began).Microseconds())) / 1000 }
	answer := fmt.Sprint(c.reply.Status, " ", cmp.Or(c.reply.Code, c.reply.State))
	if c.reply.Err != nil {
		answer = "no answer"
	}
	events := []report.Event{
		{From: report.Caller, To: report.Orders, AtMS: 0, UntilMS: 0, Text: c.operation + " " + c.order, Detail: "request " + c.requestID},
		{From: report.Orders, To: report.Caller, AtMS: at(c.ended), UntilMS: at(c.ended), Text: answer, Lost: c.reply.Err != nil, Detail: fmt.Sprint(c.reply.Err)},
	}
	if c.reply.Err == nil {
		events[1].Detail = c.reply.Text
	}
	for i, id := range append([]string{c.requestID}, b.again[c.order]...) {
		events = append(events, messages(b, id, at, i > 0)...)
	}
	for _, n := range p.diary.notes {
		events = append(events, report.Event{AtMS: at(n.began), UntilMS: at(n.ended), Text: n.text})
	}
	slices.SortStableFunc(events, func(a, b report.Event) int { return cmp.Compare(a.AtMS, b.AtMS) })
	return events
}

// messages are those between the services under a request's id.
func messages(b book, id string, at func(time.Time) float64, repair bool) (events []report.Event) {
	arrived := b.arrived(id)
	take := func(attempt int) (line, bool) {
		// The first releases of inventory do not log which attempt it was.
		i := slices.IndexFunc(arrived, func(l line) bool { return l.Attempt == attempt || l.Attempt == 0 })
		if i < 0 {
			return line{}, false
		}
		l := arrived[i]
		arrived = slices.Delete(arrived, i, i+1)
		return l, true
	}
	there := func(l line, attempt int, from, until float64) report.Event {
		return report.Event{From: report.Orders, To: report.Inventory, AtMS: from, UntilMS: until, Repair: repair,
			Text: fmt.Sprintf("%s, attempt %d", l.Operation, attempt), Detail: "request " + id}
	}
	for _, l := range b.asked(id) {
		began := at(l.began())
		tried := l.Tried
		if len(tried) == 0 && l.Attempts == 1 {
			tried = append(tried, struct {
				After    float64 `json:"after_ms"`
				Duration float64 `json:"duration_ms"`
				Outcome  string
				Error    string
			}{0, l.Duration, l.Outcome, l.Error})
		}
		for i, try := range tried {
			from, until := began+try.After, began+try.After+try.Duration
			there := there(l, i+1, from, until)
			answer, came := take(i + 1)
			if !came {
				there.Lost, there.Detail = true, try.Outcome+": "+try.Error
				events = append(events, there)
				continue
			}
			there.UntilMS = max(from, at(answer.began()))
			back := report.Event{From: report.Inventory, To: report.Orders, AtMS: at(answer.Time), UntilMS: until, Repair: repair, Text: answer.Outcome, Detail: try.Error}
			// What orders had from it is not what it said: that came too late, or never.
			back.Lost = try.Outcome != answer.Outcome
			if back.Lost {
				back.Detail = fmt.Sprintf("orders had: %s: %s", try.Outcome, try.Error)
			}
			events = append(events, there, back)
		}
	}
	// Who asked for the rest did not live to write it down.
	for _, l := range arrived {
		events = append(events, there(l, l.Attempt, at(l.began()), at(l.began())),
			report.Event{From: report.Inventory, To: report.Orders, AtMS: at(l.Time), UntilMS: at(l.Time), Repair: repair, Text: l.Outcome, Lost: true, Detail: "nobody noted that it came"})
	}
	return events
}
