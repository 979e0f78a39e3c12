// Package fingerprint condenses what a request asked for into a short string
// that is equal for equal requests only. It is stored with what the request
// did; a repeat is recognised by it, and so is another request that came under
// the same id, seq or key.
package fingerprint

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// version names the algorithm. Every fingerprint begins with it, so that one
// made by a later algorithm is never taken for a different request by accident. A
// change of the algorithm decides what an old fingerprint means.
const version = "1"

// Of makes the fingerprint of a list of parts. Each part is written with its
// length, so that no two lists run together into the same bytes.
func Of(parts ...any) string {
	h := sha256.New()
	for _, p := range parts {
		s := fmt.Sprint(p)
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return version + ":" + hex.EncodeToString(h.Sum(nil))
}
