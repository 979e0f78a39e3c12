//go:build contract

package contract

import (
	"flag"
	"io"
	"log"
	"os"
	"testing"

	pactlog "github.com/pact-foundation/pact-go/v2/log"
)

var (
	update   = flag.Bool("update", false, "commit the pact that the consumer test writes")
	pactFile = flag.String("pact", committed, "the pact to verify inventory against")
)

// TestMain turns Pact's log off. Failures are reported as errors. PACT_LOG_LEVEL
// turns the log on.
func TestMain(m *testing.M) {
	if os.Getenv("PACT_LOG_LEVEL") == "" {
		log.SetOutput(io.Discard)
		if err := pactlog.SetLogLevel("ERROR"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
