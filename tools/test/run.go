package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// limits is how many parts of each slot may run at the same time.
type limits struct{ tests, computes int }

const (
	// patience is how long an interrupted part may take to clean up.
	patience = time.Minute
	// heartbeat is how often a run prints which parts are running.
	heartbeat = time.Minute
	// lower is the nice value of parts that compute: a lower priority.
	lower = 10
)

type state int

const (
	waiting state = iota
	running
	passed
	failed
	// notRun is a part that did not start: a part that it needs failed, or Ctrl-C came
	// first.
	notRun
)

func (s state) String() string {
	return [...]string{"waiting", "running", "ok", "FAILED", "not run"}[s]
}

// runner runs parts. Only the goroutine of run uses jobs.
type runner struct {
	out    io.Writer
	logs   string
	limits limits
	live   bool
	began  time.Time
	jobs   []*job
	events chan event

	mu     sync.Mutex
	groups map[int]bool // process groups that are running
}

type job struct {
	part
	state   state
	started time.Time
	took    time.Duration
	// release tells the part's command to stop, if the part holds something. When the
	// part has ended, err is set and ended is closed.
	release io.Closer
	err     error
	ended   chan struct{}
}

// event reports that a part is ready or has ended.
type event struct {
	*job
	err error
}

func newRunner(out io.Writer, logs string, limits limits, live bool) *runner {
	return &runner{out: out, logs: logs, limits: limits, live: live, groups: map[int]bool{}}
}

// run runs the parts and returns the exit status.
func (r *runner) run(ctx context.Context, parts []part) int {
	r.began, r.events = time.Now(), make(chan event, len(parts))
	if err := os.MkdirAll(r.logs, 0o755); err != nil {
		fmt.Fprintln(r.out, err)
		return 1
	}
	for _, p := range parts {
		r.jobs = append(r.jobs, &job{part: p, ended: make(chan struct{})})
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for {
		r.startWhatCan(ctx)
		if !slices.ContainsFunc(r.jobs, func(j *job) bool { return j.state == running }) {
			break
		}
		select {
		case e := <-r.events:
			r.end(ctx, e)
		case <-beat.C:
			if !r.live {
				fmt.Fprintf(r.out, "== %s: running %s\n", clock(time.Since(r.began)), strings.Join(r.names(running), ", "))
			}
		}
	}
	for _, j := range r.jobs { // all other parts have ended, so no part uses these any more
		if j.release == nil {
			continue
		}
		_ = j.release.Close()
		if <-j.ended; j.err != nil {
			j.state = failed
		}
	}
	return r.summary(ctx)
}

// startWhatCan starts the parts that need not wait, in the order of the table: the parts
// before them have ended and their slot is free. It marks the parts that can't run.
func (r *runner) startWhatCan(ctx context.Context) {
	for again := true; again; {
		again = false
		for _, j := range r.jobs {
			if j.state != waiting {
				continue
			}
			switch wait, missing := r.waits(j); {
			case missing || ctx.Err() != nil:
				j.state, again = notRun, true
			case !wait && r.free(j.slot):
				j.state, j.started = running, time.Now()
				if !r.live {
					fmt.Fprintf(r.out, "== %s: %s starts\n", clock(time.Since(r.began)), j.name)
				}
				go r.execute(ctx, j)
			}
		}
	}
}

// waits returns whether a part must wait for another part, and whether a part that it
// needs has failed or did not run.
func (r *runner) waits(j *job) (wait, missing bool) {
	for _, other := range r.jobs {
		needs := slices.Contains(j.needs, other.name)
		if !needs && !slices.Contains(j.after, other.name) {
			continue
		}
		wait = wait || other.state == waiting || other.state == running
		// If the engine failed, the parts after it would only skip their tests. So they do
		// not run.
		missing = missing || (needs || other.holds) && (other.state == failed || other.state == notRun)
	}
	return wait, missing
}

func (r *runner) free(s slot) bool {
	n := 0
	for _, j := range r.jobs {
		if j.state == running && j.slot == s {
			n++
		}
	}
	switch s {
	case computes:
		return n < r.limits.computes
	case tests:
		return n < r.limits.tests
	default:
		return true
	}
}

// end records the result of a part and prints its output.
func (r *runner) end(ctx context.Context, e event) {
	j := e.job
	j.took, j.state = time.Since(j.started), passed
	if e.err != nil {
		j.state = failed
	}
	if r.live {
		if e.err != nil {
			fmt.Fprintf(r.out, "== %s: %v\n", j.name, e.err)
		}
		return
	}
	fmt.Fprintf(r.out, "== %s: %s %s after %s", clock(time.Since(r.began)), j.name, j.state, clock(j.took))
	if e.err != nil {
		fmt.Fprintf(r.out, ": %v; its output, from %s, follows", e.err, r.log(j.name))
	}
	fmt.Fprintln(r.out)
	log, err := os.ReadFile(r.log(j.name))
	if err != nil {
		fmt.Fprintln(r.out, err)
	}
	for line := range bytes.Lines(log) {
		if e.err != nil && !noise(line) || result(line) {
			_, _ = r.out.Write(line)
		}
	}
}

func (r *runner) log(name string) string { return filepath.Join(r.logs, name+".log") }

func (r *runner) names(s state) (names []string) {
	for _, j := range r.jobs {
		if j.state == s {
			names = append(names, j.name)
		}
	}
	return names
}

// summary prints the table of times and what failed.
func (r *runner) summary(ctx context.Context) int {
	bad := len(r.names(passed)) < len(r.jobs)
	if !r.live || bad {
		fmt.Fprintln(r.out, "\n== parts")
		table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
		for _, j := range r.jobs {
			fmt.Fprintf(table, "   %s\t%s\t%s\n", j.name, clock(j.took), j.state)
		}
		_ = table.Flush()
	}
	for _, j := range r.jobs {
		if j.leftOut != "" && !r.live {
			fmt.Fprintln(r.out, "!! LEFT OUT:", j.leftOut)
		}
	}
	total := clock(time.Since(r.began))
	switch {
	case ctx.Err() != nil:
		fmt.Fprintf(r.out, "== stopped after %s\n", total)
		return 130
	case bad:
		var where []string
		for _, name := range r.names(failed) {
			where = append(where, fmt.Sprintf("%s (%s)", name, r.log(name)))
		}
		fmt.Fprintf(r.out, "== FAILED after %s: %s\n", total, strings.Join(where, ", "))
		if names := r.names(notRun); len(names) > 0 {
			fmt.Fprintf(r.out, "== not run because of that: %s\n", strings.Join(names, ", "))
		}
		return 1
	default:
		if !r.live {
			fmt.Fprintf(r.out, "== all passed, in %s\n", total)
		}
		return 0
	}
}

// execute runs a part's commands. It reports once: when the commands have ended, or when
// a part that holds something is ready.
func (r *runner) execute(ctx context.Context, j *job) {
	var once sync.Once
	report := func(err error) { once.Do(func() { r.events <- event{j, err} }) }
	defer close(j.ended)
	file, err := os.Create(r.log(j.name))
	if err != nil {
		report(err)
		return
	}
	defer file.Close()
	commands := j.commands
	err = j.failure
	if err == nil && j.late != nil {
		commands, err = j.late()
	}
	for _, c := range commands {
		if err == nil {
			err = r.command(ctx, j, c, file, func() { report(nil) })
		}
	}
	if err != nil {
		fmt.Fprintln(file, err)
	}
	j.err = err
	report(err)
}

// command runs one command in its own process group, so that a signal reaches all
// processes of the command and no others.
func (r *runner) command(ctx context.Context, j *job, c command, log io.Writer, ready func()) error {
	holds := func() {}
	if j.holds { // when it is ready, Ctrl-C does not stop it: the parts that use it clean up first
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		stop := context.AfterFunc(ctx, cancel)
		ctx, holds = own, func() { stop() }
	}
	run := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	run.Env = append(os.Environ(), c.env...)
	if slices.ContainsFunc(r.jobs, func(o *job) bool { return o.name == "engine" && o != j }) {
		run.Env = append(run.Env, engineVariable+"=yes")
	}
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	run.Cancel = func() error { return syscall.Kill(-run.Process.Pid, syscall.SIGINT) }
	run.WaitDelay = patience
	output := &lines{each: func(line []byte) {
		_, _ = log.Write(line)
		switch {
		case j.holds && string(line) == "ready\n":
			holds()
			r.note(run.Process.Pid, false)
			ready()
		case r.live && !noise(line):
			_, _ = r.out.Write(line)
		}
	}}
	run.Stdout, run.Stderr = output, output
	if j.holds {
		held, err := run.StdinPipe()
		if err != nil {
			return err
		}
		j.release = held
	}
	if err := run.Start(); err != nil {
		return err
	}
	group := run.Process.Pid
	r.note(group, true)
	defer r.note(group, false)
	if j.slot == computes {
		_ = syscall.Setpriority(syscall.PRIO_PGRP, group, lower)
	}
	err := run.Wait()
	output.flush()
	_ = syscall.Kill(-group, syscall.SIGKILL) // kill the processes that the command left running
	if errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil {
		err = fmt.Errorf("%s left processes behind", c.argv[0])
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return err
}

func (r *runner) note(group int, runs bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if runs {
		r.groups[group] = true
	} else {
		delete(r.groups, group)
	}
}

// kill kills all running process groups, except those that hold something.
func (r *runner) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for group := range r.groups {
		_ = syscall.Kill(-group, syscall.SIGKILL)
	}
}

// lines calls each for every line that is written. flush calls it for an incomplete
// last line.
type lines struct {
	mu   sync.Mutex
	rest []byte
	each func(line []byte)
}

func (l *lines) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, text...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			return len(text), nil
		}
		l.each(l.rest[:i+1])
		l.rest = l.rest[i+1:]
	}
}

func (l *lines) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rest) > 0 {
		l.each(append(l.rest, '\n'))
		l.rest = nil
	}
}

// noise reports whether a line of go test -v is only about a passed test or a package
// without tests.
func noise(line []byte) bool {
	text := bytes.TrimLeft(line, " ")
	for _, prefix := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME ", "--- PASS: ", "?   \t", "go: downloading "} {
		if bytes.HasPrefix(text, []byte(prefix)) {
			return true
		}
	}
	return false
}

// result reports whether a line is a summary: of go test, of gotestsum, of a test of
// mutants, or of what was left out.
func result(line []byte) bool {
	for _, prefix := range []string{"ok  \t", "FAIL", "DONE ", "!! "} {
		if bytes.HasPrefix(line, []byte(prefix)) {
			return true
		}
	}
	return bytes.HasSuffix(line, []byte(" survivors\n")) || bytes.Contains(line, []byte("LEFT OUT"))
}

func clock(d time.Duration) string {
	seconds := int(d.Round(time.Second).Seconds())
	return fmt.Sprintf("%d:%02d", seconds/60, seconds%60)
}

// printPlan prints what will run, what will be installed for it, and what is left out.
func printPlan(out io.Writer, chosen []part, about string, live bool) {
	var names []string
	for _, p := range chosen {
		names = append(names, p.name)
	}
	if !live {
		if about != "" {
			fmt.Fprintf(out, "== %s\n", about)
		}
		fmt.Fprintf(out, "== parts: %s\n", strings.Join(names, ", "))
	}
	for _, p := range chosen {
		if p.brings != "" && (p.there == nil || !p.there()) {
			fmt.Fprintf(out, "== installs %s (%s)\n", p.brings, p.takes)
		}
	}
	if !live {
		fmt.Fprintf(out, "== the output of each part goes to %s\n", filepath.Join(logs, "PART.log"))
	}
	for _, p := range chosen {
		if p.leftOut != "" {
			fmt.Fprintln(out, "!! LEFT OUT:", p.leftOut)
		}
	}
}
