//go:build failpoints

// Package failpoint stops a process dead at a named point, for tests that need
// to know what a crash exactly there leaves behind.
package failpoint

import (
	"os"
	"path/filepath"
	"syscall"
)

// Hit kills the process as kill -9 does where the folder that the environment
// names in FAILPOINTS holds a file point:operation. It takes the file away: of
// several replicas that share a folder, the one that comes first dies.
func Hit(point, operation string) {
	folder := os.Getenv("FAILPOINTS")
	if folder != "" && os.Remove(filepath.Join(folder, point+":"+operation)) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // an error has no reader
		select {}
	}
}
