// Package taken is what the load in the cluster tells the test outside.
package taken

import "time"

// Taken is what a load met in a while.
type Taken struct {
	// Requests is how many were answered or failed, and Failures how many of them
	// were not done at once: a 202 is one too.
	Requests, Failures int
	// Seconds is how long the while was.
	Seconds float64
	P99     time.Duration
	// Slowest is the slowest of them.
	Slowest string
	// Examples are some of the failures.
	Examples []string
}
