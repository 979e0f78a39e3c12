//go:build failpoints

// Package failpoint stops a process dead at a named point, for tests that need
// to know what a crash exactly there leaves behind.
package failpoint

import (
	"os"
	"syscall"
)

// Hit kills the process as kill -9 does where the environment says
// FAILPOINT=point:operation.
func Hit(point, operation string) {
	if os.Getenv("FAILPOINT") == point+":"+operation {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nobody is left to hear of an error
		select {}
	}
}
