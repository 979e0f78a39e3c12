// Package exchange is how one service asks another: one request, one response,
// a deadline, and a few careful retries. It serves every wire. An adapter makes the
// single attempt. The errors of an attempt are in internal/problem.
//
// # Deadlines are passed on
//
// Every exchange has a deadline, and each hop tells the next how much time is left
// ([TimeoutHeader]). A responder that has no time left drops the request, because its
// caller is gone. Deadlines only save work. A passed deadline never shows whether a
// request took effect.
//
// # One loop, with a budget
//
// An exchange is retried after a fault that may pass (the transport, unavailable,
// overloaded). It makes at most three attempts, with full jitter: a random wait
// between zero and a ceiling that doubles, from 25 ms to 500 ms. So callers that
// failed together do not come back together (Marc Brooker, "Exponential Backoff And
// Jitter", AWS Architecture Blog, 2015). A responder's Retry-After is added to that
// wait. If the wait would end too late for the deadline, there is no retry. Retries
// are safe because every request carries an id and a seq.
//
// Retries can also turn an overload into an outage that lasts longer than its cause
// (Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021). So
// all callers of a process share a budget: retries are at most a tenth of the
// requests plus ten a second. The requests that the settler sends again are counted
// separately, and its lease limits them ([Caller.Resend]). This package has the one
// retry loop for every wire. The libraries' own retries are off, because two loops
// multiply the attempts. The requests that a process has in flight are limited where
// it admits its callers' requests ([Responder]).
//
// # The breaker counts only failures to connect
//
// Requests that can't reach the responder can be refused at once: waiting would not
// help, and the requests can't have taken effect. The breaker opens after five such
// failures in a row. It then allows one probe at a time, at most four a second. It
// ignores other errors, because a slow or failing responder is still deciding
// requests, and the budget and the deadline already limit what callers ask of it.
package exchange

import (
	"context"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"

	"roundtrip/internal/problem"
)

// What a request carries in addition to its body, as HTTP and NATS headers.
const (
	// TimeoutHeader is how much of the deadline is left, in milliseconds.
	TimeoutHeader = "Request-Timeout-Ms"
	// RequestIDHeader is the id under which every log has all that one caller's request
	// caused.
	RequestIDHeader = "X-Request-Id"
	// AttemptHeader counts the attempts of one exchange: 1, 2, 3.
	AttemptHeader = "Request-Attempt"
	// TraceHeader says which trace a request belongs to (W3C Trace Context). It is in
	// lower case, as the recommendation writes it, because NATS headers are
	// case-sensitive.
	TraceHeader = "traceparent"
)

// RetryAfterHeader is how long to wait before a request is sent again, in whole
// seconds. Responses on HTTP and NATS carry it.
const RetryAfterHeader = "Retry-After"

// FormatRetryAfter writes a wait as a [RetryAfterHeader]: at least one second.
func FormatRetryAfter(wait time.Duration) string {
	return strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10)
}

// ParseRetryAfter reads a [RetryAfterHeader]. It returns 0 for a missing or invalid
// one.
func ParseRetryAfter(header string) time.Duration {
	seconds, err := strconv.ParseUint(header, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// The bounds of a deadline.
const (
	// DefaultTimeout is the timeout of a request without a [TimeoutHeader].
	DefaultTimeout = 2 * time.Second
	// MaxTimeout is the longest timeout of a request.
	MaxTimeout = 5 * time.Second
	// MinTimeout is the shortest time that must be left to begin an exchange.
	MinTimeout = 20 * time.Millisecond
)

// ParseTimeout reads a [TimeoutHeader]. It returns [DefaultTimeout] if the header is
// empty, at most [MaxTimeout], and an invalid problem if the header is not a positive
// number.
func ParseTimeout(header string) (time.Duration, error) {
	if header == "" {
		return DefaultTimeout, nil
	}
	ms, err := strconv.ParseUint(header, 10, 63)
	if err != nil || ms == 0 {
		var f problem.Fields
		f.Add("header:"+TimeoutHeader, "must be a positive number of milliseconds")
		return 0, f.Err()
	}
	if ms > uint64(MaxTimeout/time.Millisecond) {
		return MaxTimeout, nil
	}
	return time.Duration(ms) * time.Millisecond, nil
}

// FormatTimeout writes the time that is left as a [TimeoutHeader], at least 1.
func FormatTimeout(left time.Duration) string {
	return strconv.FormatInt(max(1, left.Milliseconds()), 10)
}

// WithTimeout gives a received request its deadline: the time that its caller says is
// left, at most [MaxTimeout]. It returns deadline-exceeded if less than [MinTimeout]
// is left.
func WithTimeout(ctx context.Context, left time.Duration) (context.Context, context.CancelFunc, error) {
	if left < MinTimeout {
		return ctx, nil, problem.New(problem.DeadlineExceeded, "Too little time was left to begin.")
	}
	ctx, cancel := context.WithTimeout(ctx, min(left, MaxTimeout))
	return ctx, cancel, nil
}

// Remaining is the time until the context's deadline; false if it has none.
func Remaining(ctx context.Context) (time.Duration, bool) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, false
	}
	return time.Until(deadline), true
}

type requestIDKey struct{}

// WithRequestID puts a request's id into a context.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestID is the id of the request that the context belongs to; "" if it belongs to
// none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID makes an id for a request without a valid one.
func NewRequestID() string { return uuid.NewString() }

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidRequestID reports whether a caller's id may be used as it is.
func ValidRequestID(id string) bool { return requestIDPattern.MatchString(id) }

// unreachable marks an error of an attempt that never reached the responder.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// Unreachable makes the unavailable problem of an attempt that could not connect. The
// request can't have taken effect. The breaker counts such attempts.
func Unreachable(err error) error {
	return problem.Wrap(unreachable{err}, problem.Unavailable, "Can't connect to the other service.")
}

func deadlineExceeded(cause error, attempts int) error {
	if cause == nil {
		return problem.New(problem.DeadlineExceeded, "Too little time was left to begin.")
	}
	return problem.Wrap(cause, problem.DeadlineExceeded, "There was no answer in time, after %d attempts.", attempts)
}
