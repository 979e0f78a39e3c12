package store

// audits are the comparisons. For every ref, each adds up the expected quantity and
// the found one, and returns a row (ref, expected, found) if they differ. The queries
// use unions and not joins, so they read every row once.
var audits = []struct{ what, query string }{
	{"on hand against the ledger's sum", compareSums(`
		SELECT location || '/' || sku AS ref, on_hand_delta AS expected, 0 AS found FROM ledger
		UNION ALL SELECT location || '/' || sku, 0, on_hand FROM levels`)},
	{"reserved against the ledger's sum", compareSums(`
		SELECT location || '/' || sku AS ref, reserved_delta AS expected, 0 AS found FROM ledger
		UNION ALL SELECT location || '/' || sku, 0, reserved FROM levels`)},
	{"reserved against what is held", compareSums(`
		SELECT l.location || '/' || l.sku AS ref, l.quantity AS expected, 0 AS found
		FROM reservation_lines l JOIN reservations r ON r.id = l.reservation_id WHERE r.state = 'held'
		UNION ALL SELECT location || '/' || sku, 0, reserved FROM levels`)},
	{"a reservation's effect on reserved", compareSums(`
		SELECT r.id || ' ' || l.location || '/' || l.sku AS ref, l.quantity AS expected, 0 AS found
		FROM reservation_lines l JOIN reservations r ON r.id = l.reservation_id WHERE r.state = 'held'
		UNION ALL SELECT ref || ' ' || location || '/' || sku, 0, reserved_delta FROM ledger`)},
	{"a reservation's effect on hand", compareSums(`
		SELECT r.id || ' ' || l.location || '/' || l.sku AS ref, -l.quantity AS expected, 0 AS found
		FROM reservation_lines l JOIN reservations r ON r.id = l.reservation_id WHERE r.state = 'committed'
		UNION ALL SELECT ref || ' ' || location || '/' || sku, 0, on_hand_delta FROM ledger
		WHERE reason IN ('held', 'amended', 'committed', 'released', 'returned', 'expired')`)},
	{"the ledger's running on hand", runningSum("on_hand")},
	{"the ledger's running reserved", runningSum("reserved")},
}

func compareSums(rows string) string {
	return `SELECT ref, CAST(sum(expected) AS bigint), CAST(sum(found) AS bigint) FROM (` + rows + `) AS entries
		GROUP BY ref HAVING sum(expected) <> sum(found)`
}

// runningSum compares the quantity that each entry gives for its level with the sum of
// the level's entries up to that entry.
func runningSum(quantity string) string {
	return `SELECT location || '/' || sku || ' entry ' || id, CAST(total AS bigint), ` + quantity + ` FROM (
		SELECT *, sum(` + quantity + `_delta) OVER (PARTITION BY location, sku ORDER BY id) AS total FROM ledger) AS entries
		WHERE total <> ` + quantity
}
