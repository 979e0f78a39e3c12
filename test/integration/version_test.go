package integration

import (
	"fmt"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2/client"

	"roundtrip/test/support/containers"
)

// Old orders with new inventory and the reverse keep every promise: while a release
// rolls out, and after one of the two was rolled back.
func TestTheLastVersionBesideThisOne(t *testing.T) {
	t.Parallel()
	for _, beside := range []struct {
		name              string
		cells             *section
		orders, inventory string
	}{
		{"old orders", oldOrders, *previousTag, ""},
		{"old inventory", oldInventory, "", *previousTag},
	} {
		for _, wire := range wires {
			t.Run(beside.name+"/"+wire, func(t *testing.T) {
				t.Parallel()
				for _, service := range []string{"inventory", "orders"} {
					if _, err := shared(t).engine.ImageInspect(t.Context(), imageOf(service, *previousTag)); err != nil {
						containers.Check(t, fmt.Errorf("the engine has no %s; run `make integration`", imageOf(service, *previousTag)))
					}
				}
				s := setting{wire: wire, store: "postgres", proxied: true, ordersImage: beside.orders, inventoryImage: beside.inventory}
				p := startPair(t, s)
				p.makesEach(beside.cells)
				opened := beside.cells.row("replies vanish", "What inventory answers is dropped, in silence.").open(p, wire, "postgres", "", everyExchange...)
				for id, c := range opened {
					c.order = id
				}
				p.under(toxic("replies vanish", "", back, "timeout", toxiproxy.Attributes{"timeout": 0}, unknown), opened)
				p.audit()
				p.close(opened)
			})
		}
	}
}
