package httpapi

import (
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/rest"
	"roundtrip/services/orders/internal/order"
)

// checked holds every exchange of this package's tests to the contract.
func checked(t testing.TB) http.RoundTripper {
	t.Helper()
	return openapi.Orders().Transport(http.DefaultTransport, func(err error) {
		t.Helper()
		t.Errorf("the contract: %v", err)
	})
}

func TestWhatIsServedIsWhatIsDocumented(t *testing.T) {
	t.Parallel()
	server := rest.New(rest.Options{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1})
	Register(server, order.NewProtocol(nil, nil, nil, nil))
	parameter := regexp.MustCompile(`:(\w+)`)
	var served, documented []string
	for _, r := range server.Routes() {
		served = append(served, fmt.Sprintf("%s %s %s", r.Method, parameter.ReplaceAllString(r.Path, "{$1}"), r.Operation))
	}
	for _, o := range openapi.Orders().Operations() {
		documented = append(documented, fmt.Sprintf("%s %s %s", o.Method, o.Path, o.ID))
	}
	slices.Sort(served)
	slices.Sort(documented)
	for _, s := range served {
		if !slices.Contains(documented, s) {
			t.Errorf("served and not documented: %s", s)
		}
	}
	for _, d := range documented {
		if !slices.Contains(served, d) {
			t.Errorf("documented and not served: %s", d)
		}
	}
}
