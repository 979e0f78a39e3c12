package exchange_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/internal/problem"
)

// The connection breaks once. The caller gets a success.
func ExampleCaller_Do() {
	caller := exchange.NewCaller(exchange.Options{Observe: func(o exchange.CallObservation) {
		if len(o.Attempts) > 1 {
			fmt.Printf("%s %s: %d attempts, error %v\n", o.RequestID, o.Operation, len(o.Attempts), o.Err)
		}
	}})
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(context.Background(), "r1"), time.Minute)
	defer cancel()

	// Retries are at most a tenth of the requests, so 20 requests come first.
	for range 20 {
		_ = caller.Do(ctx, "PutReservation", func(context.Context, int) error { return nil })
	}

	err := caller.Do(ctx, "PutReservation", func(ctx context.Context, n int) error {
		fmt.Println("send", exchange.AttemptHeader, n)
		if n == 1 {
			return problem.Wrap(errors.New("connection reset"), problem.Unavailable, "The connection failed.")
		}
		return nil
	})
	fmt.Println("the caller gets", err)
	// Output:
	// send Request-Attempt 1
	// send Request-Attempt 2
	// r1 PutReservation: 2 attempts, error <nil>
	// the caller gets <nil>
}

// A rejection is an answer. It is not retried.
func ExampleCaller_Do_rejected() {
	caller := exchange.NewCaller(exchange.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := caller.Do(ctx, "PutReservation", func(_ context.Context, n int) error {
		fmt.Println("attempt", n)
		return problem.New(problem.InsufficientStock, "There are 2 of 85123A.")
	})
	fmt.Println(err)
	// Output:
	// attempt 1
	// insufficient-stock: There are 2 of 85123A.
}

// Each hop passes on the time that is left.
func ExampleFormatTimeout() {
	granted, _ := exchange.ParseTimeout("1850")
	const spent = 40 * time.Millisecond
	fmt.Println(exchange.TimeoutHeader, exchange.FormatTimeout(granted-spent))
	// Output:
	// Request-Timeout-Ms 1810
}
