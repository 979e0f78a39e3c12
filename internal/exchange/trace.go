package exchange

import (
	"context"
	"regexp"
	"strings"
)

// traceParent matches a traceparent of version 00: version, trace id, parent id, flags.
var traceParent = regexp.MustCompile(`^00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}$`)

type traceKey struct{}

// WithTrace puts a [TraceHeader] into a context, to pass it on unchanged. This project
// records no spans, and a program that records none leaves the parent unchanged (W3C
// Trace Context, section 3.4). An invalid header is dropped, as the recommendation
// says. It is no reason to refuse a request.
func WithTrace(ctx context.Context, header string) context.Context {
	found := traceParent.FindStringSubmatch(header)
	if found == nil || strings.Trim(found[1], "0") == "" || strings.Trim(found[2], "0") == "" {
		return ctx
	}
	return context.WithValue(ctx, traceKey{}, header)
}

// Trace is the [TraceHeader] of the request that the context belongs to; "" if it has
// none.
func Trace(ctx context.Context) string {
	header, _ := ctx.Value(traceKey{}).(string)
	return header
}

// TraceID is the id of the trace that the context belongs to; "" if it belongs to
// none.
func TraceID(ctx context.Context) string {
	header := Trace(ctx)
	if header == "" {
		return ""
	}
	return traceParent.FindStringSubmatch(header)[1]
}
