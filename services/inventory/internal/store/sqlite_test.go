package store

import (
	"testing"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/inventory/internal/stock"
	"roundtrip/test/support/stores"
)

func TestAuditReadsWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	address := service.SQLite(t)
	b := backend{Store: service.Open(t, address)}
	b.stocked(t, "a", 1)
	beside, err := OpenReadOnly(database.FromAddress(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stores.Close(t, beside) })
	if err := beside.Audit(t.Context(), func(d stock.Difference) { t.Error(d) }); err != nil {
		t.Error(err)
	}
	wantCode(t, "a write", beside.Do(t.Context(), []stock.Command{hold("r", 1, line("a", 1))})[0].Err, problem.Unavailable)
}
