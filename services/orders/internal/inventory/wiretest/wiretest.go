// Package wiretest has requests and answers for the tests of every wire.
package wiretest

import (
	"context"
	"strings"
	"testing"
	"time"

	"roundtrip/internal/exchange"
	"roundtrip/services/orders/internal/order"
)

// Hold asks for one SKU in two lines. [HeldAnswer] and [Shortage] are answers to it.
var Hold = order.Request{ID: "a", Seq: 1, State: order.ReservationHeld, HoldSeconds: 900, Lines: []order.Demand{
	{SKU: "85123A", Location: "main", Quantity: 6}, {SKU: "85123A", Location: "main", Quantity: 2},
}}

// ExpiresAt is when the hold of [HeldAnswer] ends.
var ExpiresAt = time.Date(2026, 11, 24, 13, 0, 0, 0, time.UTC)

// Answers in JSON.
const (
	HeldAnswer = `{"id": "a", "seq": 1, "state": "held", "lines": [{"sku": "85123A", "location": "main", "quantity": 8}],
		"expires_at": "2026-11-24T13:00:00.000Z"}`
	Shortage = `{"type": "urn:roundtrip:problem:insufficient-stock", "title": "t", "status": 409, "detail": "d",
		"code": "insufficient-stock", "shortages": [{"sku": "85123A", "location": "main", "requested": 8, "available": 7}],
		"current": {"id": "a", "seq": 1, "state": "none"}}`
)

// AnyAnswer answers every request.
var AnyAnswer = strings.TrimSuffix(HeldAnswer, "}") + `, "levels": []}`

// RequestID is the request id in the context that [Deadline] makes.
const RequestID = "request-1"

// Deadline makes the context of an attempt, with a deadline after within.
func Deadline(t *testing.T, within time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(exchange.WithRequestID(t.Context(), RequestID), within)
	t.Cleanup(cancel)
	return ctx
}
