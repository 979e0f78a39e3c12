// Package loadstats has the statistics that the load in the cluster reports to the
// test outside.
package loadstats

import "time"

// Stats are the statistics of a period.
type Stats struct {
	// Requests is the number of requests. Failures is the number of requests whose
	// first response was not done. A 202 is a failure.
	Requests, Failures int
	// Seconds is the length of the period.
	Seconds float64
	P99     time.Duration
	// Slowest describes the slowest request.
	Slowest string
	// Examples are some of the failures.
	Examples []string
}
