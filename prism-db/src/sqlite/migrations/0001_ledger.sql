-- The ledger of one region's database. Unsigned 64-bit numbers (epoch, tag, hlc) lie in INTEGER
-- columns bit by bit; times are microseconds since 1970, UTC, by this machine's clock.

CREATE TABLE prism_region (
    one            INTEGER PRIMARY KEY CHECK (one = 1),
    name           TEXT    NOT NULL,
    epoch          INTEGER NOT NULL,
    next_seq       INTEGER NOT NULL CHECK (next_seq > 0),
    last_tag       INTEGER NOT NULL,
    hlc            INTEGER NOT NULL,
    schema_version INTEGER NOT NULL
) STRICT;

-- What has been applied of each peer region's stream. epoch 0: nothing yet.
CREATE TABLE prism_watermark (
    region     TEXT    NOT NULL PRIMARY KEY,
    epoch      INTEGER NOT NULL DEFAULT 0,
    applied    INTEGER NOT NULL DEFAULT 0,
    tag        INTEGER NOT NULL DEFAULT 0,
    hlc        INTEGER NOT NULL DEFAULT 0,  -- latest clock of the stream, so that ours runs behind none
    applied_at INTEGER
) STRICT, WITHOUT ROWID;

-- Updates of the own stream, encoded as they travel (parameters, old values, hlc, row count, seen).
CREATE TABLE prism_outbox (
    seq        INTEGER PRIMARY KEY,
    tag        INTEGER NOT NULL,
    prev_tag   INTEGER NOT NULL,
    statement  BLOB    NOT NULL,
    body       BLOB    NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'final' CHECK (state IN ('final', 'held')),
    xid        INTEGER,
    request_id BLOB,
    at         INTEGER NOT NULL
) STRICT;

-- Delivery of the own stream to each peer region.
CREATE TABLE prism_lane (
    peer        TEXT    NOT NULL PRIMARY KEY,
    epoch       INTEGER NOT NULL DEFAULT 0,
    acked       INTEGER NOT NULL DEFAULT 0,
    tag         INTEGER NOT NULL DEFAULT 0,
    holder      TEXT,
    lease_until INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Every version of a statement that this database has been told of.
CREATE TABLE prism_statement (
    digest     BLOB    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    definition TEXT    NOT NULL,
    added_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Updates that this database refused for good. Marked when resolved, never deleted.
CREATE TABLE prism_rejected (
    stream      TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    seq         INTEGER NOT NULL,
    statement   BLOB    NOT NULL,
    body        BLOB    NOT NULL,
    sqlstate    TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    resolution  TEXT,
    resolved_at INTEGER,
    PRIMARY KEY (stream, epoch, seq)
) STRICT;

-- What became of a caller's request; also recorded at peers.
CREATE TABLE prism_request (
    request_id  BLOB    NOT NULL PRIMARY KEY,
    body_digest BLOB    NOT NULL,
    stream      TEXT    NOT NULL,
    seq         INTEGER,
    answer      TEXT,
    at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
