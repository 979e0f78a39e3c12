//go:build !failpoints

// Package failpoint stops a process dead at a named point, for tests that need
// to know what a crash exactly there leaves behind.
//
// It does so only in binaries that are built with the tag "failpoints"; in all
// others [Hit] is empty and the compiler removes the call.
package failpoint

// Hit does nothing in this build.
func Hit(point, operation string) {}
