// Package problem is the one error type that crosses a wire.
//
// An error in a service reaches its caller as a [Problem]. It has a stable Code for
// programs, a Detail for people, and advice on whether and when to try again. If they
// apply, it also has every shortage, every field in error, and the current seq and
// state of the reservation. The table in this package holds the title, the HTTP status
// and the retry advice of every code. Adapters add no codes of their own.
//
// A Problem may wrap the error that caused it. That inner error is for the log
// of the process in which it happened. It is never encoded, so its text never
// leaves the process. An error that is not a Problem is sent as "internal".
//
// The JSON form is RFC 9457 (application/problem+json). It is read tolerantly:
// unknown fields are ignored, and a code that this build does not know is kept
// as it is and never retried. The problem of another program, such as a gateway, has
// another type, and is not read as a Problem. RetryAfter is not in the JSON. Each wire
// carries it outside the body, as REST does in Retry-After.
//
// The package imports the standard library only, so the domain packages may use
// it.
package problem

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// MediaType is the content type of a problem on REST (RFC 9457 §3).
const MediaType = "application/problem+json"

// typePrefix turns a code into an RFC 9457 "type". The URN only identifies. It can't be
// resolved to a document.
const typePrefix = "urn:roundtrip:problem:"

// Code names a kind of problem. Callers decide by the code only.
type Code string

// The codes, in the order of their HTTP status.
const (
	Invalid            Code = "invalid"
	Unauthenticated    Code = "unauthenticated"
	Forbidden          Code = "forbidden"
	NotFound           Code = "not-found"
	MethodNotAllowed   Code = "method-not-allowed"
	InsufficientStock  Code = "insufficient-stock"
	ReservationExpired Code = "reservation-expired"
	WrongState         Code = "wrong-state"
	BelowReserved      Code = "below-reserved"
	GivenUp            Code = "given-up"
	OperationPending   Code = "operation-pending"
	StaleSeq           Code = "stale-seq"
	PreconditionFailed Code = "precondition-failed"
	TooLarge           Code = "too-large"
	UnsupportedMedia   Code = "unsupported-media"
	KeyReused          Code = "key-reused"
	SeqReused          Code = "seq-reused"
	RateLimited        Code = "rate-limited"
	Internal           Code = "internal"
	Overloaded         Code = "overloaded"
	Unavailable        Code = "unavailable"
	DeadlineExceeded   Code = "deadline-exceeded"
)

// Retry says whether the same request, with the same id and seq, may be sent again.
type Retry int

const (
	// Never means that the answer would be the same.
	Never Retry = iota
	// Immediately means that the caller may retry at once.
	Immediately
	// After means that the caller may retry when RetryAfter has passed.
	After
)

// defaultRetryAfter is the wait for a problem with the advice After and without a
// RetryAfter.
const defaultRetryAfter = time.Second

type row struct {
	title  string
	status int
	retry  Retry
}

var table = map[Code]row{
	Invalid:            {"The request is not valid", 400, Never},
	Unauthenticated:    {"The caller is not known", 401, Never},
	Forbidden:          {"The caller may not do this", 403, Never},
	NotFound:           {"There is no such thing", 404, Never},
	MethodNotAllowed:   {"The method is not allowed here", 405, Never},
	InsufficientStock:  {"There is not enough stock", 409, Never},
	ReservationExpired: {"The hold has expired", 409, Never},
	WrongState:         {"The state does not allow this", 409, Never},
	BelowReserved:      {"Stock would fall below what is reserved", 409, Never},
	GivenUp:            {"The order was given up before it was settled", 409, Never},
	OperationPending:   {"Another operation is still pending", 409, After},
	StaleSeq:           {"A later operation has been decided", 409, Never},
	PreconditionFailed: {"The precondition no longer holds", 412, Never},
	TooLarge:           {"The request is too large", 413, Never},
	UnsupportedMedia:   {"The content type is not supported", 415, Never},
	KeyReused:          {"The id or key was used for another request", 422, Never},
	SeqReused:          {"The seq was used for another request", 422, Never},
	RateLimited:        {"There are too many requests from this caller", 429, After},
	Internal:           {"Something went wrong on our side", 500, Never},
	Overloaded:         {"There is too much to do at the moment", 503, After},
	Unavailable:        {"The service can't be reached or can't work at the moment", 503, After},
	DeadlineExceeded:   {"The deadline passed before there was an answer", 504, Immediately},
}

// Codes lists every code, sorted.
func Codes() []Code {
	codes := make([]Code, 0, len(table))
	for c := range table {
		codes = append(codes, c)
	}
	slices.Sort(codes)
	return codes
}

// Known reports whether the code is in the table.
func (c Code) Known() bool { _, ok := table[c]; return ok }

// Title is the short text of the code; the code itself if it is not in the table.
func (c Code) Title() string {
	if r, ok := table[c]; ok {
		return r.title
	}
	return string(c)
}

// HTTPStatus is the status that carries the code on REST; 500 if it is not in the table.
func (c Code) HTTPStatus() int {
	if r, ok := table[c]; ok {
		return r.status
	}
	return 500
}

// Retry is the code's advice; Never if it is not in the table.
func (c Code) Retry() Retry { return table[c].retry }

// ForStatus is the code for an answer with this HTTP status and without a problem in
// its body, for example a proxy's page.
func ForStatus(status int) Code {
	switch status {
	case 400:
		return Invalid
	case 401:
		return Unauthenticated
	case 403:
		return Forbidden
	case 404:
		return NotFound
	case 405:
		return MethodNotAllowed
	case 412:
		return PreconditionFailed
	case 413:
		return TooLarge
	case 415:
		return UnsupportedMedia
	case 429:
		return RateLimited
	case 502, 503:
		return Unavailable
	case 504:
		return DeadlineExceeded
	}
	return Internal
}

// Foreign makes a Problem from the HTTP status of an answer without one. Such an answer
// comes from a proxy, or from another server at the address. Only the other service
// itself can say not-found. So a 404 without a Problem means that the request did not
// reach it, and becomes unavailable.
func Foreign(status int) *Problem {
	code := ForStatus(status)
	if code == NotFound {
		code = Unavailable
	}
	return Wrap(fmt.Errorf("status %d without a problem in the body", status), code, "Another server answered.")
}

// Problem is an error as it crosses a wire. Its fields do not change after it has been
// made.
type Problem struct {
	Code Code
	// Detail is a sentence for a person. It holds nothing that the caller may
	// not know, and no inner error's text.
	Detail string
	// RetryAfter is how long to wait before trying again, for codes whose advice is
	// After. Zero means one second.
	RetryAfter time.Duration
	// Shortages lists every line that stock can't meet, with insufficient-stock.
	Shortages []Shortage
	// Errors lists every field in error, with invalid.
	Errors []FieldError
	// Current is the current state of the reservation, with every outcome, stale-seq
	// and seq-reused.
	Current *Current

	cause error
}

// Shortage is one line that stock could not meet.
type Shortage struct {
	SKU       string `json:"sku"`
	Location  string `json:"location"`
	Requested int64  `json:"requested"`
	Available int64  `json:"available"`
}

// FieldError says what is wrong with one part of a request.
type FieldError struct {
	// Pointer is an RFC 6901 pointer into the body ("/lines/0/sku"; "" is the
	// whole body) or names a parameter: "path:id", "query:limit", "header:If-Match".
	Pointer string `json:"pointer"`
	Detail  string `json:"detail"`
}

// Current is the state of a reservation at the time of the answer. The id names the
// reservation, so that a caller recognises an answer to another request.
type Current struct {
	ID    string `json:"id"`
	Seq   int64  `json:"seq"`
	State string `json:"state"`
}

// New makes a problem with a formatted detail.
func New(code Code, format string, args ...any) *Problem {
	return &Problem{Code: code, Detail: fmt.Sprintf(format, args...)}
}

// Wrap makes a problem caused by err. The cause goes to the log with
// [Problem.Error] and never onto a wire.
func Wrap(err error, code Code, format string, args ...any) *Problem {
	p := New(code, format, args...)
	p.cause = err
	return p
}

// From finds the Problem in an error's chain. An error without one becomes internal,
// with a detail that discloses nothing.
func From(err error) *Problem {
	if p, ok := errors.AsType[*Problem](err); ok {
		return p
	}
	return Wrap(err, Internal, "The request could not be handled. The log has the cause, with the request id.")
}

// CodeOf is the code of an error: "" for nil, internal for one without a Problem.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	return From(err).Code
}

// Error returns the text for logs: the code, the detail and the cause.
func (p *Problem) Error() string {
	s := string(p.Code)
	if p.Detail != "" {
		s += ": " + p.Detail
	}
	if p.cause != nil {
		s += " (" + p.cause.Error() + ")"
	}
	return s
}

// Unwrap returns the cause.
func (p *Problem) Unwrap() error { return p.cause }

// Wait is how long a caller should wait before it sends the request again. It returns
// false if the caller must not send it again.
func (p *Problem) Wait() (time.Duration, bool) {
	switch p.Code.Retry() {
	case Immediately:
		return 0, true
	case After:
		if p.RetryAfter > 0 {
			return p.RetryAfter, true
		}
		return defaultRetryAfter, true
	}
	return 0, false
}

type document struct {
	Type      string       `json:"type"`
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`
	Code      Code         `json:"code"`
	Shortages []Shortage   `json:"shortages,omitempty"`
	Errors    []FieldError `json:"errors,omitempty"`
	Current   *Current     `json:"current,omitempty"`
}

// MarshalJSON encodes the problem in the format of RFC 9457, without its cause.
func (p *Problem) MarshalJSON() ([]byte, error) {
	return json.Marshal(document{
		Type: typePrefix + string(p.Code), Title: p.Code.Title(), Status: p.Code.HTTPStatus(),
		Detail: p.Detail, Code: p.Code, Shortages: p.Shortages, Errors: p.Errors, Current: p.Current,
	})
}

// UnmarshalJSON reads the format that [Problem.MarshalJSON] writes. A document without
// a code is an error. So is a document whose type does not match its code, because it
// comes from another program.
func (p *Problem) UnmarshalJSON(b []byte) error {
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return fmt.Errorf("read problem: %w", err)
	}
	if d.Code == "" {
		return errors.New("read problem: it has no code")
	}
	if d.Type != "" && d.Type != typePrefix+string(d.Code) {
		return errors.New("read problem: its type does not match its code")
	}
	*p = Problem{Code: d.Code, Detail: d.Detail, Shortages: d.Shortages, Errors: d.Errors, Current: d.Current}
	return nil
}
