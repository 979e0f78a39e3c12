// Package sim runs both services in virtual time: their apps, composed as their
// processes compose them, run in one testing/synctest bubble and connect over
// memory. Fifteen minutes pass in milliseconds, and timing depends only on the
// protocol.
package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"roundtrip/internal/database"
	inventory "roundtrip/services/inventory/app"
	orders "roundtrip/services/orders/app"
	"roundtrip/test/support/memnet"
)

// System is both services, and an HTTP client that calls them.
type System struct {
	Network   *memnet.Network
	Client    *http.Client
	Inventory *inventory.App
	Orders    *orders.App

	folder string
	t      *testing.T
}

// Start starts both services on SQLite in a new folder. Call it inside a bubble,
// and call Stop before the bubble ends.
func Start(t *testing.T, folder string) *System {
	t.Helper()
	network := new(memnet.Network)
	s := &System{Network: network, Client: network.Client(), folder: folder, t: t}
	s.StartInventory()
	s.StartOrders()
	return s
}

func (s *System) database(name string) database.Source {
	return database.FromAddress("sqlite:" + filepath.Join(s.folder, name+".db"))
}

// StartInventory starts inventory. A restart keeps its database.
func (s *System) StartInventory() {
	s.t.Helper()
	a, err := inventory.New(s.t.Context(), inventory.Options{
		HTTP: s.Network.Listen("inventory:80"), Admin: s.Network.Listen("inventory:90"), Database: database.Options{Source: s.database("inventory")},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 512,
	})
	s.Inventory = a
	s.started(a, err)
}

// StartOrders starts orders. A restart keeps its database.
func (s *System) StartOrders() {
	s.t.Helper()
	a, err := orders.New(s.t.Context(), orders.Options{
		HTTP: s.Network.Listen("orders:80"), Admin: s.Network.Listen("orders:90"), Database: database.Options{Source: s.database("orders")},
		Logger: slog.New(slog.DiscardHandler), MaxInFlight: 512,
		InventoryWire: "http", InventoryURL: "http://inventory:80", Dial: s.Network.Dial, SettleInterval: time.Second, GiveUpAfter: 30 * time.Second,
	})
	s.Orders = a
	s.started(a, err)
}

func (s *System) started(app interface{ Start(context.Context) error }, err error) {
	s.t.Helper()
	if err == nil {
		err = app.Start(s.t.Context())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// Stop stops both services.
func (s *System) Stop() {
	s.t.Helper()
	s.Client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.Context()), time.Minute)
	defer cancel()
	if err := errors.Join(s.Orders.Stop(ctx), s.Inventory.Stop(ctx)); err != nil {
		s.t.Error(fmt.Errorf("stop the services: %w", err))
	}
}
