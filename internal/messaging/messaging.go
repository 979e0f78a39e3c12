// Package messaging is the NATS side that both services share: connections, a
// responder for request and reply, and problems as replies.
//
// # Request and reply over a broker
//
// NATS delivers at most once, and a request without an answer is only silence.
// What that leaves to do is small. Responders share a queue group, so that each
// request goes to one of them. When nobody is subscribed, the server says so
// own, at once, and means that nothing took effect. A reply that is lost leaves
// the outcome unknown, as everywhere; but nothing tells that the responder
// is gone, so an attempt does not wait for all of the time (exchange.Options.Silent).
//
// A broker can also keep a request for too long: in its buffers, or in those of a
// client that reconnects. So clients here buffer nothing while they are not
// connected, and a request names the moment at which its caller stops waiting
// ([DeadlineHeader]), by which a responder drops what comes later.
//
// # Problems
//
// A problem is a reply with the headers of the NATS service API (ADR-32):
// Nats-Service-Error has the code, Nats-Service-Error-Code the HTTP status. Its
// body is the same JSON as on REST, and so is Retry-After.
package messaging

// Headers of requests and replies, beside those of package exchange.
const (
	// DeadlineHeader is when the caller stops waiting, in milliseconds since 1970 UTC.
	DeadlineHeader = "Request-Deadline"
	// ErrorHeader has a problem's code, ErrorCodeHeader its HTTP status.
	ErrorHeader     = "Nats-Service-Error"
	ErrorCodeHeader = "Nats-Service-Error-Code"
)

// wire is this wire's name.
const wire = "nats"
