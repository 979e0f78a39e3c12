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
	update   = flag.Bool("update", false, "make the pact that orders' tests write the committed one")
	pactFile = flag.String("pact", committed, "the pact that inventory is verified against")
	report   = flag.String("report", "", "the file that the tables of mutants are added to")
)

// TestMain quiets Pact, which says much of what goes well; what does not comes
// as an error. Who wants all of it sets PACT_LOG_LEVEL.
func TestMain(m *testing.M) {
	if os.Getenv("PACT_LOG_LEVEL") == "" {
		log.SetOutput(io.Discard)
		if err := pactlog.SetLogLevel("ERROR"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
