package metrics_test

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/adminport"
	"roundtrip/internal/exchange"
	"roundtrip/internal/metrics"
	"roundtrip/internal/problem"
)

// counted lists the metrics whose names begin with roundtrip_, as Prometheus writes
// them. Of a histogram it lists the count.
func counted(t *testing.T, m *metrics.Metrics) []string {
	t.Helper()
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, family := range families {
		if !strings.HasPrefix(family.GetName(), "roundtrip_") {
			continue
		}
		for _, metric := range family.GetMetric() {
			var labels []string
			for _, l := range metric.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := metric.GetCounter().GetValue() + float64(metric.GetHistogram().GetSampleCount())
			lines = append(lines, fmt.Sprintf("%s{%s} %v", family.GetName(), strings.Join(labels, ","), value))
		}
	}
	return lines
}

func wantCounted(t *testing.T, m *metrics.Metrics, want ...string) {
	t.Helper()
	if got := counted(t, m); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAnsweredExchangesAreCounted(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	for _, outcome := range []string{"ok", "ok", "unknown", "insufficient-stock"} {
		m.Answered(exchange.RequestObservation{Wire: "http", Operation: "PlaceOrder", Outcome: outcome, Duration: time.Millisecond})
	}
	m.Answered(exchange.RequestObservation{Wire: "http", Operation: "PlaceOrder", Outcome: "overloaded", Shed: true})
	// The other service is overloaded. This service did not shed the request.
	m.Answered(exchange.RequestObservation{Wire: "nats", Operation: "PlaceOrder", Outcome: "overloaded"})
	wantCounted(t, m,
		`roundtrip_exchange_duration_seconds{operation="PlaceOrder",role="responder",wire="http"} 5`,
		`roundtrip_exchange_duration_seconds{operation="PlaceOrder",role="responder",wire="nats"} 1`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="insufficient-stock",role="responder",wire="http"} 1`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="ok",role="responder",wire="http"} 2`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="overloaded",role="responder",wire="http"} 1`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="overloaded",role="responder",wire="nats"} 1`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="unknown",role="responder",wire="http"} 1`,
		`roundtrip_sheds_total{operation="PlaceOrder",wire="http"} 1`,
	)
}

func TestOwnExchangesAreCounted(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	for _, o := range []exchange.CallObservation{
		{Attempts: make([]exchange.AttemptObservation, 1)},
		{Attempts: make([]exchange.AttemptObservation, 3), Err: problem.New(problem.Unavailable, "")},
		{Attempts: make([]exchange.AttemptObservation, 1), Err: fmt.Errorf("put: %w", problem.New(problem.WrongState, ""))},
		{Attempts: make([]exchange.AttemptObservation, 0), Err: problem.New(problem.DeadlineExceeded, "")},
		{Attempts: make([]exchange.AttemptObservation, 1), Resend: true},
		{Attempts: make([]exchange.AttemptObservation, 1), Resend: true, Err: problem.New(problem.Unavailable, "")},
	} {
		o.Operation = "PutReservation"
		m.Called("http", o)
	}
	wantCounted(t, m,
		`roundtrip_attempts_total{operation="PutReservation",resend="no",wire="http"} 5`,
		`roundtrip_attempts_total{operation="PutReservation",resend="yes",wire="http"} 2`,
		`roundtrip_exchange_duration_seconds{operation="PutReservation",role="caller",wire="http"} 6`,
		`roundtrip_exchanges_total{operation="PutReservation",outcome="deadline-exceeded",role="caller",wire="http"} 1`,
		`roundtrip_exchanges_total{operation="PutReservation",outcome="ok",role="caller",wire="http"} 2`,
		`roundtrip_exchanges_total{operation="PutReservation",outcome="unavailable",role="caller",wire="http"} 2`,
		`roundtrip_exchanges_total{operation="PutReservation",outcome="wrong-state",role="caller",wire="http"} 1`,
	)
}

func TestAlarmsAreCounted(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	m.Alarm("stale-seq")
	m.Alarm("unexplained")
	m.Alarm("stale-seq")
	wantCounted(t, m, `roundtrip_alarms_total{reason="stale-seq"} 2`, `roundtrip_alarms_total{reason="unexplained"} 1`)
}

// All codes that a responder invents share one time series.
func TestUnknownCodesShareOneTimeSeries(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	for _, code := range []problem.Code{"teapot", "x\"}\nevil 1", problem.Code(strings.Repeat("x", 1000))} {
		m.Called("http", exchange.CallObservation{Operation: "GetStock", Err: problem.New(code, "")})
	}
	m.Called("http", exchange.CallObservation{Operation: "GetStock", Err: errors.New("a bug")})
	wantCounted(t, m,
		`roundtrip_attempts_total{operation="GetStock",resend="no",wire="http"} 0`,
		`roundtrip_exchange_duration_seconds{operation="GetStock",role="caller",wire="http"} 4`,
		`roundtrip_exchanges_total{operation="GetStock",outcome="internal",role="caller",wire="http"} 1`,
		`roundtrip_exchanges_total{operation="GetStock",outcome="other",role="caller",wire="http"} 3`,
	)
}

// sample matches a line of Prometheus' text format that is not a comment.
var sample = regexp.MustCompile(`^[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? (NaN|[+-]?Inf|[-+.e0-9]+)$`)

func TestMetricsAreServed(t *testing.T) {
	t.Parallel()
	m := metrics.New()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	private := adminport.New(m.Registry, slog.New(slog.DiscardHandler))
	served := make(chan error)
	go func() { served <- private.Serve(l) }()
	m.Answered(exchange.RequestObservation{Wire: "http", Operation: "PlaceOrder", Outcome: "ok", Duration: 3 * time.Millisecond})
	m.Alarm("a \"quoted\"\nreason")
	response, err := http.Get("http://" + l.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("got %d, %v", response.StatusCode, err)
	}
	page := string(body)
	http.DefaultClient.CloseIdleConnections()
	if err := errors.Join(private.Shutdown(t.Context()), <-served); err != nil {
		t.Error(err)
	}
	lines := strings.Split(strings.TrimSuffix(page, "\n"), "\n")
	for _, line := range lines {
		if !strings.HasPrefix(line, "# HELP ") && !strings.HasPrefix(line, "# TYPE ") && !sample.MatchString(line) {
			t.Errorf("this is not a sample: %q", line)
		}
	}
	for _, want := range []string{
		`# TYPE roundtrip_exchanges_total counter`,
		`roundtrip_exchanges_total{operation="PlaceOrder",outcome="ok",role="responder",wire="http"} 1`,
		`# TYPE roundtrip_exchange_duration_seconds histogram`,
		`roundtrip_exchange_duration_seconds_bucket{operation="PlaceOrder",role="responder",wire="http",le="0.0025"} 0`,
		`roundtrip_exchange_duration_seconds_bucket{operation="PlaceOrder",role="responder",wire="http",le="0.005"} 1`,
		`roundtrip_exchange_duration_seconds_sum{operation="PlaceOrder",role="responder",wire="http"} 0.003`,
		`roundtrip_alarms_total{reason="a \"quoted\"\nreason"} 1`,
		`# TYPE go_goroutines gauge`,
		`# TYPE process_start_time_seconds gauge`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("%s is missing from\n%s", want, page)
		}
	}
}
