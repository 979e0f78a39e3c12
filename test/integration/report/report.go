// Package report is what a run of the integration tests leaves behind: one page
// and its data, of every exchange on every wire under every fault.
package report

import "time"

// Report is one run.
type Report struct {
	Version string    `json:"version"`
	Began   time.Time `json:"began"`
	// Seconds is how long it took.
	Seconds float64 `json:"seconds"`
	// Machine says where it ran, such as "linux/amd64, 2 processors, Docker 28.0".
	Machine string `json:"machine"`
	// Sections are the parts of the matrix, in order.
	Sections []Section `json:"sections"`
}

// Section is one matrix: its rows are outcomes or faults, its columns exchanges,
// each on every wire.
type Section struct {
	Title string `json:"title"`
	// About says in a sentence or two what was done and what had to be true.
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
	// Why says why it is impossible, or what failed.
	Why string `json:"why,omitempty"`
	// Requests counts the caller's requests, Unknown those that were answered with
	// 202, Refused those that were refused for want of the other side, and Broken those
	// whose connection broke.
	Requests int `json:"requests"`
	Unknown  int `json:"unknown"`
	Refused  int `json:"refused"`
	Broken   int `json:"broken"`
	// Attempts counts what orders sent to inventory for them.
	Attempts int `json:"attempts"`
	// P99MS and MostLateMS are how long the caller's answers took, and how long past
	// its deadline the latest came (below zero: before it).
	P99MS      float64 `json:"p99_ms"`
	MostLateMS float64 `json:"most_late_ms"`
	// SettledMS is how long after the fault's end everything was settled.
	SettledMS float64 `json:"settled_ms"`
	// Story is what happened to one of the requests, in the order of time.
	Story []Event `json:"story,omitempty"`
}

// Party is one who takes part in an exchange.
type Party string

// The parties, from left to right.
const (
	Caller    Party = "caller"
	Orders    Party = "orders"
	Inventory Party = "inventory"
)

// Event is a message between two parties, or a note. Times are milliseconds since
// the story began, by the clock of one machine.
type Event struct {
	// From sent it at AtMS, and To got it at UntilMS. A note has no From: it is about
	// the time from AtMS to UntilMS, such as a fault.
	From    Party   `json:"from,omitempty"`
	To      Party   `json:"to,omitempty"`
	AtMS    float64 `json:"at_ms"`
	UntilMS float64 `json:"until_ms"`
	// Text says what it is, such as "PUT /v1/orders/a", "PutReservation, attempt 2" or
	// "202 pending".
	Text string `json:"text"`
	// Detail is more, for whoever points at it.
	Detail string `json:"detail,omitempty"`
	// Lost says that it did not arrive; UntilMS is when its sender knew that.
	Lost bool `json:"lost,omitempty"`
	// Repair says that it belongs to the settler's work, not to the caller's request.
	Repair bool `json:"repair,omitempty"`
}
