// Package testcache tells Go's cache of test results about files that a test uses
// through another program.
//
// Go runs a test again if its code changed, or a file that the test opened. Go does
// not see the files that a command of the test opens (go build, helm, make).
package testcache

import (
	"io/fs"
	"path/filepath"
	"testing"
)

// Watch makes the result of a test depend on files of this module: on their names,
// sizes and times. Of a folder it includes all files.
func Watch(t testing.TB, paths ...string) {
	t.Helper()
	for _, path := range paths {
		// Go records each file whose status is read, and each folder that is read,
		// with its content.
		if err := filepath.WalkDir(path, func(_ string, _ fs.DirEntry, err error) error { return err }); err != nil {
			t.Fatal(err)
		}
	}
}
