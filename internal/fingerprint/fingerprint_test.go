package fingerprint_test

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"roundtrip/internal/fingerprint"
)

func TestOnlyEqualListsHaveEqualFingerprints(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab:1]{0,3}`)
		a := rapid.SliceOfN(part, 0, 4).Draw(t, "a")
		b := rapid.SliceOfN(part, 0, 4).Draw(t, "b")
		if same := of(a) == of(b); same != slices.Equal(a, b) {
			t.Fatalf("fingerprints of %q and %q equal: %v", a, b, same)
		}
	})
}

// Fingerprints are stored, so a change of the algorithm needs a new version.
func TestFingerprintDoesNotChange(t *testing.T) {
	const want = "1:b896b1d292d2e29ff48f37c42c1afd66584108b88899a12e223666f74fd49862"
	if got := fingerprint.Of("held", int64(900), "main", "85123A", int64(6)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func of(parts []string) string {
	list := make([]any, len(parts))
	for i, p := range parts {
		list[i] = p
	}
	return fingerprint.Of(list...)
}
