// Package docs_test checks the documents: their links, the files and commands
// that they name, and the table of problems.
package docs_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	inventoryv1 "roundtrip/contracts/proto/inventory/v1"
	"roundtrip/internal/problem"
	"roundtrip/internal/rpc"
)

const root = ".."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// documents are the repository's, by their paths from its root.
func documents(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() && path != "." && strings.HasPrefix(d.Name(), ".") {
			return fs.SkipDir // what was built, and git's own
		}
		if strings.HasSuffix(path, ".md") {
			all[path] = read(t, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("there are %d documents; were they found?", len(all))
	}
	return all
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fence   = regexp.MustCompile("(?ms)^ *```.*?^ *```$")
	target  = regexp.MustCompile(`(?m)^([a-z][a-z0-9-]*):`)
	// command is a call of make in backticks or an indented block, line one in a fence.
	command = regexp.MustCompile("(?m)(?:`|^    )make\\s+([a-z][a-z0-9-]*)")
	line    = regexp.MustCompile(`(?m)^ *make ([a-z][a-z0-9-]*)`)
	// named is a file or folder in backticks, seen from the root. SERVICE stands for either.
	named = regexp.MustCompile("`((?:services|internal|contracts|deploy|run|test|tools|docs)/[A-Za-z0-9_./*-]+)`")
)

// anchors are the names that GitHub gives a document's headings.
func anchors(text string) []string {
	var all []string
	for _, h := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		all = append(all, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case unicode.IsLetter(r), unicode.IsDigit(r), r == '-', r == '_':
				return unicode.ToLower(r)
			}
			return -1
		}, h[1]))
	}
	return all
}

func TestLinksResolve(t *testing.T) {
	t.Parallel()
	all := documents(t)
	for from, text := range all {
		for _, found := range link.FindAllStringSubmatch(text, -1) {
			path, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(path, ":") {
				continue // another host's
			}
			to := from
			if path != "" {
				to = filepath.Join(filepath.Dir(from), path)
			}
			if _, err := os.Stat(filepath.Join(root, to)); err != nil {
				t.Errorf("%s links to %s, which does not exist", from, to)
			} else if anchor != "" && !slices.Contains(anchors(all[to]), anchor) {
				t.Errorf("%s links to %s#%s; the headings are %q", from, to, anchor, anchors(all[to]))
			}
		}
	}
}

func TestCommandsExist(t *testing.T) {
	t.Parallel()
	targets := map[string]bool{}
	for _, found := range target.FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets[found[1]] = true
	}
	for path, text := range documents(t) {
		calls := command.FindAllStringSubmatch(text, -1)
		for _, block := range fence.FindAllString(text, -1) {
			calls = append(calls, line.FindAllStringSubmatch(block, -1)...)
		}
		for _, call := range calls {
			if !targets[call[1]] {
				t.Errorf("%s: there is no `make %s`", path, call[1])
			}
		}
	}
}

func TestNamedFilesExist(t *testing.T) {
	t.Parallel()
	for path, text := range documents(t) {
		for _, found := range named.FindAllStringSubmatch(text, -1) {
			pattern := filepath.Join(root, strings.ReplaceAll(found[1], "SERVICE", "*"))
			if files, err := filepath.Glob(pattern); err != nil || len(files) == 0 {
				t.Errorf("%s names %s, which does not exist", path, found[1])
			}
		}
	}
}

// TestProblems compares the table of docs/protocol.md, "Problems", with the code's.
func TestProblems(t *testing.T) {
	t.Parallel()
	_, section, _ := strings.Cut(read(t, "docs/protocol.md"), "\n## Problems\n")
	section, _, _ = strings.Cut(section, "\n## ")
	row := regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| (\\d+) \\| ([A-Z_]+|–) \\| (no|yes|after) \\|$")
	said := map[problem.Code]string{}
	for _, r := range row.FindAllStringSubmatch(section, -1) {
		said[problem.Code(r[1])] = strings.Join(r[2:], " ")
	}
	if want, got := problem.Codes(), slices.Sorted(maps.Keys(said)); !slices.Equal(got, want) {
		t.Errorf("the table has the codes %q, the code has %q", got, want)
	}
	retries := map[problem.Retry]string{problem.Never: "no", problem.Immediately: "yes", problem.After: "after"}
	for code, got := range said {
		status := upperSnake(rpc.Status(problem.New(code, ""), inventoryv1.ProblemDetails{}).Code().String())
		if status == "INTERNAL" && code != problem.Internal {
			status = "–" // not on this wire
		}
		if want := fmt.Sprintf("%d %s %s", code.HTTPStatus(), status, retries[code.Retry()]); got != want {
			t.Errorf("%s: the table has %q, the code %q", code, got, want)
		}
	}
}

// upperSnake makes INVALID_ARGUMENT of InvalidArgument.
func upperSnake(name string) string {
	var out strings.Builder
	for i, r := range name {
		if i > 0 && unicode.IsUpper(r) {
			out.WriteByte('_')
		}
		out.WriteRune(unicode.ToUpper(r))
	}
	return out.String()
}
