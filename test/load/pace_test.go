package main

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestLatencyCountsFromDueTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pace{callers: 1, rate: 10, duration: time.Second}
		var late []time.Duration
		if err := p.drive(t.Context(), func(i int, due time.Time) {
			late = append(late, time.Since(due))
			if i == 2 {
				time.Sleep(350 * time.Millisecond) // the services stall
			}
		}); err != nil {
			t.Fatal(err)
		}
		// The stall lasts from 200 to 550 ms. The requests due at 300, 400 and 500 are
		// late, all are sent, and then the schedule holds again.
		ms := time.Millisecond
		if want := []time.Duration{0, 0, 0, 250 * ms, 150 * ms, 50 * ms, 0, 0, 0, 0}; !slices.Equal(late, want) {
			t.Errorf("late by %v, want %v", late, want)
		}
	})
}

func TestOpenLoopDoesNotWaitForResponses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pace{callers: 10, rate: 100, count: 10}
		var mu sync.Mutex
		var sent []time.Duration
		began := time.Now()
		if err := p.drive(t.Context(), func(int, time.Time) {
			mu.Lock()
			sent = append(sent, time.Since(began))
			mu.Unlock()
			time.Sleep(time.Hour)
		}); err != nil {
			t.Fatal(err)
		}
		if len(sent) != 10 || sent[9] != 90*time.Millisecond {
			t.Errorf("sent at %v", sent)
		}
	})
}

func TestClosedLoopWaitsForResponses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pace pace
		want int
	}{
		// Each request takes 100 ms, so a caller sends at 0, 100, 200 …
		"until the time is over": {pace{callers: 3, duration: time.Second}, 30},
		"until all are sent":     {pace{callers: 3, duration: time.Second, count: 7}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var mu sync.Mutex
				seen := map[int]bool{}
				waiting := 0
				if err := test.pace.drive(t.Context(), func(i int, due time.Time) {
					mu.Lock()
					seen[i] = true
					if waiting++; waiting > 3 {
						t.Errorf("%d in flight", waiting)
					}
					mu.Unlock()
					if late := time.Since(due); late != 0 {
						t.Errorf("request %d is late by %s", i, late)
					}
					time.Sleep(100 * time.Millisecond)
					mu.Lock()
					waiting--
					mu.Unlock()
				}); err != nil {
					t.Fatal(err)
				}
				if len(seen) != test.want || !seen[0] || !seen[test.want-1] {
					t.Errorf("sent %d, want %d", len(seen), test.want)
				}
			})
		})
	}
}

func TestCancelledLoadIsAnError(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]pace{
		"closed loop": {callers: 1, duration: time.Hour},
		"fixed rate":  {callers: 1, rate: 1, duration: time.Hour},
		"overdue":     {callers: 1, rate: 1000, duration: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				sent := 0
				err := p.drive(ctx, func(int, time.Time) {
					if sent++; sent == 3 {
						cancel()
					}
					time.Sleep(10 * time.Second)
				})
				if err == nil || sent != 3 {
					t.Errorf("sent %d, %v", sent, err)
				}
			})
		})
	}
}
