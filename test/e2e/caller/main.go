// Command caller is a shop in a pod: the end-to-end tests make their requests and
// their load from inside the cluster, by running it there.
//
//	caller wait                                     until it is stopped
//	caller call METHOD URL [BODY]                   one request; prints the answer
//	caller metric URL NAME [LABEL...]               a metric's sum, of a private port
//	caller load --rate=150 http://orders.shop:8080  constant load, until it is stopped
//	caller take                                     what that load met since it was last asked
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

	"roundtrip/internal/service"
	"roundtrip/test/e2e/taken"
	"roundtrip/test/support/shop"
)

// takeAddr is where the load answers `take`.
const takeAddr = "127.0.0.1:7070"

// ordersPerConnection is how many orders a caller takes through their lives before
// it connects anew: a shop's connections are kept, and not for ever.
const ordersPerConnection = 10

// maxExamples is how many failures are shown.
const maxExamples = 5

type cli struct {
	Wait   waitCommand   `cmd:"" help:"Do nothing until stopped."`
	Call   callCommand   `cmd:"" help:"Make one request, and print its answer; exit 1 if there is none."`
	Metric metricCommand `cmd:"" help:"Print the sum of a metric over the series that have all labels."`
	Load   loadCommand   `cmd:"" help:"Make a constant number of requests a second, until stopped."`
	Take   takeCommand   `cmd:"" help:"Print what the load of this pod met since it was last asked."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	command := kong.Parse(&cli{}, kong.BindTo(ctx, (*context.Context)(nil)))
	command.FatalIfErrorf(command.Run())
}

// lookupFor is how long a name is looked up that the cluster's DNS can't tell, or does
// not answer: that is none of the pair's. One lookup may take a fifth of that.
const lookupFor = 5 * time.Second

// transport connects as the pair's callers do, and asks for a name again.
func transport() *http.Transport {
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		var found []string
		err = service.Patiently(ctx, lookupFor, func(ctx context.Context) (err error) {
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
	Within time.Duration `help:"How long it waits for the answer." default:"20s"`
}

func (c callCommand) Run(ctx context.Context) error {
	client := shop.Client{URL: c.URL, HTTP: &http.Client{Timeout: c.Within, Transport: transport()}}
	r := client.Call(ctx, c.Method, "", c.Body)
	if r.Status == 0 {
		return r.Err
	}
	fmt.Printf("%d %s\n", r.Status, r.Text)
	return nil
}

type metricCommand struct {
	URL    string   `arg:"" help:"Of a private port."`
	Name   string   `arg:""`
	Labels []string `arg:"" optional:"" sep:"none"`
}

func (m metricCommand) Run() error {
	sum, err := shop.Metric(m.URL, m.Name, m.Labels...)
	if err == nil {
		fmt.Println(sum)
	}
	return err
}

type takeCommand struct{}

func (takeCommand) Run(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+takeAddr, nil)
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
	SKU     string `help:"What is ordered, of which there is enough." default:"A"`
	Rate    int    `help:"Requests a second." default:"150"`
	Callers int    `help:"How many make them." default:"16"`
}

// Run makes the load. An order belongs to one caller, who places, amends, confirms
// and cancels it; what fails is counted, and not repeated.
func (c loadCommand) Run(ctx context.Context) error {
	listener, err := net.Listen("tcp", takeAddr)
	if err != nil {
		return err
	}
	m := &met{since: time.Now()}
	server := &http.Server{Handler: http.HandlerFunc(m.take), ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	ticks := time.NewTicker(time.Second / time.Duration(c.Rate))
	defer ticks.Stop()
	run := time.Now().UnixNano() // a pod that is started again has other orders
	var all sync.WaitGroup
	for n := range c.Callers {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				transport := transport()
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

// order takes an order through its life, a request at each tick.
func (c loadCommand) order(ctx context.Context, m *met, ticks <-chan time.Time, transport http.RoundTripper, id string) {
	s := shop.Shop{Orders: &shop.Client{URL: c.Orders, HTTP: &http.Client{Timeout: 20 * time.Second, Transport: transport}}}
	asked := context.WithoutCancel(ctx) // what was asked is answered, also after the end
	for _, request := range []struct {
		name string
		call func() shop.Reply
	}{
		{"place", func() shop.Reply { return s.Place(asked, id, c.SKU, 2) }},
		{"amend", func() shop.Reply { return s.Amend(asked, id, c.SKU, 3) }},
		{"confirm", func() shop.Reply { return s.Confirm(asked, id) }},
		{"order", func() shop.Reply { return s.Order(asked, id) }},
		{"cancel", func() shop.Reply { return s.Cancel(asked, id) }},
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

// met is what the load met since it was last asked.
type met struct {
	mu        sync.Mutex
	since     time.Time
	latencies []time.Duration
	slowest   time.Duration
	taken     taken.Taken
}

// add says whether the request was done.
func (m *met) add(what string, began time.Time, r shop.Reply) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	took := time.Since(began)
	answer := fmt.Sprintf("%s %s after %s: %d %s %v", began.UTC().Format("15:04:05.000"), what, took.Round(time.Millisecond), r.Status, r.Text, r.Err)
	if m.taken.Requests++; took > m.slowest {
		m.slowest, m.taken.Slowest = took, answer
	}
	m.latencies = append(m.latencies, took)
	if r.Err == nil && r.Done() {
		return true
	}
	m.taken.Failures++
	if len(m.taken.Examples) < maxExamples {
		m.taken.Examples = append(m.taken.Examples, answer)
	}
	return false
}

func (m *met) take(w http.ResponseWriter, _ *http.Request) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.taken
	t.Seconds = time.Since(m.since).Seconds()
	if n := len(m.latencies); n > 0 {
		slices.Sort(m.latencies)
		t.P99 = m.latencies[n*99/100]
	}
	m.since, m.latencies, m.slowest, m.taken = time.Now(), nil, 0, taken.Taken{}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(t) // the caller of take says that it got nothing
}
