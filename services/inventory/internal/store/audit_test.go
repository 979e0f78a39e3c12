package store

import (
	"slices"
	"strings"
	"testing"

	"roundtrip/services/inventory/internal/stock"
)

func TestAuditFindsDifferences(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.stocked(t, "b", 10)
		b.do(t, hold("held", 1, line("a", 1)))
		b.do(t, hold("taken", 1, line("b", 2)))
		b.do(t, committed("taken", 2))
		for _, c := range []struct {
			do, undo string
			want     []string
		}{
			{"UPDATE levels SET on_hand = on_hand + 1 WHERE sku = 'a'", "UPDATE levels SET on_hand = on_hand - 1 WHERE sku = 'a'",
				[]string{"main/a: on hand against the ledger's sum: expected 10, found 11"}},
			{"UPDATE levels SET reserved = reserved + 1 WHERE sku = 'b'", "UPDATE levels SET reserved = reserved - 1 WHERE sku = 'b'",
				[]string{"main/b: reserved against the ledger's sum: expected 0, found 1", "main/b: reserved against what is held: expected 0, found 1"}},
			{"UPDATE reservations SET state = 'expired' WHERE id = 'held'", "UPDATE reservations SET state = 'held' WHERE id = 'held'",
				[]string{"held main/a: a reservation's effect on reserved: expected 0, found 1", "main/a: reserved against what is held: expected 0, found 1"}},
			{"UPDATE reservation_lines SET quantity = 3 WHERE reservation_id = 'taken'", "UPDATE reservation_lines SET quantity = 2 WHERE reservation_id = 'taken'",
				[]string{"taken main/b: a reservation's effect on hand: expected -3, found -2"}},
			{`INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
				SELECT at, location, sku, 0, 0, on_hand + 5, reserved + 6, reason, 'forged', 1 FROM ledger WHERE ref = 'held'`, "",
				[]string{"main/a entry 6: the ledger's running on hand: expected 10, found 15", "main/a entry 6: the ledger's running reserved: expected 1, found 7"}},
		} {
			b.audit(t)
			if err := b.Exec(t.Context(), c.do); err != nil {
				t.Fatalf("%s: %v", c.do, err)
			}
			var got []string
			if err := b.Audit(t.Context(), func(d stock.Difference) { got = append(got, d.String()) }); err != nil {
				t.Error(err)
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("after %s the audit reports %q, want %q", c.do, got, c.want)
			}
			if c.undo == "" {
				return // the ledger can't be changed back
			}
			if err := b.Exec(t.Context(), c.undo); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestLedgerAndOutcomesAreNeverChanged(t *testing.T) {
	conform(t, func(t *testing.T, b backend) {
		b.stocked(t, "a", 10)
		b.do(t, hold("r", 1, line("a", 1)))
		before := b.Dump(t)
		for _, statement := range []string{
			"UPDATE ledger SET on_hand = 11", "DELETE FROM ledger", "UPDATE outcomes SET problem = NULL", "DELETE FROM outcomes",
		} {
			if err := b.Exec(t.Context(), statement); err == nil || !strings.Contains(err.Error(), "never changed") {
				t.Errorf("%s: %v", statement, err)
			}
		}
		// A level can't get an invalid quantity either.
		for _, statement := range []string{"UPDATE levels SET reserved = -1", "UPDATE levels SET reserved = 11"} {
			if err := b.Exec(t.Context(), statement); err == nil {
				t.Errorf("%s succeeded", statement)
			}
		}
		if after := b.Dump(t); after != before {
			t.Errorf("the rows changed from\n%s to\n%s", before, after)
		}
	})
}
