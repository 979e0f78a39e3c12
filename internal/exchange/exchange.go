// Package exchange is how one service asks another: one request, one response,
// a deadline, and a few careful repeats. It serves every wire; an adapter brings
// the single attempt, and what an attempt may fail with is in internal/problem.
//
// # Deadlines travel
//
// Every exchange has a deadline, and each hop tells the next what is left of it
// ([TimeoutHeader]). A responder that no longer has time drops the request
// instead of working for a caller who has gone. Deadlines save work; that is all
// they do. Whether a request took effect is never inferred from one.
//
// # One loop, with a budget
//
// A fault that may pass (the transport, unavailable, overloaded) is tried again,
// at most three times in all, with full jitter: a random wait between nothing and
// a ceiling that doubles, from 25 ms to 500 ms, so that callers who failed
// together do not come back together (Marc Brooker, "Exponential Backoff And
// Jitter", AWS Architecture Blog, 2015). What the responder itself advises comes
// before that wait. A wait that would pass the deadline is not begun.
// Repeats are safe because every request carries an id and a seq.
//
// Retries are also how an overload becomes an outage that outlives its cause
// (Bronson et al., "Metastable Failures in Distributed Systems", HotOS 2021). So
// all callers of a process share a budget: retries are at most a tenth of the
// requests plus ten a second. What the settler sends again is paced by its lease
// and counted apart ([Caller.Resend]). There is one loop, here, for every wire;
// libraries' own retries are off, because two loops multiply. What a process has in
// flight is bounded where its callers' requests are admitted ([Responder]).
//
// # The breaker looks at connecting only
//
// Requests that can't even reach the responder can be refused at once: waiting
// would not help, and nothing can have taken effect. The breaker opens after
// five in a row and then lets one probe through at a time, four a second at most.
// It looks at nothing else: a slow or failing responder is still deciding things,
// and the budget and the deadline already bound what we ask of it.
package exchange

import (
	"context"
	"regexp"
	"strconv"
	"time"

	"github.com/google/uuid"

	"roundtrip/internal/problem"
)

// What a request carries beside its body, as HTTP and NATS headers.
const (
	// TimeoutHeader is how much of the deadline is left, in milliseconds.
	TimeoutHeader = "Request-Timeout-Ms"
	// RequestIDHeader finds all that one caller's request caused, in every log.
	RequestIDHeader = "X-Request-Id"
	// AttemptHeader counts the attempts of one exchange: 1, 2, 3.
	AttemptHeader = "Request-Attempt"
	// TraceHeader says which trace a request belongs to (W3C Trace Context). NATS
	// tells upper from lower case, and the recommendation has it in lower case.
	TraceHeader = "traceparent"
)

// RetryAfterHeader is how long to wait before a request is sent again, in whole
// seconds; a response carries it, on HTTP and NATS.
const RetryAfterHeader = "Retry-After"

// FormatRetryAfter writes a wait as a [RetryAfterHeader]: at least one second.
func FormatRetryAfter(wait time.Duration) string {
	return strconv.FormatInt(max(1, int64((wait+time.Second-1)/time.Second)), 10)
}

// ParseRetryAfter reads a [RetryAfterHeader]; 0 for one that says nothing.
func ParseRetryAfter(header string) time.Duration {
	seconds, err := strconv.ParseUint(header, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// The bounds of a deadline.
const (
	// DefaultTimeout is that of a request which names none.
	DefaultTimeout = 2 * time.Second
	// MaxTimeout is the most that any request is granted.
	MaxTimeout = 5 * time.Second
	// MinTimeout is the least with which an exchange is begun.
	MinTimeout = 20 * time.Millisecond
)

// ParseTimeout reads a [TimeoutHeader]: the default where it is empty, at most
// [MaxTimeout], an invalid problem where it is no positive number.
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

// FormatTimeout writes what is left as a [TimeoutHeader], at least 1.
func FormatTimeout(left time.Duration) string {
	return strconv.FormatInt(max(1, left.Milliseconds()), 10)
}

// WithTimeout gives a request that was received its deadline: what its caller says
// is left, at most [MaxTimeout]; deadline-exceeded where that is too little.
func WithTimeout(ctx context.Context, left time.Duration) (context.Context, context.CancelFunc, error) {
	if left < MinTimeout {
		return ctx, nil, problem.New(problem.DeadlineExceeded, "Too little time was left to begin.")
	}
	ctx, cancel := context.WithTimeout(ctx, min(left, MaxTimeout))
	return ctx, cancel, nil
}

// Remaining is the time until the context's deadline; false where it has none.
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

// RequestID is the id of the request that the context belongs to; "" where it
// belongs to none.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// NewRequestID makes an id for a request that brought none.
func NewRequestID() string { return uuid.NewString() }

var requestIDPattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// ValidRequestID tells whether a caller's id may be used as it is.
func ValidRequestID(id string) bool { return requestIDPattern.MatchString(id) }

// unreachable marks an error of an attempt that never reached the responder.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

// Unreachable makes an unavailable problem of an attempt that could not connect.
// Nothing can have taken effect, and the breaker counts it.
func Unreachable(err error) error {
	return problem.Wrap(unreachable{err}, problem.Unavailable, "The other service can't be connected to.")
}

func deadlineExceeded(cause error, attempts int) error {
	if cause == nil {
		return problem.New(problem.DeadlineExceeded, "Too little time was left to begin.")
	}
	return problem.Wrap(cause, problem.DeadlineExceeded, "There was no answer in time, after %d attempts.", attempts)
}
