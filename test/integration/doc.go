// Package integration tests the release images of both services in containers, with
// a real PostgreSQL, a real NATS and real networks. Toxiproxy injects network faults.
//
// Each exchange (place, amend, confirm, cancel, reservation, availability) runs on
// each wire, with each outcome that a caller can cause, and then under each fault. A
// case checks the response, the rows of orders, the state of inventory and both
// logs. After each fault the invariants of the protocol hold.
//
// A run writes a [report]: the matrix of all cases. For each case it shows the
// timeline of one request as a diagram.
//
// The servers are shared. A case has its own containers, databases, NATS account and
// proxies. `make integration` provides the images; the tests start the rest.
package integration
