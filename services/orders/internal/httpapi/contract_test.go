package httpapi

import (
	"log/slog"
	"testing"

	"roundtrip/contracts/openapi"
	"roundtrip/internal/exchange"
	"roundtrip/internal/rest"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/resttest"
)

func TestRoutesMatchTheContract(t *testing.T) {
	t.Parallel()
	server := rest.New(rest.Options{Responder: exchange.NewResponder(exchange.ResponderOptions{Logger: slog.New(slog.DiscardHandler), MaxInFlight: 1})})
	Register(server, order.NewProtocol(nil, nil, nil, nil))
	resttest.WantRoutes(t, server.Routes(), openapi.Orders())
}
