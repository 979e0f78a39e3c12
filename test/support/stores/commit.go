package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"roundtrip/internal/commit"
	"roundtrip/internal/problem"
	"roundtrip/test/support/containers"
)

// Grouped is a store whose commands a [commit.Group] merges.
type Grouped[C commit.Command, R any] interface {
	Do(ctx context.Context, commands []C) []R
	io.Closer
}

// Commits are the conformance tests of a service's use of package commit.
type Commits[S Grouped[C, R], C commit.Command, R any] struct {
	Service[S]
	// Change makes a command that changes something under the id. A repeat of it is
	// recognised and changes nothing.
	Change func(id string) C
	// Rejected is a command that Validate refuses.
	Rejected C
	// Panics is a valid command whose decision panics.
	Panics C
	// Err is a result's error.
	Err func(R) error
	// Changed reports whether a Change has taken effect exactly once.
	Changed func(t *testing.T, s S, id string) bool
	// Setup writes the data that a Change needs.
	Setup func(t *testing.T, s S)
	// Table and Column say where a Change inserts its id.
	Table, Column string
	// AfterUnknown is what the service does after a commit whose result is unknown.
	AfterUnknown commit.AfterUnknown
}

// Run runs every test on each kind of database.
func (c Commits[S, C, R]) Run(t *testing.T) {
	for name, test := range map[string]func(*testing.T, *Backend[S]){
		"a call cancelled before its batch starts is dropped":      c.droppedBeforeStart,
		"a call cancelled after its batch starts takes effect":     c.leftAfterStart,
		"a failing command does not affect others in its batch":    c.poisoned,
		"a panicking command does not affect others in its batch":  c.panics,
		"a full disk makes writes unavailable and loses no change": c.fullDisk,
		"a closed store is unavailable":                            c.closed,
	} {
		t.Run(name, func(t *testing.T) {
			c.Conform(t, func(t *testing.T, b *Backend[S]) {
				c.Setup(t, b.Store)
				test(t, b)
			})
		})
	}
	t.Run("a commit whose result is unknown takes effect once", c.unknown)
}

func (c Commits[S, C, R]) want(t *testing.T, what string, r R, want problem.Code) {
	t.Helper()
	if err := c.Err(r); problem.CodeOf(err) != want {
		t.Errorf("%s: got %v, want %q", what, err, want)
	}
}

func (c Commits[S, C, R]) droppedBeforeStart(t *testing.T, b *Backend[S]) {
	before := b.Dump(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, batch := range [][]C{{c.Change("a")}, {c.Change("a"), c.Change("b")}} {
		for _, r := range b.Store.Do(ctx, batch) {
			if err := c.Err(r); !errors.Is(err, context.Canceled) || errors.Is(err, commit.ErrStarted) {
				t.Errorf("got %v", err)
			}
		}
	}
	if after := b.Dump(t); after != before {
		t.Errorf("the dropped calls changed the database to\n%s\nIt was\n%s", after, before)
	}
	if got := b.Store.Do(t.Context(), nil); len(got) != 0 {
		t.Errorf("a batch without commands got %v", got)
	}
}

// observed is a context that closes asked at the first call of Err. A batch calls
// Err of each member's context just before the batch starts.
type observed struct {
	context.Context
	once  sync.Once
	asked chan struct{}
}

func (o *observed) Err() error {
	err := o.Context.Err()
	o.once.Do(func() { close(o.asked) })
	return err
}

func (c Commits[S, C, R]) leftAfterStart(t *testing.T, b *Backend[S]) {
	release := b.Block(t, b.service.Tables...)
	ctx, cancel := context.WithCancel(t.Context())
	o := &observed{Context: ctx, asked: make(chan struct{})}
	answered := make(chan error)
	go func() { answered <- c.Err(b.Store.Do(o, []C{c.Change("a")})[0]) }()
	<-o.asked
	cancel()
	release()
	if err := <-answered; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if !c.Changed(t, b.Store, "a") {
		t.Error("the cancelled call has no effect")
	}
}

func (c Commits[S, C, R]) poisoned(t *testing.T, b *Backend[S]) {
	b.Poison(t, c.Table, c.Column, "poison")
	c.oneFails(t, b, c.Change("poison"), problem.Unavailable)
	if c.Changed(t, b.Store, "poison") {
		t.Error("the failing command has taken effect")
	}
}

func (c Commits[S, C, R]) panics(t *testing.T, b *Backend[S]) {
	c.oneFails(t, b, c.Panics, problem.Internal)
}

func (c Commits[S, C, R]) oneFails(t *testing.T, b *Backend[S], fails C, code problem.Code) {
	t.Helper()
	batch := []C{c.Change("a"), c.Change("b"), fails, c.Rejected, c.Change("c"), c.Change("d"), c.Change("e")}
	for i, r := range b.Store.Do(t.Context(), batch) {
		switch i {
		case 2:
			c.want(t, "the failing command", r, code)
		case 3:
			c.want(t, "the invalid command", r, problem.Invalid)
		default:
			c.want(t, fmt.Sprint("member ", i), r, "")
		}
	}
	for _, id := range []string{"a", "b", "c", "d", "e"} {
		if !c.Changed(t, b.Store, id) {
			t.Errorf("%s has no effect", id)
		}
	}
}

func (c Commits[S, C, R]) fullDisk(t *testing.T, b *Backend[S]) {
	free := b.Fill(t, c.Table)
	var many []C
	for i := range 200 {
		many = append(many, c.Change(fmt.Sprint("r", i)))
	}
	// A few may fit on an existing page.
	refused := 0
	for i, r := range b.Store.Do(t.Context(), many) {
		if c.Err(r) != nil {
			refused++
			c.want(t, "on a full disk", r, problem.Unavailable)
		}
		if id := fmt.Sprint("r", i); c.Changed(t, b.Store, id) != (c.Err(r) == nil) {
			t.Errorf("%s got %v, but its effect says otherwise", id, c.Err(r))
		}
	}
	if refused == 0 {
		t.Error("no write was refused")
	}
	free()
	for i, r := range b.Store.Do(t.Context(), many) {
		c.want(t, "with space on the disk again", r, "")
		if id := fmt.Sprint("r", i); !c.Changed(t, b.Store, id) {
			t.Errorf("%s has no effect", id)
		}
	}
}

func (c Commits[S, C, R]) closed(t *testing.T, b *Backend[S]) {
	if err := errors.Join(b.Store.Close(), b.Store.Close()); err != nil {
		t.Errorf("close the store twice: %v", err)
	}
	c.want(t, "after the store was closed", b.Store.Do(t.Context(), []C{c.Change("a")})[0], problem.Unavailable)
}

// unknown needs a PostgreSQL server, whose response to a COMMIT can be lost.
func (c Commits[S, C, R]) unknown(t *testing.T) {
	t.Parallel()
	address := c.Postgres(t)
	direct := c.Backend(t, address)
	c.Setup(t, direct.Store)
	var fates atomic.Pointer[[]func() containers.Fate] // the fates of the next commits
	var deciding sync.WaitGroup                        // a fate may still run when the store has noticed the failure
	s := c.Open(t, containers.ProxyCommits(t, address, func() containers.Fate {
		next := fates.Load()
		if next == nil || len(*next) == 0 {
			return containers.Pass
		}
		defer deciding.Done()
		rest := (*next)[1:]
		fates.Store(&rest)
		return (*next)[0]()
	}))
	set := func(next ...func() containers.Fate) {
		deciding.Add(len(next))
		fates.Store(&next)
	}
	unanswered, lost := func() containers.Fate { return containers.Unanswered }, func() containers.Fate { return containers.Lost }
	for name, fate := range map[string]func() containers.Fate{
		"unanswered": unanswered,
		"lost":       lost,
		"ended": func() containers.Fate {
			if err := direct.Exec(t.Context(), `SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
				WHERE datname = current_database() AND state = 'idle in transaction'`); err != nil {
				t.Error(err)
			}
			return containers.Pass
		},
	} {
		for n := 1; n <= 3; n += 2 { // alone, and in a batch
			var commands []C
			for i := range n {
				commands = append(commands, c.Change(fmt.Sprintf("%s-%d-%d", name, n, i)))
			}
			set(fate)
			for i, r := range s.Do(t.Context(), commands) {
				err := c.Err(r)
				switch {
				case name == "ended" && (err == nil || problem.CodeOf(err) == problem.Unavailable): // the commit failed for certain, so the command may be decided again
				case c.AfterUnknown == commit.AskAgain && errors.Is(err, commit.ErrUnknown) && strings.Contains(err.Error(), "repeat it with the same id"):
				case c.AfterUnknown == commit.DecideAgain && err == nil:
				default:
					t.Errorf("%s, %d of %d: %v", name, i, n, err)
				}
			}
			deciding.Wait()
			for i, command := range commands {
				err := c.Err(s.Do(t.Context(), []C{command})[0])
				for problem.CodeOf(err) == problem.Unavailable { // another pooled connection may be broken, too
					err = c.Err(s.Do(t.Context(), []C{command})[0])
				}
				if id := fmt.Sprintf("%s-%d-%d", name, n, i); err != nil || !c.Changed(t, direct.Store, id) {
					t.Errorf("%s, repeated: got %v, want no error and exactly one effect", id, err)
				}
			}
		}
	}
	if c.AfterUnknown == commit.DecideAgain {
		set(unanswered, lost)
		err := c.Err(s.Do(t.Context(), []C{c.Change("twice")})[0])
		if problem.CodeOf(err) != problem.Unavailable || !strings.Contains(err.Error(), "repeat it with the same id") {
			t.Errorf("unknown twice: %v", err)
		}
		deciding.Wait()
		if c.want(t, "repeated", s.Do(t.Context(), []C{c.Change("twice")})[0], ""); !c.Changed(t, direct.Store, "twice") {
			t.Error("after two unknown commits and a repeat, the change has not taken effect exactly once")
		}
	}
}
