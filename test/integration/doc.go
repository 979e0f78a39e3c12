// Package integration tests the pair as it is shipped, its images, in containers:
// with a real PostgreSQL, a real NATS and real networks, which Toxiproxy spoils.
//
// Each exchange (place, amend, confirm, cancel, reservation, availability) is made
// on each wire to each outcome that can be brought about from outside, and then
// under each fault, and looked at from both ends: what the caller was told, what
// orders has stored and what inventory has, what both wrote in their logs. After
// each fault the invariants of the protocol hold.
//
// A run leaves a [report] behind: the matrix of all this, and of each cell what
// really happened, as a diagram.
//
// The servers are shared, and a case has what it needs to itself: its containers,
// its databases, its account in NATS, its proxies. `make integration` brings the
// images; the tests start the rest.
package integration
