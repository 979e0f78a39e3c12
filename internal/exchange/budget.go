package exchange

import (
	"sync"
	"time"
)

const (
	// retriesPerRequest and retriesPerSecond say how fast the budget grows.
	retriesPerRequest = 0.1
	retriesPerSecond  = 10
	// budgetBurst is the largest number of retries that the budget can hold.
	budgetBurst = 100
	// idleBurst is the largest number of retries that the passing of time alone adds.
	idleBurst = 10
)

// budget limits retries to a share of the requests plus a rate. It begins empty, so
// that over any time from its beginning
//
//	retries <= 0.1 x requests + 10 x seconds.
type budget struct {
	mu     sync.Mutex
	tokens float64
	filled time.Time
}

func newBudget() *budget { return &budget{filled: time.Now()} }

// request adds to the budget what one request adds.
func (b *budget) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	b.tokens = min(b.tokens+retriesPerRequest, budgetBurst)
}

// retry takes one retry from the budget. It returns false if too little is left.
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
