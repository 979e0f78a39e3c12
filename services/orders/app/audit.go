package app

import (
	"context"
	"errors"

	"roundtrip/internal/database"
	"roundtrip/internal/exchange"
	"roundtrip/services/orders/internal/inventory"
	"roundtrip/services/orders/internal/inventory/httpclient"
	"roundtrip/services/orders/internal/order"
	"roundtrip/services/orders/internal/reconcile"
	"roundtrip/services/orders/internal/store"
)

// AuditOptions say what an audit compares.
type AuditOptions struct {
	Database database.Options
	// InventoryURL is the address of inventory's REST API. Only REST lists every
	// reservation.
	InventoryURL string
	// Repair changes every order that differs so that it agrees with its reservation.
	Repair bool
	// Report is called with each difference and what the audit did about it.
	Report func(difference string)
}

// AuditReport counts what an audit found.
type AuditReport = reconcile.Report

// Audit compares orders with inventory's reservations. It may run while the services
// run.
func Audit(ctx context.Context, o AuditOptions) (report AuditReport, err error) {
	// Open it for reading first, so that a missing database is an error and is not
	// created.
	orders, err := store.OpenReadOnly(o.Database.Source)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, orders.Close()) }()
	wire, err := httpclient.New(o.InventoryURL, 8, nil)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, wire.Close()) }()
	compare := reconcile.Reconciliation{Orders: orders, Inventory: wire, OnDifference: o.Report}
	if o.Repair {
		writer, wait, err := store.Open(ctx, o.Database)
		if err != nil {
			return report, err
		}
		defer func() { err = errors.Join(err, writer.Close()) }()
		if err := wait(ctx); err != nil {
			return report, err
		}
		client := inventory.NewResending(wire, exchange.NewCaller(exchange.Options{}))
		compare.Repair = func(ctx context.Context, o order.Order, r order.Reservation) (order.Order, error) {
			return order.RepairOrder(ctx, writer, client, o, r)
		}
	}
	return compare.Run(ctx)
}

// Schema is the schema of orders' database.
func Schema() database.Schema { return store.Schema() }
