package exchange_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"roundtrip/internal/exchange"
)

const (
	trace   = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	traceID = "4bf92f3577b34da6a3ce929d0e0e4736"
)

func TestOnlyAValidTraceIsCarried(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, header, id string
	}{
		{"sampled", trace, traceID},
		{"not sampled", strings.TrimSuffix(trace, "1") + "0", traceID},
		{"unknown flags", strings.TrimSuffix(trace, "01") + "ff", traceID},
		{"nearly zero", "00-00000000000000000000000000000001-0000000000000001-00", "00000000000000000000000000000001"},
		{"no header", "", ""},
		{"no trace id", "00-" + strings.Repeat("0", 32) + "-00f067aa0ba902b7-01", ""},
		{"no parent id", "00-" + traceID + "-0000000000000000-01", ""},
		{"another version", "01" + trace[2:], ""},
		{"no version", "ff" + trace[2:], ""},
		{"an extra field", trace + "-00", ""},
		{"upper case", strings.ToUpper(trace), ""},
		{"not hexadecimal", strings.Replace(trace, "4bf9", "4bg9", 1), ""},
		{"too short", trace[:54], ""},
		{"space before", " " + trace, ""},
		{"space after", trace + " ", ""},
		{"a newline", trace + "\n", ""},
		{"two values", trace + "," + trace, ""},
	} {
		ctx := exchange.WithTrace(t.Context(), c.header)
		want := c.header
		if c.id == "" {
			want = ""
		}
		if got, id := exchange.Trace(ctx), exchange.TraceID(ctx); got != want || id != c.id {
			t.Errorf("%s: the header is %q and the trace id %q", c.name, got, id)
		}
	}
}

// The log line of an exchange has the trace id on both sides, if there is one.
func TestTraceIDIsLogged(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]string{trace: traceID, "": ""} {
		ctx := exchange.WithTrace(t.Context(), header)
		log := new(strings.Builder)
		r := exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.NewTextHandler(log, nil)), MaxInFlight: 1})
		received, q := r.Receive(ctx, "nats", "Get", "", "")
		q.Done(received, "ok", nil)
		if strings.Contains(log.String(), "trace_id") != (want != "") || !strings.Contains(log.String(), want) {
			t.Errorf("%q: the responder's line is %s", header, log)
		}
		var seen exchange.CallObservation
		caller := exchange.NewCaller(exchange.Options{Observe: func(o exchange.CallObservation) { seen = o }})
		if err := caller.Do(ctx, "Get", func(context.Context, int) error { return nil }); err != nil || seen.TraceID != want {
			t.Errorf("%q: the caller saw %+v, %v", header, seen, err)
		}
	}
}
