-- The ledger. Numbers that are unsigned in Prism (epoch, tag) are stored with the same bits.

CREATE TABLE prism.region (
    one            boolean PRIMARY KEY DEFAULT true CHECK (one),
    name           text    NOT NULL,
    epoch          bigint  NOT NULL,
    next_seq       bigint  NOT NULL DEFAULT 1 CHECK (next_seq >= 1),
    last_tag       bigint  NOT NULL DEFAULT 0,
    hlc            bigint  NOT NULL DEFAULT 0,
    schema_version integer NOT NULL
) WITH (fillfactor = 50);

-- Updated by every apply: half of each page stays free, so that the new version lies beside the
-- old one and no index entry is written (HOT).
CREATE TABLE prism.watermark (
    stream     text   PRIMARY KEY,
    key        bigint NOT NULL UNIQUE,
    epoch      bigint NOT NULL DEFAULT 0,
    applied    bigint NOT NULL DEFAULT 0,
    tag        bigint NOT NULL DEFAULT 0,
    hlc        bigint NOT NULL DEFAULT 0,
    applied_at timestamptz
) WITH (fillfactor = 50);

-- The number is what the other tables and the dispatcher call a version of a statement by; it is
-- never used again for another one.
CREATE TABLE prism.statement (
    id          integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    digest      bytea   NOT NULL UNIQUE CHECK (octet_length(digest) = 16),
    name        text    NOT NULL,
    definition  text    NOT NULL,
    params      text[]  NOT NULL,
    old_columns integer NOT NULL
);

CREATE TABLE prism.outbox (
    seq        bigint  PRIMARY KEY,
    tag        bigint  NOT NULL,
    prev_tag   bigint  NOT NULL,
    hlc        bigint  NOT NULL,
    rows       bigint  NOT NULL,
    undoes     bigint,
    xid        xid8,
    at         timestamptz NOT NULL DEFAULT now(),
    statement  integer NOT NULL,
    state      "char"  NOT NULL DEFAULT 'f' CHECK (state IN ('f', 'h')),
    request_id uuid,
    params     bytea   NOT NULL,
    old        text,
    seen       bigint[] NOT NULL
);
COMMENT ON COLUMN prism.outbox.params IS 'postcard';
COMMENT ON COLUMN prism.outbox.old IS 'JSON: text and type oid of each value';
COMMENT ON COLUMN prism.outbox.seen IS 'pairs: region key, watermark';
COMMENT ON COLUMN prism.outbox.state IS 'f: final, h: held by transaction xid';

CREATE TABLE prism.lane (
    peer        text   PRIMARY KEY,
    epoch       bigint NOT NULL DEFAULT 0,
    acked       bigint NOT NULL DEFAULT 0,
    tag         bigint NOT NULL DEFAULT 0,
    holder      text,
    lease_until timestamptz
) WITH (fillfactor = 50);

CREATE TABLE prism.rejected (
    stream     text   NOT NULL,
    epoch      bigint NOT NULL,
    seq        bigint NOT NULL,
    statement  bytea  NOT NULL,
    update     bytea  NOT NULL,
    sqlstate   text   NOT NULL,
    message    text   NOT NULL,
    at         timestamptz NOT NULL DEFAULT now(),
    resolution text,
    PRIMARY KEY (stream, epoch, seq)
);
COMMENT ON COLUMN prism.rejected.resolution IS 'null: nobody has dealt with it yet';

CREATE TABLE prism.request (
    request_id  uuid   PRIMARY KEY,
    body_digest bytea  NOT NULL,
    stream      text   NOT NULL,
    seq         bigint,
    answer      text,
    at          timestamptz NOT NULL DEFAULT now()
);
