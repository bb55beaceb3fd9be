-- Requests, refusals that are told until they are heard, undo, held updates, backlog, nodes.

-- The stream's encoded bytes from its beginning, so that a backlog is a subtraction.
ALTER TABLE prism_region ADD COLUMN bytes INTEGER NOT NULL DEFAULT 0;

CREATE TABLE prism_outbox_2 (
    seq        INTEGER PRIMARY KEY,
    tag        INTEGER NOT NULL,
    prev_tag   INTEGER NOT NULL,
    statement  BLOB    NOT NULL,
    body       BLOB    NOT NULL,
    -- held: published, executed here only when every region has it. undone: it never will be.
    state      TEXT    NOT NULL DEFAULT 'final' CHECK (state IN ('final', 'held', 'undone')),
    held_until INTEGER,
    undone     INTEGER,           -- the update of this stream that undoes it, or says why not
    total      INTEGER NOT NULL,  -- bytes of the stream up to this row, with it
    request_id BLOB,
    at         INTEGER NOT NULL
) STRICT;
INSERT INTO prism_outbox_2 (seq, tag, prev_tag, statement, body, total, request_id, at)
    SELECT seq, tag, prev_tag, statement, body, sum(length(body)) OVER (ORDER BY seq), request_id, at
    FROM prism_outbox;
DROP TABLE prism_outbox;
ALTER TABLE prism_outbox_2 RENAME TO prism_outbox;
CREATE INDEX prism_outbox_held ON prism_outbox (seq) WHERE state = 'held';
UPDATE prism_region SET bytes = coalesce((SELECT max(total) FROM prism_outbox), 0);

ALTER TABLE prism_lane ADD COLUMN wanted TEXT;
ALTER TABLE prism_lane ADD COLUMN wanted_until INTEGER NOT NULL DEFAULT 0;
ALTER TABLE prism_lane ADD COLUMN stale INTEGER NOT NULL DEFAULT 0;

-- With a name for each row, also for those of the journal, which have no number in the stream.
CREATE TABLE prism_rejected_2 (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    stream      TEXT    NOT NULL,
    epoch       INTEGER NOT NULL,
    seq         INTEGER,
    statement   BLOB    NOT NULL,
    body        BLOB    NOT NULL,
    sqlstate    TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    at          INTEGER NOT NULL,
    told        INTEGER NOT NULL DEFAULT 0,  -- whether its origin knows
    resolution  TEXT,
    resolved_at INTEGER
) STRICT;
-- Older versions have told it, and left it to a person.
INSERT INTO prism_rejected_2 (stream, epoch, seq, statement, body, sqlstate, message, at, told,
                              resolution, resolved_at)
    SELECT stream, epoch, seq, statement, body, sqlstate, message, at, 1, resolution, resolved_at
    FROM prism_rejected ORDER BY at, stream, seq;
DROP TABLE prism_rejected;
ALTER TABLE prism_rejected_2 RENAME TO prism_rejected;
CREATE UNIQUE INDEX prism_rejected_update ON prism_rejected (stream, epoch, seq);
CREATE INDEX prism_rejected_untold ON prism_rejected (stream, seq) WHERE told = 0;
CREATE INDEX prism_rejected_open ON prism_rejected (id) WHERE resolution IS NULL;

-- Never written before this version.
DROP TABLE prism_request;
CREATE TABLE prism_request (
    request_id  BLOB    NOT NULL PRIMARY KEY,
    body_digest BLOB    NOT NULL,
    stream      TEXT    NOT NULL,
    seq         INTEGER,
    state       TEXT    NOT NULL CHECK (state IN ('committed', 'held', 'refused', 'undone')),
    answer      TEXT,
    at          INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX prism_request_at ON prism_request (at);

-- Updates that an operator wants skipped.
CREATE TABLE prism_skip (
    stream TEXT    NOT NULL,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    PRIMARY KEY (stream, seq)
) STRICT, WITHOUT ROWID;

-- Processes that serve as nodes of the region.
CREATE TABLE prism_node (
    name        TEXT    NOT NULL PRIMARY KEY,
    incarnation INTEGER NOT NULL,
    journal     INTEGER NOT NULL,
    beat        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
