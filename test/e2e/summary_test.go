package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"roundtrip/test/e2e/loadstats"
)

// steps are the rows of the summary.
var steps struct {
	sync.Mutex
	rows []step
}

// step is a step of a test, and the statistics of the load during it, if any.
type step struct {
	name string
	took time.Duration
	load loadstats.Stats
}

func recordStep(name string, took time.Duration, load loadstats.Stats) {
	steps.Lock()
	defer steps.Unlock()
	steps.rows = append(steps.rows, step{name, took, load})
}

// writeSummary prints the table and writes it to .reports/e2e.
func writeSummary() error {
	steps.Lock()
	defer steps.Unlock()
	if len(steps.rows) == 0 {
		return nil
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tREQUESTS\tA SECOND\tFAILURES\tP99\tTIME")
	for _, s := range steps.rows {
		if s.load.Requests == 0 {
			fmt.Fprintf(w, "%s\t–\t–\t–\t–\t%.1fs\n", s.name, s.took.Seconds())
			continue
		}
		fmt.Fprintf(w, "%s\t%d\t%.0f\t%d\t%s\t%.1fs\n", s.name, s.load.Requests, float64(s.load.Requests)/s.load.Seconds, s.load.Failures, s.load.P99.Round(time.Millisecond), s.took.Seconds())
	}
	folder := filepath.Join(root, ".reports", "e2e")
	err := errors.Join(w.Flush(), os.MkdirAll(folder, 0o755), os.WriteFile(filepath.Join(folder, "summary.txt"), []byte(text.String()), 0o644))
	fmt.Print(text.String())
	return err
}
