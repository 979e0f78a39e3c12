package lifecycle_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/lifecycle"
)

// app is a lifecycle.App whose functions a test sets.
type app struct {
	start, stop func(context.Context) error
	failed      chan error
}

func (a app) Start(ctx context.Context) error { return a.start(ctx) }
func (a app) Stop(ctx context.Context) error  { return a.stop(ctx) }
func (a app) Failed() <-chan error            { return a.failed }

func TestRunStopsWithinTheDrainTime(t *testing.T) {
	t.Parallel()
	const drain = 10 * time.Second
	noStart, broken, noStop := errors.New("no start"), errors.New("the listener broke"), errors.New("the store is busy")
	for name, test := range map[string]struct {
		start, failed, stop error
		hangs               bool
		runs, stops         time.Duration
		want                []error
		logs                string
	}{
		"a signal":                   {runs: time.Hour, logs: "stopping,stopped"},
		"a signal, and a slow drain": {runs: time.Hour, hangs: true, stops: drain, want: []error{context.DeadlineExceeded}, logs: "stopping"},
		"a signal, and an error":     {runs: time.Hour, stop: noStop, want: []error{noStop}, logs: "stopping"},
		"a failure":                  {failed: broken, runs: time.Minute, want: []error{broken}, logs: "stopping after a failure"},
		"a failure, and an error":    {failed: broken, runs: time.Minute, stop: noStop, want: []error{broken, noStop}, logs: "stopping after a failure"},
		"no start":                   {start: noStart, want: []error{noStart}},
		"no start, and an error":     {start: noStart, stop: noStop, want: []error{noStart, noStop}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began, stops := time.Now(), 0
				ctx, signal := context.WithCancel(t.Context())
				a := app{
					start:  func(context.Context) error { return test.start },
					failed: make(chan error, 1),
					stop: func(ctx context.Context) error {
						stops++
						if left, ok := ctx.Deadline(); ctx.Err() != nil || !ok || time.Until(left) != drain {
							t.Errorf("the stop has the deadline %v, %v", left, ctx.Err())
						}
						if test.hangs {
							<-ctx.Done()
							return ctx.Err()
						}
						return test.stop
					},
				}
				time.AfterFunc(time.Minute, func() {
					if test.failed != nil {
						a.failed <- test.failed
					}
				})
				time.AfterFunc(time.Hour, signal)
				var logs bytes.Buffer
				err := lifecycle.Run(ctx, a, drain, slog.New(slog.NewJSONHandler(&logs, nil)))
				if took := time.Since(began); took != test.runs+test.stops || stops != 1 {
					t.Errorf("it took %s, with %d stops", took, stops)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("%v is missing from %v", want, err)
					}
				}
				if len(test.want) == 0 && err != nil {
					t.Errorf("got %v", err)
				}
				if got := messages(t, &logs); got != test.logs {
					t.Errorf("it logs %q, want %q", got, test.logs)
				}
				signal()
			})
		})
	}
}

// messages joins the messages of a log.
func messages(t *testing.T, log io.Reader) string {
	t.Helper()
	var all []string
	for decoder := json.NewDecoder(log); decoder.More(); {
		var line struct{ Msg string }
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		all = append(all, line.Msg)
	}
	return strings.Join(all, ",")
}
