-- Written anew by every migration; prism.run_batch and the functions of the statements are
-- generated from prism.statement.
--
-- Constraints are immediate from the start of a batch, deferrable ones too: each update has to be
-- right by itself, since a peer may find it in another batch, and a violation must be blamed on the
-- update that made it.

CREATE OR REPLACE FUNCTION prism.apply_batch(
    p_stream text, p_epoch bigint, p_first bigint, p_prev_tag bigint,
    p_tags bigint[], p_hlc bigint, p_ids integer[], p_expect bigint[],
    p_seen_item integer[], p_seen_key bigint[], p_seen_seq bigint[], p_lenient boolean,
    p_reject_seq bigint[], p_reject_statement bytea[], p_reject_update bytea[],
    p_reject_state text[], p_reject_message text[],
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_outcome text, OUT r_epoch bigint, OUT r_applied bigint, OUT r_tag bigint,
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text,
    OUT r_drift integer[], OUT r_drift_rows bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    v_count  integer := cardinality(p_tags);
    v_behind integer;
    v_run    record;
BEGIN
    SELECT w.epoch, w.applied, w.tag INTO r_epoch, r_applied, r_tag
        FROM prism.watermark w WHERE w.stream = p_stream FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        r_outcome := 'unknown';
        RETURN;
    END IF;
    IF r_epoch <> p_epoch AND (r_epoch <> 0 OR r_applied <> 0) THEN
        r_outcome := 'epoch';
    ELSIF r_applied < p_first - 1 THEN
        r_outcome := 'gap';
    ELSIF r_applied >= p_first THEN
        r_outcome := 'overlap';
    ELSIF r_tag <> p_prev_tag THEN
        r_outcome := 'tag';
    END IF;
    IF r_outcome IS NOT NULL THEN
        RETURN;
    END IF;

    SET CONSTRAINTS ALL IMMEDIATE;
    -- Before the updates run: what arrives meanwhile must not turn a missing dependency into a
    -- verdict. From the first update on whose origin had seen more, all later ones' had.
    IF NOT p_lenient AND cardinality(p_seen_item) > 0 THEN
        SELECT min(s.item) INTO v_behind
            FROM unnest(p_seen_item, p_seen_key, p_seen_seq) AS s (item, key, seq)
            LEFT JOIN prism.watermark w ON w.key = s.key
            WHERE s.seq > coalesce(w.applied, 0);
    END IF;
    SELECT * INTO v_run FROM prism.run_batch(
        false, p_ids, p_expect, v_behind,
        p_text, p_int, p_float, p_bool, p_bytes, p_uuid, p_time);
    IF v_run.r_item IS NOT NULL THEN
        r_item := v_run.r_item;
        r_state := v_run.r_state;
        r_message := v_run.r_message;
        r_detail := v_run.r_detail;
        IF r_item >= v_behind AND r_state IN ('PR001', '23503') THEN
            r_outcome := 'behind';
        ELSE
            r_outcome := 'failed';
        END IF;
        RETURN;
    END IF;
    IF cardinality(p_reject_seq) > 0 THEN
        INSERT INTO prism.rejected (stream, epoch, seq, statement, update, sqlstate, message)
            SELECT p_stream, p_epoch, u.*
            FROM unnest(p_reject_seq, p_reject_statement, p_reject_update, p_reject_state,
                        p_reject_message) u
            ON CONFLICT DO NOTHING;
    END IF;
    r_outcome := 'done';
    r_epoch := p_epoch;
    r_applied := p_first + v_count - 1;
    r_tag := p_tags[v_count];
    r_drift := v_run.r_drift;
    r_drift_rows := v_run.r_drift_rows;
    UPDATE prism.watermark w
        SET epoch = r_epoch, applied = r_applied, tag = r_tag, hlc = greatest(w.hlc, p_hlc),
            applied_at = now()
        WHERE w.stream = p_stream;
END
$function$;

CREATE OR REPLACE FUNCTION prism.submit_batch(
    p_ids integer[], p_tags bigint[], p_params bytea[], p_requests uuid[],
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text,
    OUT r_first bigint, OUT r_prev_tag bigint, OUT r_hlc bigint,
    OUT r_rows bigint[], OUT r_old text[], OUT r_seen bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    v_count integer := cardinality(p_ids);
    v_seen_hlc bigint;
    v_run   record;
BEGIN
    SET CONSTRAINTS ALL IMMEDIATE;
    SELECT * INTO v_run FROM prism.run_batch(
        true, p_ids, NULL, NULL,
        p_text, p_int, p_float, p_bool, p_bytes, p_uuid, p_time);
    IF v_run.r_item IS NOT NULL THEN
        r_item := v_run.r_item;
        r_state := v_run.r_state;
        r_message := v_run.r_message;
        r_detail := v_run.r_detail;
        RETURN;
    END IF;
    r_rows := v_run.r_rows;
    r_old := v_run.r_old;
    -- After the statements: no less than what they can have read.
    SELECT coalesce(array_agg(v.n ORDER BY w.key, v.i) FILTER (WHERE w.applied > 0), '{}'),
           coalesce(max(w.hlc), 0)
        INTO r_seen, v_seen_hlc
        FROM prism.watermark w
        CROSS JOIN LATERAL (VALUES (1, w.key), (2, w.applied)) AS v (i, n);
    -- From here to the commit nobody else gets numbers: their order is the order of commits.
    SELECT r.next_seq, r.last_tag,
           greatest(r.hlc + 1, v_seen_hlc + 1,
                    (extract(epoch FROM clock_timestamp()) * 1000)::bigint << 16)
        INTO STRICT r_first, r_prev_tag, r_hlc
        FROM prism.region r FOR NO KEY UPDATE;
    UPDATE prism.region
        SET next_seq = next_seq + v_count, last_tag = p_tags[v_count], hlc = r_hlc + v_count - 1;
    INSERT INTO prism.outbox
            (seq, tag, prev_tag, hlc, rows, statement, request_id, params, old, seen)
        SELECT r_first + u.i - 1, u.tag, lag(u.tag, 1, r_prev_tag) OVER (ORDER BY u.i),
               r_hlc + u.i - 1, u.rows, u.id, u.request_id, u.params, u.old, r_seen
        FROM unnest(p_ids, p_tags, p_params, p_requests, r_rows, r_old)
            WITH ORDINALITY AS u (id, tag, params, request_id, rows, old, i)
        ORDER BY u.i;
END
$function$;
