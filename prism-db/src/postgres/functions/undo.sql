-- Undoing an update of the own stream. Its row is locked first, so that many at once are one after
-- another, and so that nobody makes a held one final meanwhile.
--
-- p_again: although everybody was told that it was refused.
--
-- r_outcome: published, before, gone, an undo, final (the reason concerns a held update, this one is
-- not held any more), none (the statement has no undo), failed (the undo statement was).

CREATE OR REPLACE FUNCTION prism.undo_update(
    p_seq bigint, p_reason text, p_of_held boolean, p_again boolean, p_tag bigint, p_id integer,
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_outcome text, OUT r_seq bigint,
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text
) LANGUAGE plpgsql AS $function$
DECLARE
    v_row prism.outbox;
    v_run record;
    v     record;
BEGIN
    PERFORM set_config('prism.applying', 'on', true);
    -- In the order of prism.settle_held; the undo of one that is not held runs its statement first.
    PERFORM FROM prism.outbox o WHERE o.seq = p_seq AND o.state = 'h';
    IF FOUND THEN
        PERFORM FROM prism.region FOR NO KEY UPDATE;
    END IF;
    SELECT * INTO v_row FROM prism.outbox o WHERE o.seq = p_seq FOR UPDATE;
    -- After the lock: what its holder has done is seen.
    PERFORM FROM prism.outbox o WHERE o.undoes = p_seq AND (o.statement <> 0 OR NOT p_again);
    IF FOUND THEN
        r_outcome := 'before';
    ELSIF v_row.seq IS NULL THEN
        r_outcome := 'gone';
    ELSIF v_row.undoes IS NOT NULL THEN
        r_outcome := 'an undo';
    ELSIF v_row.state = 'h' THEN
        r_seq := prism.undo_held(p_seq, p_reason);
        r_outcome := 'published';
    ELSIF p_of_held THEN
        r_outcome := 'final';
    ELSE
        -- The undo of a copy in another stream may be under way: only one of them takes effect.
        PERFORM FROM prism.request q
            WHERE q.request_id = v_row.request_id FOR NO KEY UPDATE;
        PERFORM FROM prism.request q
            WHERE q.request_id = v_row.request_id AND q.state = 'u';
        IF FOUND THEN
            r_outcome := 'before';
        ELSIF p_id = 0 THEN
            r_outcome := 'none';
        END IF;
    END IF;
    IF r_outcome IS NOT NULL THEN
        RETURN;
    END IF;

    SET CONSTRAINTS ALL IMMEDIATE;
    SELECT * INTO v_run FROM prism.run_batch(
        true, ARRAY[p_id], NULL, NULL, NULL,
        p_text, p_int, p_float, p_bool, p_bytes, p_uuid, p_time);
    IF v_run.r_item IS NOT NULL THEN
        r_outcome := 'failed';
        r_item := v_run.r_item;
        r_state := v_run.r_state;
        r_message := v_run.r_message;
        r_detail := v_run.r_detail;
        RETURN;
    END IF;
    PERFORM prism.settle_held();
    SELECT * INTO v FROM prism.take_numbers(
        1, p_tag, coalesce(octet_length(v_row.params), octet_length(v_row.params_text::text))
            + coalesce(octet_length(v_row.old), 0) + 64);
    INSERT INTO prism.outbox (seq, tag, prev_tag, hlc, rows, undoes, statement, request_id,
                              params, params_text, old, seen, bytes)
        VALUES (v.r_first, p_tag, v.r_prev_tag, v.r_hlc, v_run.r_rows[1], p_seq, v_row.statement,
                v_row.request_id, v_row.params, v_row.params_text, v_row.old, v.r_seen, v.r_bytes);
    UPDATE prism.request q SET state = 'u', answer = p_reason
        WHERE q.request_id = v_row.request_id AND q.stream = v.r_name AND q.seq = p_seq;
    PERFORM pg_notify('prism_outbox', '');
    r_seq := v.r_first;
    r_outcome := 'published';
END
$function$;

-- The undo was refused by this database: everybody is told, by an update that names no statement.
CREATE OR REPLACE FUNCTION prism.publish_notice(
    p_seq bigint, p_tag bigint, p_params bytea
) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    v record;
BEGIN
    PERFORM prism.settle_held();
    SELECT * INTO v FROM prism.take_numbers(1, p_tag, octet_length(p_params) + 64);
    INSERT INTO prism.outbox
            (seq, tag, prev_tag, hlc, rows, undoes, statement, params, seen, bytes)
        VALUES (v.r_first, p_tag, v.r_prev_tag, v.r_hlc, 0, p_seq, 0, p_params, v.r_seen, v.r_bytes);
    PERFORM pg_notify('prism_outbox', '');
    RETURN v.r_first;
END
$function$;
