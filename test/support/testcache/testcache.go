// Package testcache tells Go's cache of test results about files that a test uses
// by way of another program.
//
// Go runs a test again when its code, or a file that it opened itself, has changed.
// What a command opens that a test runs (go build, helm, make) Go does not see.
package testcache

import (
	"io/fs"
	"path/filepath"
	"testing"
)

// Watch makes the result of a test depend on files of this module, and on all files
// in folders: on their names, sizes and times.
func Watch(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		// Go notes each file that is looked at, and each folder that is read, with all that is in it.
		if err := filepath.WalkDir(path, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			t.Fatal(err)
		}
	}
}
