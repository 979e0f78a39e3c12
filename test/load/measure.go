package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"sync"
	"text/tabwriter"
	"time"
)

// responseKind is a kind of response.
type responseKind int

const (
	done     responseKind = iota
	rejected              // a conflict
	unknown               // 202: the outcome is not known yet
	refused               // 503 or 504
	failed                // anything else
	responseKinds
)

// sample is one request with its response.
type sample struct {
	operation    string
	responseKind responseKind
	// at is the time of the response since the start of the load. took is the latency.
	at, took time.Duration
	// failure describes a failure.
	failure string
}

// measure sends a workload's requests to orders and returns a sample for each.
func measure(ctx context.Context, orders string, w workload, p pace, progress func()) ([]sample, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: p.callers}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var mu sync.Mutex
	var samples []sample
	began := time.Now()
	err := p.drive(ctx, func(i int, due time.Time) {
		r := w.next(i)
		responseKind, failure := send(ctx, client, orders, r)
		now := time.Now()
		if r.answered != nil {
			r.answered(responseKind == done)
		}
		mu.Lock()
		samples = append(samples, sample{r.operation, responseKind, now.Sub(began), now.Sub(due), failure})
		mu.Unlock()
		progress()
	})
	return samples, err
}

func send(ctx context.Context, client *http.Client, orders string, r request) (o responseKind, failure string) {
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return failed, err.Error()
		}
		body = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, r.method, orders+r.path, body)
	if err != nil {
		return failed, err.Error()
	}
	if r.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(request)
	if err != nil {
		return failed, err.Error()
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return failed, err.Error()
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
		return done, ""
	case http.StatusConflict:
		return rejected, fmt.Sprintf("%s %s: %s", r.method, r.path, answer)
	case http.StatusAccepted:
		return unknown, ""
	case http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return refused, ""
	}
	return failed, fmt.Sprintf("%s %s: %s: %s", r.method, r.path, response.Status, answer)
}

// result is the summary of a load.
type result struct {
	// total is the summary of all operations, and operations has one for each.
	total      summary
	operations []summary
	took       time.Duration
	// perSecond counts the requests done in each second.
	perSecond []int
	// failure is the first failure.
	failure string
}

// summary summarizes one operation.
type summary struct {
	operation string
	counts    [responseKinds]int
	latencies []time.Duration // sorted
}

func summarize(samples []sample) result {
	r := result{total: summary{operation: "all"}}
	byOperation := map[string]*summary{}
	for _, s := range samples {
		if byOperation[s.operation] == nil {
			byOperation[s.operation] = &summary{operation: s.operation}
		}
		for _, sum := range []*summary{&r.total, byOperation[s.operation]} {
			sum.counts[s.responseKind]++
			sum.latencies = append(sum.latencies, s.took)
		}
		r.took = max(r.took, s.at)
		second := int(s.at / time.Second)
		for len(r.perSecond) <= second {
			r.perSecond = append(r.perSecond, 0)
		}
		if s.responseKind == done {
			r.perSecond[second]++
		}
		if r.failure == "" {
			r.failure = s.failure
		}
	}
	slices.Sort(r.total.latencies)
	for _, sum := range byOperation {
		slices.Sort(sum.latencies)
		r.operations = append(r.operations, *sum)
	}
	slices.SortFunc(r.operations, func(a, b summary) int { return cmp.Compare(a.operation, b.operation) })
	return r
}

// quantile is the latency that a share of the requests did not exceed (nearest-rank
// method).
func (s summary) quantile(share float64) time.Duration {
	if len(s.latencies) == 0 {
		return 0
	}
	rank := int(math.Ceil(share*float64(len(s.latencies)))) - 1
	return s.latencies[min(max(rank, 0), len(s.latencies)-1)]
}

// throughput is the number of requests done in a second.
func (r result) throughput(s summary) float64 {
	if r.took == 0 {
		return 0
	}
	return float64(s.counts[done]) / r.took.Seconds()
}

// columns are the columns of the table, in the terminal and on the page.
var columns = []string{"operation", "done", "rejected", "unknown", "refused", "failed", "done/s", "p50 ms", "p99 ms", "p99.9 ms", "max ms"}

func (r result) rows() [][]string {
	summaries := r.operations
	if len(summaries) > 1 {
		summaries = append(slices.Clone(summaries), r.total)
	}
	var rows [][]string
	for _, s := range summaries {
		row := []string{s.operation}
		for _, n := range s.counts {
			row = append(row, fmt.Sprint(n))
		}
		row = append(row, fmt.Sprintf("%.0f", r.throughput(s)))
		for _, share := range []float64{0.5, 0.99, 0.999, 1} {
			row = append(row, milliseconds(s.quantile(share)))
		}
		rows = append(rows, row)
	}
	return rows
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond))
}

func (r result) print(out io.Writer) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range append([][]string{columns}, r.rows()...) {
		for _, cell := range row {
			fmt.Fprint(table, cell, "\t")
		}
		fmt.Fprintln(table)
	}
	_ = table.Flush() // an error to print can't be reported anywhere else
}

// violation returns an error if a request failed, or was rejected although there was
// enough stock. A refused request is not a violation.
func (r result) violation() error {
	if bad := r.total.counts; bad[rejected] > 0 || bad[failed] > 0 {
		return fmt.Errorf("%d requests were rejected although there was enough stock, and %d failed; the first: %w",
			bad[rejected], bad[failed], errors.New(r.failure))
	}
	if r.total.counts[done] == 0 {
		return errors.New("no request was done")
	}
	return nil
}
