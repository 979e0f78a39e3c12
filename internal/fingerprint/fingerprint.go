// Package fingerprint makes a short string from the contents of a request. Only
// equal requests have equal fingerprints. A service stores the fingerprint with the
// result of the request. A later request with the same id, seq or key is a repeat if
// its fingerprint is the same, and a different request otherwise.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// version names the algorithm. Every fingerprint begins with it, so that a different
// algorithm is not mistaken for a different request. A change of the algorithm has
// to decide what an old fingerprint means.
const version = "1"

// Of makes the fingerprint of a list of parts. It writes each part with its length,
// so that different lists always give different bytes.
func Of(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		s := fmt.Sprint(p)
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return version + ":" + hex.EncodeToString(h.Sum(nil))
}
