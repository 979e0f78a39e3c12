// Package messaging is the NATS side that both services share: connections, a
// responder for request and reply, and problems as replies.
//
// # Request and reply over a broker
//
// NATS delivers a request at most once, and reports nothing if there is no answer.
// Responders share a queue group, so that each request goes to one of them. If there is
// no subscriber, the server says so at once, and the request has had no effect. If a
// reply is lost, the outcome is unknown, as on every wire. But NATS does not report
// that a responder has disappeared. So an attempt does not wait for all of the time
// that is left (exchange.Options.SplitTimeout).
//
// A broker can also hold a request for too long: in its buffers, or in those of a
// client that reconnects. So clients here buffer nothing while they are not connected.
// A request also carries the time at which its caller stops waiting
// ([DeadlineHeader]), and a responder drops a request that arrives later.
//
// # Problems
//
// A problem is a reply with the headers of the NATS service API (ADR-32):
// Nats-Service-Error has the code, Nats-Service-Error-Code the HTTP status. The body is
// the same JSON as on REST, and Retry-After is the same too.
package messaging

// Headers of requests and replies, in addition to those of package exchange.
const (
	// DeadlineHeader is when the caller stops waiting, in milliseconds since 1970 UTC.
	DeadlineHeader = "Request-Deadline"
	// ErrorHeader has a problem's code, ErrorCodeHeader its HTTP status.
	ErrorHeader     = "Nats-Service-Error"
	ErrorCodeHeader = "Nats-Service-Error-Code"
)

// wire is this wire's name.
const wire = "nats"
