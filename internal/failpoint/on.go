//go:build failpoints

// Package failpoint kills a process at a named point. Tests use it to see what a
// crash at exactly this point leaves behind.
package failpoint

import (
	"os"
	"path/filepath"
	"syscall"
)

// Hit kills the process, as kill -9 does, if there is a file named point:operation
// in the folder that the environment variable FAILPOINTS names. It removes the file
// first. So if several replicas share a folder, only the first one that reaches the
// point dies.
func Hit(point, operation string) {
	folder := os.Getenv("FAILPOINTS")
	if folder != "" && os.Remove(filepath.Join(folder, point+":"+operation)) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // nothing could handle an error
		select {}
	}
}
