//go:build !failpoints

// Package failpoint kills a process at a named point. Tests use it to see what a
// crash at exactly this point leaves behind.
//
// It works only in binaries that are built with the tag "failpoints". In all others
// [Hit] is empty and the compiler removes the call.
package failpoint

// Hit does nothing in this build.
func Hit(point, operation string) {}
