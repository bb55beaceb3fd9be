-- Numbers of the own stream. Whoever takes some calls settle_held first, and does so after its
-- statements have run: what they had to wait for has ended by then, and is undone before them.

-- Random, never 0.
CREATE OR REPLACE FUNCTION prism.new_tag() RETURNS bigint LANGUAGE sql VOLATILE AS $function$
    SELECT ('x' || left(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint
$function$;

-- Begins with the time (UUID version 7), so that neighbours lie together in the index.
CREATE OR REPLACE FUNCTION prism.new_request_id() RETURNS uuid LANGUAGE sql VOLATILE AS $function$
    SELECT encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) PLACING substring(
        int8send((extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3) FROM 1 FOR 6),
        52, 1), 53, 1), 'hex')::uuid
$function$;

-- From here to the commit nobody else gets numbers: their order is the order of commits.
CREATE OR REPLACE FUNCTION prism.take_numbers(
    p_count integer, p_last_tag bigint, p_bytes bigint,
    OUT r_name text, OUT r_first bigint, OUT r_prev_tag bigint, OUT r_hlc bigint,
    OUT r_bytes bigint, OUT r_seen bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    v_seen_hlc bigint;
BEGIN
    -- After the statements: no less than what they can have read. (2^62: Hlc::FOLLOWED.)
    SELECT coalesce(array_agg(v.n ORDER BY w.key, v.i) FILTER (WHERE w.applied > 0), '{}'),
           least(coalesce(max(w.hlc), 0), 4611686018427387904)
        INTO r_seen, v_seen_hlc
        FROM prism.watermark w
        CROSS JOIN LATERAL (VALUES (1, w.key), (2, w.applied)) AS v (i, n);
    SELECT r.name, r.next_seq, r.last_tag, r.bytes,
           greatest(r.hlc + 1, v_seen_hlc + 1,
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16)
        INTO STRICT r_name, r_first, r_prev_tag, r_bytes, r_hlc
        FROM prism.region r FOR NO KEY UPDATE;
    -- An application that still writes into a database which prism adopt is about to replace.
    IF r_name LIKE '% (being rebuilt)' THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = format('this database takes no updates any more: %s', r_name),
            HINT = 'wait until prism adopt has put the new one in its place, then do it again';
    END IF;
    UPDATE prism.region
        SET next_seq = next_seq + p_count, last_tag = p_last_tag, hlc = r_hlc + p_count - 1,
            bytes = bytes + p_bytes;
END
$function$;

-- Only for a transaction that another, committed one has named: its number lies below the
-- snapshot's end, unless the row came from another server (a copy of the database).
CREATE OR REPLACE FUNCTION prism.has_ended(p_xid xid8) RETURNS boolean LANGUAGE sql AS $function$
    SELECT CASE WHEN p_xid IS NULL OR p_xid >= pg_snapshot_xmax(pg_current_snapshot()) THEN true
                ELSE pg_xact_status(p_xid) IS DISTINCT FROM 'in progress' END
$function$;

-- The undo of a held update: it runs in the other regions only. Its row is locked by the caller.
CREATE OR REPLACE FUNCTION prism.undo_held(p_seq bigint, p_reason text) RETURNS bigint
LANGUAGE plpgsql AS $function$
DECLARE
    v_tag bigint := prism.new_tag();
    v_row prism.outbox;
    v     record;
BEGIN
    UPDATE prism.outbox o SET state = 'a' WHERE o.seq = p_seq RETURNING * INTO STRICT v_row;
    SELECT * INTO v FROM prism.take_numbers(
        1, v_tag, octet_length(v_row.params) + coalesce(octet_length(v_row.old), 0) + 64);
    INSERT INTO prism.outbox (seq, tag, prev_tag, hlc, rows, undoes, statement, request_id,
                              params, old, seen, bytes)
        VALUES (v.r_first, v_tag, v.r_prev_tag, v.r_hlc, -1, p_seq, v_row.statement,
                v_row.request_id, v_row.params, v_row.old, v.r_seen, v.r_bytes);
    UPDATE prism.request q SET state = 'u', answer = p_reason
        WHERE q.request_id = v_row.request_id AND q.stream = v.r_name AND q.seq = p_seq;
    PERFORM pg_notify('prism_outbox', '');
    RETURN v.r_first;
END
$function$;

-- Undoes what was held by transactions that have ended without making it final: their rows are
-- free, the next write to them must not come before the undo.
CREATE OR REPLACE FUNCTION prism.settle_held(OUT r_seqs bigint[]) LANGUAGE plpgsql AS $function$
DECLARE
    v_seq bigint;
BEGIN
    -- Whoever is just publishing one has its number already: it is waited for, and seen then.
    PERFORM FROM prism.region FOR NO KEY UPDATE;
    FOR v_seq IN
        SELECT o.seq FROM prism.outbox o WHERE o.state = 'h' AND prism.has_ended(o.xid)
        ORDER BY o.seq
    LOOP
        -- It may have become final, or have been undone, since.
        PERFORM FROM prism.outbox o WHERE o.seq = v_seq AND o.state = 'h' FOR UPDATE;
        IF FOUND THEN
            r_seqs := r_seqs || prism.undo_held(v_seq, '"Crashed"');
        END IF;
    END LOOP;
END
$function$;
