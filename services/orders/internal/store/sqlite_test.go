package store

import (
	"database/sql"
	"strings"
	"testing"

	"roundtrip/internal/database"
	"roundtrip/internal/problem"
	"roundtrip/services/orders/internal/order"
	"roundtrip/test/support/stores"
)

func TestAuditReadsWhileTheServiceRuns(t *testing.T) {
	t.Parallel()
	address := service.SQLite(t)
	b := backend{Store: service.Open(t, address)}
	b.placed(t, "a")
	beside, err := OpenReadOnly(database.FromAddress(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stores.Close(t, beside) })
	if o, err := beside.Order(t.Context(), "a"); err != nil || o.State != order.Placed {
		t.Errorf("the audit reads %+v, %v", o, err)
	}
	wantCode(t, "a write", beside.Do(t.Context(), []order.Command{place("b")})[0].Err, problem.Unavailable)
	b.placed(t, "c")
	if _, err := beside.Order(t.Context(), "c"); err != nil {
		t.Errorf("an order that was written since: %v", err)
	}
}

// A list of thousands of orders must not be sorted again for each page.
func TestSQLiteListsUseIndexes(t *testing.T) {
	t.Parallel()
	s := service.Open(t, service.SQLite(t)).(*SQLite)
	for filter, index := range map[string]string{
		"": "orders_newest", " AND o.state = 'placed'": "orders_by_state", " AND o.customer = 'x'": "orders_by_customer",
	} {
		var plan []string
		err := s.db.Read(t.Context(), func(tx *sql.Tx) error {
			rows, err := tx.Query(`EXPLAIN QUERY PLAN SELECT * FROM orders o LEFT JOIN intents i ON i.order_id = o.id AND i.settled_at IS NULL
				WHERE (o.created_at, o.id) < (9, 'x')` + filter + ` ORDER BY o.created_at DESC, o.id DESC LIMIT 50`)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var id, parent, unused int
				var detail string
				if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
					return err
				}
				plan = append(plan, detail)
			}
			return rows.Err()
		})
		text := strings.Join(plan, "; ")
		if err != nil || !strings.Contains(text, index) || strings.Contains(text, "TEMP B-TREE") || strings.Contains(text, "SCAN i") {
			t.Errorf("%q: %s (%v), want %s and no sorting", filter, text, err, index)
		}
	}
}
