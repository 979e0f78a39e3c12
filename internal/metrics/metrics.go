// Package metrics counts the exchanges of a service: those that it answers (role
// responder) and those that it makes (role caller). Another program can't create new
// label values, and with them new time series.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"roundtrip/internal/exchange"
)

// Metrics are the metrics that both services have. Exchanges have the label role:
// the "responder" answers them, the "caller" makes them.
type Metrics struct {
	// Registry holds these metrics, those of Go and of the process, and those that a
	// service adds.
	Registry *prometheus.Registry

	exchanges *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	attempts  *prometheus.CounterVec
	sheds     *prometheus.CounterVec
	alarms    *prometheus.CounterVec
}

// New makes Metrics with their own registry. Nothing is global.
func New() *Metrics {
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roundtrip_exchanges_total",
			Help: "Exchanges that ended, by role, operation, wire and outcome: ok, unknown, canceled, the problem's code, or other.",
		}, []string{"role", "operation", "wire", "outcome"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "roundtrip_exchange_duration_seconds",
			Help:    "How long exchanges took, with all their attempts.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5},
		}, []string{"role", "operation", "wire"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roundtrip_attempts_total",
			Help: "Requests that were sent: first attempts and retries; the label resend marks the settler's.",
		}, []string{"operation", "wire", "resend"}),
		sheds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roundtrip_sheds_total",
			Help: "Requests that were refused because too many were in flight.",
		}, []string{"operation", "wire"}),
		alarms: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "roundtrip_alarms_total",
			Help: "Answers that leave an intent unsettled and that a repeat of the request will not change.",
		}, []string{"reason"}),
	}
	m.Registry.MustRegister(m.exchanges, m.duration, m.attempts, m.sheds, m.alarms,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Answered counts an exchange that the service answered.
func (m *Metrics) Answered(a exchange.RequestObservation) {
	m.exchanges.WithLabelValues("responder", a.Operation, a.Wire, a.Outcome).Inc()
	m.duration.WithLabelValues("responder", a.Operation, a.Wire).Observe(a.Duration.Seconds())
	if a.Shed {
		m.sheds.WithLabelValues(a.Operation, a.Wire).Inc()
	}
}

// Called counts an exchange that the service made.
func (m *Metrics) Called(wire string, o exchange.CallObservation) {
	m.exchanges.WithLabelValues("caller", o.Operation, wire, exchange.Outcome(exchange.Problem(o.Err))).Inc()
	m.duration.WithLabelValues("caller", o.Operation, wire).Observe(o.Duration.Seconds())
	resend := "no"
	if o.Resend {
		resend = "yes"
	}
	m.attempts.WithLabelValues(o.Operation, wire, resend).Add(float64(len(o.Attempts)))
}

// Alarm counts an answer that an operator should look at.
func (m *Metrics) Alarm(reason string) { m.alarms.WithLabelValues(reason).Inc() }
