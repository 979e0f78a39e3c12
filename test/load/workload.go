package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// allSKUs is the number of SKUs of every workload except invoices.
	allSKUs = 10_000
	// plenty is the stock on hand of each SKU. No run takes that much.
	plenty = 1_000_000_000
	// holdSeconds outlasts any run, so that no hold expires.
	holdSeconds = 30 * 24 * 60 * 60
)

// workload generates requests. It is safe for concurrent use.
type workload interface {
	// stock is enough stock that no order is rejected.
	stock() map[string]int64
	// next is the i-th request, from 0.
	next(i int) request
}

// request is one request to orders.
type request struct {
	operation, method, path string
	body                    any
	// answered is called after the response. done says whether the operation was done.
	// It may be nil.
	answered func(done bool)
}

type placeBody struct {
	Customer    string `json:"customer"`
	Currency    string `json:"currency"`
	HoldSeconds int64  `json:"hold_seconds,omitzero"`
	Lines       []line `json:"lines"`
}

func place(id string, body placeBody) request {
	return request{operation: "place", method: http.MethodPut, path: "/v1/orders/" + id, body: body}
}

func skuName(i int) string { return fmt.Sprintf("sku-%05d", i) }

func plentyOfAll() map[string]int64 {
	stock := make(map[string]int64, allSKUs)
	for i := range allSKUs {
		stock[skuName(i)] = plenty
	}
	return stock
}

// runID is the prefix of the ids of a run's orders, so that runs may share a
// database.
func runID() string { return fmt.Sprintf("load-%d-", time.Now().UnixNano()) }

// placing places orders of one unit of a random SKU among the first skus.
type placing struct {
	run  string
	skus int
}

func newPlacing(skus int) placing { return placing{runID(), skus} }

func (placing) stock() map[string]int64 { return plentyOfAll() }

func (p placing) next(i int) request {
	return place(fmt.Sprint(p.run, i), placeBody{
		Customer: fmt.Sprint("customer-", i%1000), Currency: "GBP", HoldSeconds: holdSeconds,
		Lines: []line{{SKU: skuName(rand.IntN(p.skus)), Quantity: 1, UnitPrice: 255}},
	})
}

// invoicing places one order for each invoice.
type invoicing []invoice

func (w invoicing) stock() map[string]int64 {
	need := map[string]int64{}
	for _, inv := range w {
		for _, l := range inv.lines {
			need[l.SKU] += l.Quantity
		}
	}
	return need
}

func (w invoicing) next(i int) request {
	return place("invoice-"+w[i].number, placeBody{Customer: w[i].customer, Currency: "GBP", Lines: w[i].lines})
}

// mixed mixes operations: of a hundred requests, 40 place an order, 10 amend one, 15
// confirm one, 10 cancel one and 25 get one. No two requests change the same order
// at the same time, so no request may be rejected.
type mixed struct {
	placing placing

	mu sync.Mutex
	// The orders that no request is changing.
	placed, confirmed []string
}

func newMixed() *mixed { return &mixed{placing: newPlacing(allSKUs)} }

func (*mixed) stock() map[string]int64 { return plentyOfAll() }

func (m *mixed) next(i int) request {
	roll := rand.IntN(100)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case len(m.placed) == 0 || roll < 40:
		r := m.placing.next(i)
		r.answered = m.keep(&m.placed, fmt.Sprint(m.placing.run, i))
		return r
	case roll < 50:
		id := take(&m.placed)
		return request{"amend", http.MethodPut, "/v1/orders/" + id + "/lines", map[string][]line{"lines": {
			{SKU: skuName(rand.IntN(allSKUs)), Quantity: 2, UnitPrice: 255}, {SKU: skuName(rand.IntN(allSKUs)), Quantity: 1, UnitPrice: 339},
		}}, m.keep(&m.placed, id)}
	case roll < 65:
		id := take(&m.placed)
		return request{"confirm", http.MethodPost, "/v1/orders/" + id + "/confirm", nil, m.keep(&m.confirmed, id)}
	case roll < 75:
		from := &m.placed
		if len(m.confirmed) > 0 && roll%2 == 0 {
			from = &m.confirmed
		}
		return request{operation: "cancel", method: http.MethodPost, path: "/v1/orders/" + take(from) + "/cancel"}
	default:
		return request{operation: "get", method: http.MethodGet, path: "/v1/orders/" + m.placed[rand.IntN(len(m.placed))]}
	}
}

// keep adds an order to a list after its operation was done. Then other requests may
// use it. If the operation was not done, no request uses the order again.
func (m *mixed) keep(in *[]string, id string) func(done bool) {
	return func(done bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if done {
			*in = append(*in, id)
		}
	}
}

// take removes a random id.
func take(ids *[]string) string {
	all := *ids
	i, last := rand.IntN(len(all)), len(all)-1
	id := all[i]
	all[i] = all[last]
	*ids = all[:last]
	return id
}
