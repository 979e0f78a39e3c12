package exchange_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

func TestParseTimeout(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"": 2 * time.Second, "1": time.Millisecond, "19": 19 * time.Millisecond, "0250": 250 * time.Millisecond,
		"4999": 4999 * time.Millisecond, "5000": 5 * time.Second, "5001": 5 * time.Second, "9223372036854775807": 5 * time.Second,
	} {
		if got, err := exchange.ParseTimeout(header); got != want || err != nil {
			t.Errorf("%q: got %s, %v, want %s", header, got, err, want)
		}
	}
	for _, header := range []string{"0", "00", "-1", "+1", "1.5", "1e3", "0x10", "1_000", " 1", "1 ", "2s", "x", "9223372036854775808", "٣"} {
		got, err := exchange.ParseTimeout(header)
		if problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%q: got %s, %v", header, got, err)
			continue
		}
		if errs := problem.From(err).Errors; len(errs) != 1 || errs[0].Pointer != "header:Request-Timeout-Ms" {
			t.Errorf("%q: it points at %+v", header, errs)
		}
	}
}

func TestFormatTimeout(t *testing.T) {
	t.Parallel()
	for left, want := range map[time.Duration]string{
		math.MinInt64: "1", -time.Second: "1", 0: "1", time.Microsecond: "1", time.Millisecond: "1",
		2*time.Millisecond - 1: "1", 1850 * time.Millisecond: "1850", 5 * time.Second: "5000",
	} {
		got := exchange.FormatTimeout(left)
		if got != want {
			t.Errorf("%s: got %s, want %s", left, got, want)
		}
		if _, err := exchange.ParseTimeout(got); err != nil {
			t.Errorf("%s: ParseTimeout refuses the header: %v", left, err)
		}
	}
}

func TestRemaining(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		if left, ok := exchange.Remaining(t.Context()); left != 0 || ok {
			t.Errorf("without a deadline: %s, %v", left, ok)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		for _, want := range []time.Duration{2 * time.Second, 500 * time.Millisecond, -time.Second} {
			if left, ok := exchange.Remaining(ctx); left != want || !ok {
				t.Errorf("got %s, %v, want %s", left, ok, want)
			}
			time.Sleep(1500 * time.Millisecond)
		}
	})
}

func TestRequestIDs(t *testing.T) {
	t.Parallel()
	for id, valid := range map[string]bool{
		"a": true, "Az09._-": true, "3f2b8a52-6d0e-4c53-9f0b-0a1b2c3d4e5f": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\n": false, "a\r\nX-Evil: 1": false, "a/b": false, "a;b": false, `a"`: false, "é": false, "\x00": false,
	} {
		if got := exchange.ValidRequestID(id); got != valid {
			t.Errorf("%q: got %v", id, got)
		}
	}
	one, two := exchange.NewRequestID(), exchange.NewRequestID()
	if !exchange.ValidRequestID(one) || !exchange.ValidRequestID(two) || one == two {
		t.Errorf("the new ids are %q and %q", one, two)
	}
	ctx := exchange.WithRequestID(t.Context(), one)
	if got := exchange.RequestID(ctx); got != one {
		t.Errorf("got %q, want %q", got, one)
	}
	if got := exchange.RequestID(t.Context()); got != "" {
		t.Errorf("a context without a request has the id %q", got)
	}
}

func TestUnreachableIsUnavailableAndKeepsItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("connection refused")
	err := exchange.Unreachable(cause)
	if problem.CodeOf(err) != problem.Unavailable || !errors.Is(err, cause) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	if p := problem.From(err); p.Detail == "" || strings.Contains(p.Detail, "refused") {
		t.Errorf("the detail is %q", p.Detail)
	}
}
