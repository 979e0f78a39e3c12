package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// report is the HTML page of a run. It needs no other file.
type report struct {
	// Workload, Store, Wire and Load describe the run.
	Workload, Store, Wire, Load string
	Began                       time.Time
	result                      result
}

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Parse(page))

// write writes the page and returns its path.
func (r report) write(path string) (string, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	file, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if err := r.render(file); err != nil {
		return "", err
	}
	return path, file.Close()
}

func (r report) render(out io.Writer) error { return pageTemplate.Execute(out, r) }

// The following methods are for the page.

// When is the start of the run.
func (r report) When() string { return r.Began.UTC().Format("2006-01-02 15:04 UTC") }

// Machine describes the machine.
func (r report) Machine() string {
	return fmt.Sprintf("%s/%s, %d cores; load, services and database share them", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

// Columns are the columns of the table.
func (r report) Columns() []string { return columns }

// Rows has a row for each operation, then the total.
func (r report) Rows() [][]string { return r.result.rows() }

// plot is a diagram. The page sets its size.
type plot struct {
	Title  string
	X, Y   []tick
	Curves []curve
}

// tick is a mark on an axis.
type tick struct {
	At    float64
	Label string
}

// curve is a line. Its path is an SVG path.
type curve struct{ Name, Path string }

// The size of the area inside a plot's axes, in SVG's units. report.html has the same
// numbers.
const plotWidth, plotHeight = 800.0, 280.0

// Latency plots the latency that a share of the requests did not exceed, over that
// share. Both axes are logarithmic: each mark on the x axis excludes a tenth as many
// requests as the previous mark.
func (r report) Latency() plot {
	least, most := math.Inf(1), 0.0
	for _, s := range r.result.operations {
		least, most = min(least, s.quantile(0).Seconds()), max(most, s.quantile(1).Seconds())
	}
	if most == 0 {
		return plot{Title: "Latency"}
	}
	low, high := math.Floor(math.Log10(max(least, 1e-6))), math.Ceil(math.Log10(most))
	high = max(high, low+1)
	nines := max(1, math.Ceil(math.Log10(float64(len(r.result.total.latencies)))))
	x := func(share float64) float64 { return plotWidth * min(1, -math.Log10(1-share)/nines) }
	y := func(seconds float64) float64 {
		return plotHeight * (1 - (math.Log10(max(seconds, 1e-6))-low)/(high-low))
	}
	p := plot{Title: "Latency by share of the requests"}
	for n := range int(nines) + 1 {
		share := 1 - math.Pow(10, -float64(n))
		p.X = append(p.X, tick{x(share), fmt.Sprintf("%.*f%%", max(0, n-2), 100*share)})
	}
	for exponent := low; exponent <= high; exponent++ {
		p.Y = append(p.Y, tick{y(math.Pow(10, exponent)), duration(math.Pow(10, exponent))})
	}
	for _, s := range r.result.operations {
		var path pathBuilder
		for step := range 401 {
			// Stop at the share that excludes one request.
			out := nines * float64(step) / 400
			if out > math.Log10(float64(len(s.latencies))) {
				break
			}
			share := 1 - math.Pow(10, -out)
			path.add(x(share), y(s.quantile(share).Seconds()))
		}
		p.Curves = append(p.Curves, curve{s.operation, path.String()})
	}
	return p
}

// Throughput plots the requests done in each second.
func (r report) Throughput() plot {
	// The last second is not complete and would look like a drop.
	seconds := r.result.perSecond
	if len(seconds) > 1 {
		seconds = seconds[:len(seconds)-1]
	}
	most := 1
	for _, n := range seconds {
		most = max(most, n)
	}
	step := niceStep(float64(most) / 4)
	top := step * math.Ceil(float64(most)/step)
	y := func(n float64) float64 { return plotHeight * (1 - n/top) }
	x := func(second float64) float64 { return plotWidth * second / float64(max(1, len(seconds))) }
	p := plot{Title: "Requests done in each second"}
	for n := 0.0; n <= top; n += step {
		p.Y = append(p.Y, tick{y(n), fmt.Sprintf("%.0f", n)})
	}
	xStep := max(1, niceStep(float64(len(seconds))/8))
	for n := 0.0; n <= float64(len(seconds)); n += xStep {
		p.X = append(p.X, tick{x(n), fmt.Sprintf("%.0f s", n)})
	}
	var path pathBuilder
	for i, n := range seconds {
		path.add(x(float64(i)), y(float64(n)))
		path.add(x(float64(i+1)), y(float64(n)))
	}
	p.Curves = []curve{{"done", path.String()}}
	return p
}

// niceStep is the smallest number of the form 1, 2 or 5 times a power of ten that is
// at least least.
func niceStep(least float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(max(least, 1))))
	for _, factor := range []float64{1, 2, 5} {
		if factor*power >= least {
			return factor * power
		}
	}
	return 10 * power
}

// duration formats a power of ten of seconds.
func duration(seconds float64) string {
	return time.Duration(math.Round(seconds * float64(time.Second))).String()
}

type pathBuilder struct{ strings.Builder }

func (p *pathBuilder) add(x, y float64) {
	command := 'L'
	if p.Len() == 0 {
		command = 'M'
	}
	fmt.Fprintf(p, "%c%.1f %.1f", command, x, y)
}
