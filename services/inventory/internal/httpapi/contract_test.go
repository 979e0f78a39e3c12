package httpapi

import (
	"log/slog"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/exchange"
	"roundtrip/internal/rest"
	"roundtrip/test/support/resttest"
)

func TestRoutesMatchTheContract(t *testing.T) {
	t.Parallel()
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1})})
	Register(server, nil)
	resttest.WantRoutes(t, server.Routes(), openapi.Inventory())
}
