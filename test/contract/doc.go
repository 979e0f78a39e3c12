// Package contract tests both sides of every exchange against the pact, which says
// what orders relies on: contracts/pacts/orders-inventory.json.
//
// # How it works
//
// The table in interactions_test.go says what orders sends and what it relies on in
// the response, once for all wires. The consumer test makes the interactions of
// each wire from it, runs orders' real client against each, and writes the pact.
// The provider test starts the real inventory. Pact's verifier sends it every
// request of the pact, over that request's own wire.
//
// Pact supports HTTP. For gRPC and NATS the pact has synchronous messages: Pact
// knows the contents of a request and a response, and the test sends them. For
// orders that is a real server, which compares each request with the pact and
// responds with the pact's response. For inventory it is a bridge, which takes the
// verifier's request and sends it over the wire.
//
// # What needs Pact
//
// The tests with the build tag contract link Pact's library; `make contract` gets
// it. The table, the provider states and the tests of the committed pact are plain
// Go. `make check` runs them.
package contract
