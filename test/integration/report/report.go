// Package report writes the report of the integration tests: one HTML page and its
// data, with every exchange on every wire under every fault.
package report

import "time"

// Report is one run.
type Report struct {
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	// Seconds is the duration.
	Seconds float64 `json:"seconds"`
	// Machine describes the machine of the run, such as "linux/amd64, 2 processors,
	// Docker 28.0".
	Machine string `json:"machine"`
	// Sections are the parts of the matrix, in order.
	Sections []Section `json:"sections"`
}

// Section is one matrix: its rows are outcomes or faults, its columns exchanges,
// each on every wire.
type Section struct {
	Title string `json:"title"`
	// About says in a sentence or two what was done and what was checked.
	About string `json:"about"`
	Rows  []Row  `json:"rows"`
}

// Row is one outcome or one fault.
type Row struct {
	Name string `json:"name"`
	// About says what was done.
	About string `json:"about"`
	Cells []Cell `json:"cells"`
}

// Result is how a cell ended.
type Result string

// The results. A cell that is Impossible says why.
const (
	Passed     Result = "passed"
	Failed     Result = "failed"
	Impossible Result = "impossible"
)

// Cell is one exchange on one wire in one row.
type Cell struct {
	Exchange string `json:"exchange"`
	Wire     string `json:"wire"`
	Store    string `json:"store"`
	Result   Result `json:"result"`
	// Why is the reason for Impossible or Failed.
	Why string `json:"why,omitempty"`
	// Requests counts the caller's requests: Unknown those with the response 202,
	// Refused those with 503 or 504, and Broken those whose connection broke.
	Requests int `json:"requests"`
	Unknown  int `json:"unknown"`
	Refused  int `json:"refused"`
	Broken   int `json:"broken"`
	// Attempts counts the attempts that orders made at inventory for these requests.
	Attempts int `json:"attempts"`
	// P99MS is the 99th percentile of the latency. MostLateMS is how long after its
	// deadline the latest response came. It is negative before the deadline.
	P99MS      float64 `json:"p99_ms"`
	MostLateMS float64 `json:"most_late_ms"`
	// SettledMS is the time from the fault's end until all intents were settled.
	SettledMS float64 `json:"settled_ms"`
	// Timeline has the events of one of the requests, in order of time.
	Timeline []Event `json:"timeline,omitempty"`
}

// Party is a participant of an exchange.
type Party string

// The parties, from left to right.
const (
	Caller    Party = "caller"
	Orders    Party = "orders"
	Inventory Party = "inventory"
)

// Event is a message between two parties, or a note. Times are milliseconds since
// the start of the timeline, by the clock of one machine.
type Event struct {
	// From sent it at AtMS, and To received it at UntilMS. A note has no From. It
	// describes the time from AtMS to UntilMS, such as a fault.
	From    Party   `json:"from,omitempty"`
	To      Party   `json:"to,omitempty"`
	AtMS    float64 `json:"at_ms"`
	UntilMS float64 `json:"until_ms"`
	// Text is a short description, such as "PUT /v1/orders/a", "PutReservation, attempt 2" or
	// "202 pending".
	Text string `json:"text"`
	// Detail is shown as a tooltip.
	Detail string `json:"detail,omitempty"`
	// Lost says that the message did not arrive. Then UntilMS is when its sender
	// noticed.
	Lost bool `json:"lost,omitempty"`
	// Repair says that the settler sent the message.
	Repair bool `json:"repair,omitempty"`
}
