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
	"roundtrip/test/support/caller"
)

// allExchanges are the exchanges, in the report's order.
var allExchanges = []string{"place", "amend", "confirm", "cancel", "reservation", "availability"}

// call is one request of a caller and its response.
type call struct {
	operation, order, requestID string
	began, end                  time.Time
	timeout                     time.Duration
	response                    caller.Response
}

// late is how long after its deadline the response came.
func (c call) late() time.Duration { return c.end.Sub(c.began) - c.timeout }

func (c call) unknown() bool { return c.response.Status == 202 }

func (c call) refused() bool { return c.response.Status == 503 || c.response.Status == 504 }

// recorder records the calls and the faults of a case.
type recorder struct {
	mu          sync.Mutex
	calls       []call
	annotations []annotation
	// settled is the time from the last fault's end until all intents were settled.
	settled time.Duration
}

type annotation struct {
	began, end time.Time
	text       string
}

func (d *recorder) add(c call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, c)
}

// of returns the calls of an operation, for one order if it is not "".
func (d *recorder) of(operation, order string) (calls []call) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.calls {
		if c.operation == operation && (order == "" || c.order == order) {
			calls = append(calls, c)
		}
	}
	return calls
}

// during adds an annotation for the time while do runs.
func (d *recorder) during(text string, do func()) {
	began := time.Now()
	do()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.annotations = append(d.annotations, annotation{began, time.Now(), text})
}

// timeout is the timeout of a call.
const timeout = 2 * time.Second

// call sends a request under a new request id and records it.
func (sys *system) call(operation, order string, timeout time.Duration, request func(headers ...string) caller.Response) call {
	c := call{operation: operation, order: order, requestID: exchange.NewRequestID(), began: time.Now(), timeout: timeout}
	c.response = request(exchange.RequestIDHeader, c.requestID, exchange.TimeoutHeader, fmt.Sprint(timeout.Milliseconds()))
	c.end = time.Now()
	sys.recorder.add(c)
	return c
}

// line is a line of a service's log.
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

// serviceLogs are the log lines of both services, by request id.
type serviceLogs struct {
	orders, inventory map[string][]line
	// settlerRequests are the ids of the settler's requests, by order.
	settlerRequests map[string][]string
}

// readLogs reads both services' logs.
func (sys *system) readLogs() serviceLogs {
	sys.Helper()
	b := serviceLogs{orders: map[string][]line{}, inventory: map[string][]line{}, settlerRequests: map[string][]string{}}
	for _, s := range []struct {
		*service
		into map[string][]line
	}{{sys.orders, b.orders}, {sys.inventory, b.inventory}} {
		for text := range strings.Lines(sys.logs(s.service)) {
			var l line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				sys.Errorf("%s wrote a log line that is not JSON: %s", s.name, text)
				continue
			}
			s.into[l.RequestID] = append(s.into[l.RequestID], l)
			if l.Msg == "asks again" {
				b.settlerRequests[l.Order] = append(b.settlerRequests[l.Order], l.RequestID)
			}
		}
	}
	return b
}

// attemptsOf returns orders' lines about the exchanges of a request.
func (b serviceLogs) attemptsOf(requestID string) (lines []line) {
	for _, l := range b.orders[requestID] {
		if l.Msg == "asked inventory" {
			lines = append(lines, l)
		}
	}
	return lines
}

// received returns inventory's lines about the exchanges of a request.
func (b serviceLogs) received(requestID string) (lines []line) {
	for _, l := range b.inventory[requestID] {
		if l.Msg == "exchange" {
			lines = append(lines, l)
		}
	}
	return lines
}

// attempts is how many attempts orders made for a request.
func (b serviceLogs) attempts(requestID string) (n int) {
	for _, l := range b.attemptsOf(requestID) {
		n += l.Attempts
	}
	return n
}

// timeline returns the events of a call, and those of the settler for its order.
func (sys *system) timeline(b serviceLogs, c call) []report.Event {
	at := func(t time.Time) float64 { return math.Round(float64(t.Sub(c.began).Microseconds())) / 1000 }
	response := fmt.Sprint(c.response.Status, " ", cmp.Or(c.response.Code, c.response.State))
	if c.response.Err != nil {
		response = "no response"
	}
	events := []report.Event{
		{From: report.Caller, To: report.Orders, AtMS: 0, UntilMS: 0, Text: c.operation + " " + c.order, Detail: "request " + c.requestID},
		{From: report.Orders, To: report.Caller, AtMS: at(c.end), UntilMS: at(c.end), Text: response, Lost: c.response.Err != nil, Detail: fmt.Sprint(c.response.Err)},
	}
	if c.response.Err == nil {
		events[1].Detail = c.response.Text
	}
	for i, id := range append([]string{c.requestID}, b.settlerRequests[c.order]...) {
		events = append(events, messageEvents(b, id, at, i > 0)...)
	}
	for _, n := range sys.recorder.annotations {
		events = append(events, report.Event{AtMS: at(n.began), UntilMS: at(n.end), Text: n.text})
	}
	slices.SortStableFunc(events, func(a, b report.Event) int { return cmp.Compare(a.AtMS, b.AtMS) })
	return events
}

// messageEvents returns the messages between the services for a request.
func messageEvents(b serviceLogs, id string, at func(time.Time) float64, repair bool) (events []report.Event) {
	received := b.received(id)
	take := func(attempt int) (line, bool) {
		// The first releases of inventory do not log the attempt.
		i := slices.IndexFunc(received, func(l line) bool { return l.Attempt == attempt || l.Attempt == 0 })
		if i < 0 {
			return line{}, false
		}
		l := received[i]
		received = slices.Delete(received, i, i+1)
		return l, true
	}
	toInventory := func(l line, attempt int, from, until float64) report.Event {
		return report.Event{From: report.Orders, To: report.Inventory, AtMS: from, UntilMS: until, Repair: repair,
			Text: fmt.Sprintf("%s, attempt %d", l.Operation, attempt), Detail: "request " + id}
	}
	for _, l := range b.attemptsOf(id) {
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
			toInventory := toInventory(l, i+1, from, until)
			response, came := take(i + 1)
			if !came {
				toInventory.Lost, toInventory.Detail = true, try.Outcome+": "+try.Error
				events = append(events, toInventory)
				continue
			}
			toInventory.UntilMS = max(from, at(response.began()))
			toOrders := report.Event{From: report.Inventory, To: report.Orders, AtMS: at(response.Time), UntilMS: until, Repair: repair, Text: response.Outcome, Detail: try.Error}
			// If orders logged another outcome, the response was late or lost.
			toOrders.Lost = try.Outcome != response.Outcome
			if toOrders.Lost {
				toOrders.Detail = fmt.Sprintf("orders saw: %s: %s", try.Outcome, try.Error)
			}
			events = append(events, toInventory, toOrders)
		}
	}
	// Orders' log has no line for the rest: orders was killed before it wrote one.
	for _, l := range received {
		events = append(events, toInventory(l, l.Attempt, at(l.began()), at(l.began())),
			report.Event{From: report.Inventory, To: report.Orders, AtMS: at(l.Time), UntilMS: at(l.Time), Repair: repair, Text: l.Outcome, Lost: true, Detail: "orders did not log it"})
	}
	return events
}
