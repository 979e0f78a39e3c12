-- A script for pgbench on inventory's schema. It makes the row changes that
-- inventory makes for one reservation of one unit of one SKU, in one transaction.
-- So it shows what a database can do for services that merge no transactions.
-- skus is the number of SKUs.
\set n random(1, 9000000000000000000)
\set sku random(0, :skus - 1)
BEGIN;
INSERT INTO reservations (id, seq, state, expires_at, created_at)
VALUES (concat('pgbench-', :n::bigint), 1, 'held', now() + interval '30 days', now());
UPDATE levels SET reserved = reserved + 1, version = version + 1
WHERE location = 'main' AND sku = concat('sku-', lpad((:sku::bigint)::text, 5, '0')) AND on_hand - reserved >= 1
RETURNING on_hand, reserved \gset
INSERT INTO reservation_lines (reservation_id, location, sku, quantity)
VALUES (concat('pgbench-', :n::bigint), 'main', concat('sku-', lpad((:sku::bigint)::text, 5, '0')), 1);
INSERT INTO outcomes (reservation_id, seq, asked, fingerprint, at)
VALUES (concat('pgbench-', :n::bigint), 1, 'held', '1:7b0f3b6ad4a2a5a1f35ac4e9be0f5c3f8f0dd1c1b6a50ed0d5f4d8f1c9f5b1a7', now());
INSERT INTO ledger (at, location, sku, on_hand_delta, reserved_delta, on_hand, reserved, reason, ref, seq)
VALUES (now(), 'main', concat('sku-', lpad((:sku::bigint)::text, 5, '0')), 0, 1, :on_hand::bigint, :reserved::bigint, 'held',
    concat('pgbench-', :n::bigint), 1);
COMMIT;
