package main

import (
	"encoding/xml"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

func render(t *testing.T, r report) string {
	t.Helper()
	var page strings.Builder
	if err := r.render(&page); err != nil {
		t.Fatal(err)
	}
	return page.String()
}

func someResult() result {
	var samples []sample
	for i := range 3000 {
		at := time.Duration(i) * time.Millisecond
		samples = append(samples, sample{operation: []string{"place", "<get>"}[i%2], at: at, took: time.Duration(1+i%100) * time.Millisecond})
	}
	return summarize(samples)
}

func TestPageIsSelfContained(t *testing.T) {
	t.Parallel()
	page := render(t, report{Workload: "uniform", Store: "SQLite", Wire: "grpc", Load: "16 callers", result: someResult()})
	if found := regexp.MustCompile(`(?i)<script|<link|<img|<iframe|@import|url\(|src=|href=|https?:|javascript:|\son\w+=`).FindString(page); found != "" {
		t.Errorf("the page contains %q", found)
	}
	if !strings.Contains(page, "On SQLite. Orders calls inventory over grpc.") {
		t.Error("the page does not describe the run")
	}
	if n := strings.Count(page, "<svg"); n != 2 {
		t.Errorf("%d plots", n)
	}
}

func TestPageEscapesText(t *testing.T) {
	t.Parallel()
	page := render(t, report{Workload: `</title><script>x`, Store: `"><b>`, Load: "<i>", result: someResult()})
	for _, raw := range []string{"<script>", "<b>", "<i>", "<get>"} {
		if strings.Contains(page, raw) {
			t.Errorf("the page contains %s", raw)
		}
	}
}

func TestCurvesStayInsideTheAxes(t *testing.T) {
	t.Parallel()
	var equal, one []sample
	for range 50 {
		equal = append(equal, sample{operation: "place", took: time.Millisecond, at: time.Second})
	}
	one = []sample{{operation: "place", took: 0, at: 0}}
	for name, r := range map[string]result{"some": someResult(), "all equal": summarize(equal), "one": summarize(one), "none": {}} {
		page := render(t, report{result: r})
		if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") {
			t.Errorf("%s: the page contains NaN or Inf", name)
		}
		for _, p := range []plot{(report{result: r}).Latency(), (report{result: r}).Throughput()} {
			for _, c := range p.Curves {
				for _, point := range regexp.MustCompile(`[ML]([^ ]+) ([^ML]+)`).FindAllStringSubmatch(c.Path, -1) {
					if !within(point[1], plotWidth) || !within(point[2], plotHeight) {
						t.Fatalf("%s: %s of %s is outside", name, point[0], p.Title)
					}
				}
			}
		}
	}
}

func within(number string, most float64) bool {
	n := parse(number)
	return n >= -0.1 && n <= most+0.1
}

func TestLatencyCurveRises(t *testing.T) {
	t.Parallel()
	for _, c := range (report{result: someResult()}).Latency().Curves {
		points := regexp.MustCompile(`[ML]([^ ]+) ([^ML]+)`).FindAllStringSubmatch(c.Path, -1)
		for i := 1; i < len(points); i++ {
			if parse(points[i][1]) < parse(points[i-1][1]) || parse(points[i][2]) > parse(points[i-1][2]) {
				t.Fatalf("%s falls at %v", c.Name, points[i])
			}
		}
		// 1,500 requests of each operation: the curve ends at the share that
		// excludes one.
		if last := parse(points[len(points)-1][1]); last > plotWidth*3.18/4+1 || last < plotWidth*3/4 {
			t.Errorf("%s ends at %g", c.Name, last)
		}
	}
}

func TestPlotsAreWellFormed(t *testing.T) {
	t.Parallel()
	page := render(t, report{result: someResult()})
	for _, svg := range regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(page, -1) {
		for decoder := xml.NewDecoder(strings.NewReader(svg)); ; {
			if _, err := decoder.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func parse(number string) float64 {
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return math.NaN() // outside every range
	}
	return n
}
