package app

import (
	"context"
	"errors"

	"roundtrip/internal/database"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/services/inventory/internal/store"
)

// Audit compares levels, ledger and reservations. It calls report for every
// difference, and returns how many there are. It may run while the service runs.
func Audit(ctx context.Context, source database.Source, report func(difference string)) (differences int, err error) {
	s, err := store.OpenReadOnly(source)
	if err != nil {
		return 0, err
	}
	err = s.Audit(ctx, func(d stock.Difference) {
		differences++
		report(d.String())
	})
	return differences, errors.Join(err, s.Close())
}

// Schema is the schema of inventory's database.
func Schema() database.Schema { return store.Schema() }
