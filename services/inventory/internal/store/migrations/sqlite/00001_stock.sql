-- +goose Up

-- Times are Unix milliseconds.

CREATE TABLE levels (
    location TEXT NOT NULL,
    sku      TEXT NOT NULL,
    name     TEXT NOT NULL,
    on_hand  INTEGER NOT NULL,
    reserved INTEGER NOT NULL CHECK (reserved BETWEEN 0 AND on_hand),
    version  INTEGER NOT NULL,
    PRIMARY KEY (location, sku)
) STRICT, WITHOUT ROWID;
CREATE INDEX levels_by_sku ON levels (sku);

CREATE TABLE reservations (
    id         TEXT NOT NULL PRIMARY KEY,
    seq        INTEGER NOT NULL CHECK (seq > 0),
    state      TEXT NOT NULL CHECK (state IN ('none', 'held', 'committed', 'released', 'expired')),
    expires_at INTEGER,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX reservations_newest ON reservations (created_at, id);
CREATE INDEX reservations_due ON reservations (expires_at) WHERE state = 'held';

-- What a reservation holds, or last held.
CREATE TABLE reservation_lines (
    reservation_id TEXT NOT NULL REFERENCES reservations (id),
    location       TEXT NOT NULL,
    sku            TEXT NOT NULL,
    quantity       INTEGER NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (reservation_id, location, sku)
) STRICT, WITHOUT ROWID;

-- The decision for each seq, including rejections. Rows are never changed.
CREATE TABLE outcomes (
    reservation_id TEXT NOT NULL REFERENCES reservations (id),
    seq            INTEGER NOT NULL,
    asked          TEXT NOT NULL CHECK (asked IN ('held', 'committed', 'released')),
    fingerprint    TEXT NOT NULL,
    problem        TEXT,
    at             INTEGER NOT NULL,
    PRIMARY KEY (reservation_id, seq)
) STRICT, WITHOUT ROWID;

-- One entry for each change of a level. Rows are never changed.
CREATE TABLE ledger (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    at             INTEGER NOT NULL,
    location       TEXT NOT NULL,
    sku            TEXT NOT NULL,
    on_hand_delta  INTEGER NOT NULL,
    reserved_delta INTEGER NOT NULL,
    on_hand        INTEGER NOT NULL,
    reserved       INTEGER NOT NULL,
    reason         TEXT NOT NULL,
    ref            TEXT NOT NULL,
    seq            INTEGER NOT NULL,
    UNIQUE (ref, seq, reason, location, sku)
) STRICT;
CREATE INDEX ledger_by_sku ON ledger (sku, id);

CREATE TABLE adjustments (
    id               TEXT NOT NULL PRIMARY KEY,
    location         TEXT NOT NULL,
    sku              TEXT NOT NULL,
    delta            INTEGER,
    on_hand          INTEGER,
    expected_on_hand INTEGER,
    reason           TEXT NOT NULL,
    note             TEXT NOT NULL,
    fingerprint      TEXT NOT NULL,
    problem          TEXT,
    level            TEXT NOT NULL,
    created_at       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER ledger_stays BEFORE UPDATE ON ledger BEGIN SELECT raise(ABORT, 'the ledger is never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER ledger_is_kept BEFORE DELETE ON ledger BEGIN SELECT raise(ABORT, 'the ledger is never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER outcomes_stay BEFORE UPDATE ON outcomes BEGIN SELECT raise(ABORT, 'outcomes are never changed'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER outcomes_are_kept BEFORE DELETE ON outcomes BEGIN SELECT raise(ABORT, 'outcomes are never changed'); END;
-- +goose StatementEnd
