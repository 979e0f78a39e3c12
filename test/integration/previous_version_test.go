package integration

import (
	"fmt"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"

	"roundtrip/test/support/containers"
)

// The previous version of one service works with the current version of the other:
// during a rollout, and after a rollback of one of them.
func TestPreviousVersionWorksWithCurrentVersion(t *testing.T) {
	t.Parallel()
	for _, version := range []struct {
		name              string
		cells             *section
		orders, inventory string
	}{
		{"old orders", oldOrders, *previousTag, ""},
		{"old inventory", oldInventory, "", *previousTag},
	} {
		for _, wire := range wires {
			t.Run(version.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				for _, service := range []string{"inventory", "orders"} {
					if _, err := theSuite(t).engine.ImageInspect(t.Context(), imageOf(service, *previousTag)); err != nil {
						containers.Check(t, fmt.Errorf("the engine has no image %s; run `make integration`", imageOf(service, *previousTag)))
					}
				}
				s := setting{wire: wire, store: "postgres", proxied: true, ordersImage: version.orders, inventoryImage: version.inventory}
				sys := startSystem(t, s)
				sys.runOutcomes(version.cells)
				opened := version.cells.row("responses lost", "Bytes from inventory are dropped silently.").open(sys, wire, "postgres", "", allExchanges...)
				for id, c := range opened {
					c.order = id
				}
				sys.runUnder(toxic("responses lost", "", toOrders, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown), opened)
				sys.audit()
				sys.close(opened)
			})
		}
	}
}
