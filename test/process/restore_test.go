package process

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Orders is restored from a backup. Since the backup thousands of orders were placed,
// amended, confirmed and cancelled. The audit reports the differences, the repair
// repairs them, and then every order has the last state that its caller got.
func TestRestoreOrdersUnderLoad(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) databases{"sqlite": sqliteDatabases, "postgres": postgresDatabases} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startCallers(t, open(t))
			const before, since = 200, 1500

			// Some orders are placed before the backup, and some during it.
			s.each("old", before, func(_ int, id string) { s.doUntil(id, "place", http.StatusOK) })
			stop := s.load("at-backup")
			s.wait("orders are placed", func() bool { return s.known() > before+50 })
			if err := s.backUp(); err != nil {
				t.Fatal(err)
			}
			stop()
			s.each("old", before, func(i int, id string) {
				for _, operation := range [][]string{nil, {"amend"}, {"confirm"}, {"cancel"}, {"amend", "confirm"}}[i%5] {
					s.doUntil(id, operation, http.StatusOK)
				}
			})
			stop = s.load("lost")
			s.wait("thousands of orders are placed", func() bool { return s.known() > before+since })
			s.stopOrders()
			stop()
			if err := s.restore(); err != nil {
				t.Fatal(err)
			}
			s.startOrders()

			said := s.audit(1)
			for _, difference := range []string{
				"old-1: the order's seq is 1, the reservation's is ", "old-2: the order is placed, the reservation is committed",
				"old-3: the order is placed, the reservation is released",
				s.one("lost", "placed") + ": inventory has a reservation, but there is no such order",
				s.one("lost", "rejected") + ": inventory has a reservation, but there is no such order",
			} {
				if !strings.Contains(said, difference) {
					t.Errorf("the audit does not report %q\n%s", difference, tail(said))
				}
			}
			// An operation can't settle if inventory has used its seq for another one.
			for i := 2; i < before; i += 50 {
				id := fmt.Sprint("old-", i)
				s.doUntil(id, "cancel", http.StatusAccepted)
				s.told[id] = "confirmed"
			}

			stop = func() {}
			if s.shared {
				stop = s.load("during")
			} else {
				if said, status := s.run("--repair"); status != 2 || !strings.Contains(said, "another process has this database open") {
					t.Errorf("repair while orders runs: exit %d, %s", status, said)
				}
				s.stopOrders()
			}
			repaired := s.repair()
			stop()
			for line := range strings.Lines(said) {
				id, _, difference := strings.Cut(line, ": ")
				if difference && !strings.Contains("\n"+repaired, "\n"+id+": ") && id != "orders" {
					t.Errorf("the repair does not mention %s", id)
				}
			}
			if !s.shared {
				s.startOrders()
			}
			s.wait("all intents are settled", s.settled)
			if said := s.audit(0); !strings.Contains(said, "0 orders are not settled yet\norders and reservations agree\n") {
				t.Errorf("after the repair: %s", tail(said))
			}
			s.checkStates()

			// A second repair changes nothing, and all operations work.
			if !s.shared {
				s.stopOrders()
			}
			if said := s.repair(); !strings.Contains(said, "orders and reservations agree\n") || strings.Contains(said, "repaired") {
				t.Errorf("a second repair: %s", tail(said))
			}
			if !s.shared {
				s.startOrders()
			}
			s.each("after", 60, s.history)
			for _, operation := range []string{"amend", "confirm", "cancel"} {
				s.doUntil(s.one("lost", "placed"), operation, http.StatusOK)
			}
			s.doUntil(s.one("lost", "confirmed"), "cancel", http.StatusOK)
			s.doUntil("old-2", "cancel", http.StatusOK)
			s.doUntil("old-5", "confirm", http.StatusOK)
			s.wait("all intents are settled", s.settled)
			s.audit(0)
			s.checkStates()
			s.stopOrders()
		})
	}
}

// A wrong path is an error. The repair creates no empty database.
func TestRepairCreatesNoDatabase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "orders.db")
	out, err := command(t, product, "orders", "audit", "--repair", "--database=sqlite:"+path)
	if _, missing := os.Stat(path); exitCode(err) != 2 || !strings.Contains(out, "no such file") || missing == nil {
		t.Errorf("exit %v, %v: %s", err, missing, out)
	}
}
