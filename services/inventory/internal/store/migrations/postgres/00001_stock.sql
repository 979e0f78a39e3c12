-- +goose Up

CREATE TABLE levels (
    location text COLLATE "C" NOT NULL,
    sku      text COLLATE "C" NOT NULL,
    name     text NOT NULL DEFAULT '',
    on_hand  bigint NOT NULL DEFAULT 0,
    reserved bigint NOT NULL DEFAULT 0 CHECK (reserved BETWEEN 0 AND on_hand),
    -- 0 means a placeholder: the row was inserted to be locked, and the level does not exist.
    version  bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (location, sku)
) WITH (fillfactor = 50); -- hot levels are updated in place
CREATE INDEX levels_by_sku ON levels (sku);

CREATE TABLE reservations (
    id         text COLLATE "C" PRIMARY KEY,
    -- 0 means a placeholder: the row was inserted to be locked, and no seq was decided.
    seq        bigint NOT NULL,
    state      text NOT NULL CHECK (state IN ('none', 'held', 'committed', 'released', 'expired')),
    expires_at timestamptz,
    created_at timestamptz NOT NULL
) WITH (fillfactor = 80);
CREATE INDEX reservations_newest ON reservations (created_at, id);
CREATE INDEX reservations_due ON reservations (expires_at) WHERE state = 'held';

-- What a reservation holds, or last held.
CREATE TABLE reservation_lines (
    reservation_id text COLLATE "C" NOT NULL REFERENCES reservations (id),
    location       text COLLATE "C" NOT NULL,
    sku            text COLLATE "C" NOT NULL,
    quantity       bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (reservation_id, location, sku)
);

-- The decision for each seq, including rejections. Rows are never changed.
CREATE TABLE outcomes (
    reservation_id text COLLATE "C" NOT NULL REFERENCES reservations (id),
    seq            bigint NOT NULL,
    asked          text NOT NULL CHECK (asked IN ('held', 'committed', 'released')),
    fingerprint    text NOT NULL,
    problem        text,
    at             timestamptz NOT NULL,
    PRIMARY KEY (reservation_id, seq)
);

-- One entry for each change of a level. Rows are never changed.
CREATE TABLE ledger (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL,
    location       text COLLATE "C" NOT NULL,
    sku            text COLLATE "C" NOT NULL,
    on_hand_delta  bigint NOT NULL,
    reserved_delta bigint NOT NULL,
    on_hand        bigint NOT NULL,
    reserved       bigint NOT NULL,
    reason         text NOT NULL,
    ref            text COLLATE "C" NOT NULL,
    seq            bigint NOT NULL,
    UNIQUE (ref, seq, reason, location, sku)
);
CREATE INDEX ledger_by_sku ON ledger (sku, id);

CREATE TABLE adjustments (
    id               text COLLATE "C" PRIMARY KEY,
    location         text COLLATE "C" NOT NULL,
    sku              text COLLATE "C" NOT NULL,
    delta            bigint,
    on_hand          bigint,
    expected_on_hand bigint,
    reason           text NOT NULL,
    note             text NOT NULL,
    fingerprint      text NOT NULL,
    problem          text,
    level            text NOT NULL,
    created_at       timestamptz NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is never changed', TG_TABLE_NAME;
END $$;
-- +goose StatementEnd
CREATE TRIGGER ledger_stays BEFORE UPDATE OR DELETE ON ledger FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER outcomes_stay BEFORE UPDATE OR DELETE ON outcomes FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
