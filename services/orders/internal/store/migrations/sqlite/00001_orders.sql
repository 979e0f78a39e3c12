-- +goose Up

-- Times are Unix milliseconds. Lines are one JSON document: they are only ever
-- read and written whole.

CREATE TABLE orders (
    id              TEXT NOT NULL PRIMARY KEY,
    state           TEXT NOT NULL CHECK (state IN ('pending', 'placed', 'rejected', 'confirmed', 'cancelled', 'expired')),
    version         INTEGER NOT NULL,
    customer        TEXT NOT NULL,
    currency        TEXT NOT NULL,
    hold_seconds    INTEGER NOT NULL,
    lines           TEXT NOT NULL,
    total           INTEGER NOT NULL CHECK (total >= 0),
    hold_expires_at INTEGER,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    seq             INTEGER NOT NULL CHECK (seq > 0),
    fingerprint     TEXT NOT NULL,
    -- The operation that was settled last.
    last_operation  TEXT,
    last_seq        INTEGER,
    last_outcome    TEXT,
    last_problem    TEXT,
    -- Until when a settler has it. It only saves work.
    leased_until    INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE INDEX orders_newest ON orders (created_at, id);
CREATE INDEX orders_by_state ON orders (state, created_at, id);
CREATE INDEX orders_by_customer ON orders (customer, created_at, id);
CREATE INDEX orders_by_hold ON orders (hold_expires_at) WHERE state = 'placed';

-- What was asked of inventory, under which seq, and how it ended.
CREATE TABLE intents (
    order_id    TEXT NOT NULL REFERENCES orders (id),
    seq         INTEGER NOT NULL,
    operation   TEXT NOT NULL CHECK (operation IN ('place', 'amend', 'confirm', 'cancel', 'give-up')),
    since       INTEGER NOT NULL,
    lines       TEXT,
    fingerprint TEXT NOT NULL,
    settled_at  INTEGER,
    outcome     TEXT CHECK (outcome IN ('done', 'rejected', 'superseded')),
    problem     TEXT,
    PRIMARY KEY (order_id, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX intents_unsettled ON intents (order_id) WHERE settled_at IS NULL;
CREATE INDEX intents_oldest ON intents (since) WHERE settled_at IS NULL;
