-- Applying a batch of a peer's stream. Constraints are immediate, as at the origin.
--
-- Requests are put on record at the end. If one of them is there already, the client has submitted
-- it in another region as well: then the whole call fails by the unique index, or says 'careful',
-- and is made again with p_careful, which finds out beforehand and leaves those updates out.

CREATE OR REPLACE FUNCTION prism.apply_batch(
    p_stream text, p_epoch bigint, p_first bigint, p_prev_tag bigint,
    p_tags bigint[], p_hlc bigint, p_ids integer[], p_expect bigint[],
    p_seen_item integer[], p_seen_key bigint[], p_seen_seq bigint[], p_lenient boolean,
    p_name text, p_careful boolean, p_requests uuid[], p_bodies bytea[],
    p_undo_item integer[], p_undo_seq bigint[], p_undo_request uuid[], p_undo_body bytea[],
    p_reject_seq bigint[], p_reject_statement bytea[], p_reject_update bytea[],
    p_reject_state text[], p_reject_message text[], p_reject_request uuid[],
    p_reject_told boolean[],
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_outcome text, OUT r_epoch bigint, OUT r_applied bigint, OUT r_tag bigint,
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text,
    OUT r_drift integer[], OUT r_drift_rows bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    v_count  integer := cardinality(p_tags);
    v_behind integer;
    v_leave  integer[];
    v_skip   boolean[];
    v_item   integer;
    v_run    record;
BEGIN
    -- Who waits for whom is told by the names of the waiting (held_conflicts).
    PERFORM set_config('prism.applying', 'on', true), set_config('application_name', p_name, true);
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
    IF p_careful THEN
        v_leave := prism.claim_requests(p_stream, p_first, p_requests, p_bodies);
    END IF;
    -- What was refused here, or undone already, has nothing to be undone.
    IF cardinality(p_undo_item) > 0 THEN
        -- The undo of a copy in another stream may be under way: only one of them takes effect.
        PERFORM FROM prism.request q WHERE q.request_id = ANY (p_undo_request)
            ORDER BY q.request_id FOR NO KEY UPDATE;
        PERFORM prism.await_held(p_undo_item, p_undo_request, p_undo_body);
        SELECT v_leave || array_agg(u.item) INTO v_leave
            FROM unnest(p_undo_item, p_undo_seq, p_undo_request, p_undo_body)
                AS u (item, seq, request_id, body)
            WHERE EXISTS (SELECT FROM prism.rejected j
                          WHERE j.stream = p_stream AND j.epoch = p_epoch AND j.seq = u.seq
                            AND j.resolution IS DISTINCT FROM 'retried')
               OR EXISTS (SELECT FROM prism.request q
                          WHERE q.request_id = u.request_id
                            AND coalesce(q.body_digest = u.body, true)
                            AND (q.state = 'u' OR q.state = 'r' AND q.seq IS NOT NULL));
    END IF;
    IF v_leave IS NOT NULL THEN
        v_skip := array_fill(false, ARRAY[v_count]);
        FOREACH v_item IN ARRAY v_leave LOOP
            v_skip[v_item] := true;
        END LOOP;
    END IF;
    SELECT * INTO v_run FROM prism.run_batch(
        false, p_ids, p_expect, v_behind, v_skip,
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
        IF p_careful THEN
            -- The claims go with everything else; the caller's handler knows the verdict.
            RAISE EXCEPTION USING ERRCODE = 'PR004', MESSAGE = coalesce(r_message, ''),
                DETAIL = coalesce(r_detail, ''), HINT = concat_ws(' ', r_outcome, r_item, r_state);
        END IF;
        PERFORM FROM prism.request q WHERE q.request_id = ANY (p_requests);
        IF FOUND THEN
            r_outcome := 'careful';
        END IF;
        RETURN;
    END IF;
    IF NOT p_careful THEN
        INSERT INTO prism.request (request_id, body_digest, stream, seq, state)
            SELECT u.id, u.body, p_stream, p_first + u.i - 1,
                   CASE u.statement WHEN 0 THEN 'r' ELSE 'c' END::"char"
            FROM unnest(p_requests, p_bodies, p_ids) WITH ORDINALITY AS u (id, body, statement, i)
            WHERE u.id IS NOT NULL;
    END IF;
    IF cardinality(p_reject_seq) > 0 THEN
        INSERT INTO prism.rejected
                (stream, epoch, seq, statement, update, sqlstate, message, told, resolution)
            SELECT p_stream, p_epoch, u.seq, u.statement, u.update, u.state, u.message, u.told,
                   -- An operator's skip.
                   CASE u.state WHEN 'PR020' THEN 'skipped' END
            FROM unnest(p_reject_seq, p_reject_statement, p_reject_update, p_reject_state,
                        p_reject_message, p_reject_told)
                AS u (seq, statement, update, state, message, told)
            WHERE v_skip IS NULL OR NOT v_skip[u.seq - p_first + 1]
            ON CONFLICT DO NOTHING;
        UPDATE prism.request q
            SET state = 'r',
                answer = json_build_object('sqlstate', u.state, 'message', u.message)::text
            FROM unnest(p_reject_seq, p_reject_request, p_reject_state, p_reject_message)
                AS u (seq, id, state, message)
            WHERE q.request_id = u.id AND q.stream = p_stream AND q.seq = u.seq;
    END IF;
    IF cardinality(p_undo_item) > 0 THEN
        UPDATE prism.request q SET state = 'u'
            FROM unnest(p_undo_request, p_undo_body) AS u (request_id, body)
            WHERE q.request_id = u.request_id AND coalesce(q.body_digest = u.body, true)
              AND q.state = 'c';
        UPDATE prism.rejected j SET resolution = 'undone'
            FROM unnest(p_undo_seq) AS u (seq)
            WHERE j.stream = p_stream AND j.epoch = p_epoch AND j.seq = u.seq
              AND j.resolution IS NULL;
        -- Or a copy of another stream is what was refused here.
        UPDATE prism.rejected j SET resolution = 'undone'
            FROM unnest(p_undo_request, p_undo_body) AS u (request_id, body)
            JOIN prism.request q ON q.request_id = u.request_id
                AND coalesce(q.body_digest = u.body, true) AND q.state = 'r'
            WHERE j.stream = q.stream AND j.seq = q.seq AND j.resolution IS NULL;
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

-- Puts requests on record and returns the items whose request has been executed, refused or undone
-- here under another number. An update that was refused here when it was submitted here, and has
-- been taken by another region, gets its second chance. Waits for whoever is just writing one.
CREATE OR REPLACE FUNCTION prism.claim_requests(
    p_stream text, p_first bigint, p_requests uuid[], p_bodies bytea[], OUT r_doubles integer[]
) LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO prism.request (request_id, body_digest, stream, seq)
        SELECT u.id, u.body, p_stream, p_first + u.i - 1
        FROM unnest(p_requests, p_bodies) WITH ORDINALITY AS u (id, body, i)
        WHERE u.id IS NOT NULL
        ON CONFLICT DO NOTHING;
    UPDATE prism.request q
        SET stream = p_stream, seq = p_first + u.i - 1, state = 'c', answer = NULL
        FROM unnest(p_requests, p_bodies) WITH ORDINALITY AS u (id, body, i)
        WHERE q.request_id = u.id AND q.body_digest = u.body
          AND q.state = 'r' AND q.seq IS NULL;
    PERFORM prism.await_held(array_agg(u.i::integer), array_agg(u.id), array_agg(u.body))
        FROM unnest(p_requests, p_bodies) WITH ORDINALITY AS u (id, body, i);
    SELECT array_agg(u.i::integer) INTO r_doubles
        FROM unnest(p_requests, p_bodies) WITH ORDINALITY AS u (id, body, i)
        JOIN prism.request q ON q.request_id = u.id
        WHERE coalesce(q.body_digest = u.body, true)
          AND (q.stream, q.seq) IS DISTINCT FROM (p_stream, p_first + u.i - 1);
END
$function$;

-- The same request is held in this region, and comes from another one: its outcome is waited for.
CREATE OR REPLACE FUNCTION prism.await_held(
    p_items integer[], p_requests uuid[], p_bodies bytea[]
) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_item integer;
BEGIN
    SELECT min(u.item) INTO v_item
        FROM unnest(p_items, p_requests, p_bodies) AS u (item, id, body)
        JOIN prism.request q ON q.request_id = u.id
        WHERE q.state = 'h' AND coalesce(q.body_digest = u.body, true);
    IF v_item IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'PR004', HINT = concat_ws(' ', 'failed', v_item, '55P03'),
            MESSAGE = 'the same request is held in this region; its outcome is waited for';
    END IF;
END
$function$;
