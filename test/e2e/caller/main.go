// Command caller sends the end-to-end tests' requests and load from a pod inside the
// cluster.
//
//	caller wait                                     waits until it is stopped
//	caller call METHOD URL [BODY]                   one request; prints the answer
//	caller metric URL NAME [LABEL...]               a metric of a private port, summed
//	caller load --rate=150 http://orders.test:8080  constant load, until it is stopped
//	caller stats                                    statistics of the load since the last call
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"roundtrip/internal/lifecycle"
	"roundtrip/test/e2e/loadstats"
	"roundtrip/test/support/caller"
)

// statsAddr is where the load serves its statistics.
const statsAddr = "127.0.0.1:7070"

// ordersPerConnection is how many orders a caller handles before it opens a new
// connection. Real callers keep connections for a while.
const ordersPerConnection = 10

// maxExamples is how many failures are shown.
const maxExamples = 5

type cli struct {
	Wait   waitCommand   `cmd:"" help:"Do nothing until stopped."`
	Call   callCommand   `cmd:"" help:"Send one request and print the response. Exits 1 without a response."`
	Metric metricCommand `cmd:"" help:"Print a metric, summed over the series with all labels."`
	Load   loadCommand   `cmd:"" help:"Send a constant number of requests a second until stopped."`
	Stats  statsCommand  `cmd:"" help:"Print the statistics of this pod's load since the last call."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := kong.Parse(&cli{}, kong.BindTo(ctx, (*context.Context)(nil)))
	command.FatalIfErrorf(command.Run())
}

// lookupFor is how long the load retries a DNS lookup.
const lookupFor = 5 * time.Second

// transport retries DNS lookups for a time: a failure of the cluster's DNS is no failure
// of the services. One lookup may take a fifth of the time.
func transport(lookupFor time.Duration) *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		var found []string
		err = lifecycle.Retry(ctx, lookupFor, func(ctx context.Context) (err error) {
			ctx, cancel := context.WithTimeout(ctx, lookupFor/5)
			defer cancel()
			found, err = net.DefaultResolver.LookupHost(ctx, host)
			return err
		})
		if err != nil {
			return nil, err
		}
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(found[0], port))
	}}
}

type waitCommand struct{}

func (waitCommand) Run(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

type callCommand struct {
	Method string        `arg:""`
	URL    string        `arg:""`
	Body   string        `arg:"" optional:""`
	Within time.Duration `help:"How long to wait for the response." default:"20s"`
}

func (c callCommand) Run(ctx context.Context) error {
	client := caller.Client{URL: c.URL, HTTP: &http.Client{Timeout: c.Within, Transport: transport(c.Within)}}
	r := client.Call(ctx, c.Method, "", c.Body)
	if r.Status == 0 {
		return r.Err
	}
	fmt.Printf("%d %s\n", r.Status, r.Text)
	return nil
}

type metricCommand struct {
	URL    string   `arg:"" help:"URL of a private port."`
	Name   string   `arg:""`
	Labels []string `arg:"" optional:"" sep:"none"`
}

func (m metricCommand) Run(ctx context.Context) error {
	sum, err := caller.Metric(ctx, m.URL, m.Name, m.Labels...)
	if err == nil {
		fmt.Println(sum)
	}
	return err
}

type statsCommand struct{}

func (statsCommand) Run(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+statsAddr, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	_, err = io.Copy(os.Stdout, response.Body)
	return err
}

type loadCommand struct {
	Orders  string `arg:"" help:"The URL of orders."`
	SKU     string `help:"SKU to order. It must have enough stock." default:"A"`
	Rate    int    `help:"Requests a second." default:"150"`
	Callers int    `help:"Number of callers." default:"16"`
}

// Run sends the load. An order belongs to one caller, which places, amends, confirms
// and cancels it. A failed request is counted and not retried.
func (c loadCommand) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", statsAddr)
	if err != nil {
		return err
	}
	m := &collector{since: time.Now()}
	server := &http.Server{Handler: http.HandlerFunc(m.serve), ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	ticks := time.NewTicker(time.Second / time.Duration(c.Rate))
	defer ticks.Stop()
	run := time.Now().UnixNano() // a restarted pod needs new order ids
	var all sync.WaitGroup
	for n := range c.Callers {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				transport := transport(lookupFor)
				for j := range ordersPerConnection {
					c.order(ctx, m, ticks.C, transport, fmt.Sprintf("load-%d-%d-%d-%d", run, n, i, j))
				}
				transport.CloseIdleConnections()
			}
		})
	}
	select {
	case <-ctx.Done():
	case err = <-ended:
	}
	all.Wait()
	return errors.Join(err, server.Close())
}

// order sends the requests of one order, one at each tick.
func (c loadCommand) order(ctx context.Context, m *collector, ticks <-chan time.Time, transport http.RoundTripper, id string) {
	s := caller.Services{Orders: &caller.Client{URL: c.Orders, HTTP: &http.Client{Timeout: 20 * time.Second, Transport: transport}}}
	requestContext := context.WithoutCancel(ctx) // a started request completes, even after the end
	for _, request := range []struct {
		name string
		call func() caller.Response
	}{
		{"place", func() caller.Response { return s.Place(requestContext, id, c.SKU, 2) }},
		{"amend", func() caller.Response { return s.Amend(requestContext, id, c.SKU, 3) }},
		{"confirm", func() caller.Response { return s.Confirm(requestContext, id) }},
		{"order", func() caller.Response { return s.Order(requestContext, id) }},
		{"cancel", func() caller.Response { return s.Cancel(requestContext, id) }},
	} {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		began := time.Now()
		r := request.call()
		if !m.add(request.name+" "+id, began, r) {
			return
		}
	}
}

// collector collects the statistics since the last call.
type collector struct {
	mu        sync.Mutex
	since     time.Time
	latencies []time.Duration
	slowest   time.Duration
	stats     loadstats.Stats
}

// add adds a request and says whether it was done.
func (m *collector) add(what string, began time.Time, r caller.Response) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := time.Since(began)
	answer := fmt.Sprintf("%s %s after %s: %d %s %v", began.UTC().Format("15:04:05.000"), what, took.Round(time.Millisecond), r.Status, r.Text, r.Err)
	if m.stats.Requests++; took > m.slowest {
		m.slowest, m.stats.Slowest = took, answer
	}
	m.latencies = append(m.latencies, took)
	if r.Err == nil && r.Done() {
		return true
	}
	m.stats.Failures++
	if len(m.stats.Examples) < maxExamples {
		m.stats.Examples = append(m.stats.Examples, answer)
	}
	return false
}

func (m *collector) serve(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.stats
	t.Seconds = time.Since(m.since).Seconds()
	if n := len(m.latencies); n > 0 {
		slices.Sort(m.latencies)
		t.P99 = m.latencies[n*99/100]
	}
	m.since, m.latencies, m.slowest, m.stats = time.Now(), nil, 0, loadstats.Stats{}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(t) // the reader reports an incomplete response
}
