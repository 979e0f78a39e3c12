package exchange

import (
	"sync"
	"time"
)

const (
	// retriesPerRequest and retriesPerSecond are what the budget grows by.
	retriesPerRequest = 0.1
	retriesPerSecond  = 10
	// budgetBurst is the most that may be saved up.
	budgetBurst = 100
	// idleBurst is the most that time alone saves up.
	idleBurst = 10
)

// budget bounds retries to a share of the requests plus a rate. It begins
// empty, so that over any time since then
//
//	retries <= 0.1 x requests + 10 x seconds.
type budget struct {
	mu     sync.Mutex
	tokens float64
	filled time.Time
}

func newBudget() *budget { return &budget{filled: time.Now()} }

// request counts a request and what it adds.
func (b *budget) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	b.tokens = min(b.tokens+retriesPerRequest, budgetBurst)
}

// retry takes what one retry costs. It returns false when too little is left.
func (b *budget) retry() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}

func (b *budget) fill() {
	now := time.Now()
	if b.tokens < idleBurst {
		b.tokens = min(b.tokens+now.Sub(b.filled).Seconds()*retriesPerSecond, idleBurst)
	}
	b.filled = now
}
