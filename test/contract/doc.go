// Package contract holds both sides of every exchange to what orders relies on:
// the pact, contracts/pacts/orders-inventory.json.
//
// # How it works
//
// The table in this file says what orders asks and what it relies on in the
// answer, once for all wires. The consumer's test makes each wire's interactions
// of it, lets orders' real client run against each, and writes the pact. The
// provider's test starts the real inventory and lets Pact's verifier send it every
// request of the pact, over that request's own wire.
//
// HTTP is Pact's own. gRPC and NATS are Pact's synchronous messages: Pact knows
// the contents of a request and a response, and the test brings the wire. On
// orders' side that is a real server which compares what arrived with the pact and
// answers with the pact's response; on inventory's side it is a bridge, which takes
// the verifier's request and makes the real call.
//
// # What needs Pact
//
// The tests with the build tag contract link Pact's library; `make contract` brings
// it. The table, the states and the tests of the committed pact are plain Go, and
// `make check` runs them.
package contract
