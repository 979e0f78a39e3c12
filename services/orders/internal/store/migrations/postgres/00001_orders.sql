-- +goose Up

-- Lines are one JSON document: they are only ever read and written whole.

CREATE TABLE orders (
    id              text COLLATE "C" PRIMARY KEY,
    state           text NOT NULL CHECK (state IN ('pending', 'placed', 'rejected', 'confirmed', 'cancelled', 'expired')),
    version         bigint NOT NULL,
    customer        text NOT NULL,
    currency        text NOT NULL,
    hold_seconds    bigint NOT NULL,
    lines           text NOT NULL,
    total           bigint NOT NULL CHECK (total >= 0),
    hold_expires_at timestamptz,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    seq             bigint NOT NULL CHECK (seq > 0),
    fingerprint     text NOT NULL,
    -- The operation that was settled last.
    last_operation  text,
    last_seq        bigint,
    last_outcome    text,
    last_problem    text,
    -- Until when a settler has it. It only saves work.
    leased_until    timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 70);
CREATE INDEX orders_newest ON orders (created_at, id);
CREATE INDEX orders_by_state ON orders (state, created_at, id);
CREATE INDEX orders_by_customer ON orders (customer, created_at, id);
CREATE INDEX orders_by_hold ON orders (hold_expires_at) WHERE state = 'placed';

-- What was asked of inventory, under which seq, and how it ended.
CREATE TABLE intents (
    order_id    text COLLATE "C" NOT NULL REFERENCES orders (id),
    seq         bigint NOT NULL,
    operation   text NOT NULL CHECK (operation IN ('place', 'amend', 'confirm', 'cancel', 'give-up')),
    since       timestamptz NOT NULL,
    lines       text,
    fingerprint text NOT NULL,
    settled_at  timestamptz,
    outcome     text CHECK (outcome IN ('done', 'rejected', 'superseded')),
    problem     text,
    PRIMARY KEY (order_id, seq)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX intents_unsettled ON intents (order_id) WHERE settled_at IS NULL;
CREATE INDEX intents_oldest ON intents (since) WHERE settled_at IS NULL;
