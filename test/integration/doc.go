// Package integration tests both services as they are shipped, as images in
// containers, with a real PostgreSQL, a real NATS and real networks. Toxiproxy
// injects network faults.
//
// Each exchange (place, amend, confirm, cancel, reservation, availability) runs on
// each wire to each outcome that a caller can bring about, and then under each
// fault. A case checks the response, the rows of orders, the state of inventory and
// both logs. After each fault the invariants of the protocol hold.
//
// A run writes a [report]: the matrix of all cases, with the timeline of a request
// of each as a diagram.
//
// The servers are shared. A case has its own containers, databases, NATS account and
// proxies. `make integration` provides the images; the tests start the rest.
package integration
