package timestamp_test

import (
	"testing"
	"time"

	"roundtrip/internal/timestamp"
)

func TestTimesAreWrittenInUTCWithMilliseconds(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 24, 14, 0, 0, 999_999, time.FixedZone("", 3600))
	if got := timestamp.Format(at); got != "2026-11-24T13:00:00.000Z" {
		t.Error(got)
	}
	if got := timestamp.Optional(at); got != timestamp.Format(at) {
		t.Error(got)
	}
	if got := timestamp.Optional(time.Time{}); got != "" {
		t.Error(got)
	}
}
