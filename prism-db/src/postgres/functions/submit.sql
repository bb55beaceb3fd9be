-- Constraints are immediate from the start of a batch, deferrable ones too: each update has to be
-- right by itself, since a peer may find it in another batch, and a violation must be blamed on the
-- update that made it.
--
-- A request id that is on record is met by the insert of the request's row at the end (a unique
-- violation of that table), or, where the repetition itself fails, by looking: r_state PR003.

CREATE OR REPLACE FUNCTION prism.submit_batch(
    p_ids integer[], p_tags bigint[], p_params bytea[], p_requests uuid[], p_bodies bytea[],
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text,
    OUT r_first bigint, OUT r_prev_tag bigint, OUT r_hlc bigint,
    OUT r_rows bigint[], OUT r_old text[], OUT r_seen bigint[]
) LANGUAGE plpgsql AS $function$
DECLARE
    v_count integer := cardinality(p_ids);
    v_bytes bigint;
    v_run   record;
    v       record;
BEGIN
    PERFORM set_config('prism.applying', 'on', true);
    SET CONSTRAINTS ALL IMMEDIATE;
    SELECT * INTO v_run FROM prism.run_batch(
        true, p_ids, NULL, NULL, NULL,
        p_text, p_int, p_float, p_bool, p_bytes, p_uuid, p_time);
    IF v_run.r_item IS NOT NULL THEN
        r_item := v_run.r_item;
        r_state := v_run.r_state;
        r_message := v_run.r_message;
        r_detail := v_run.r_detail;
        PERFORM FROM prism.request q WHERE q.request_id = ANY (p_requests);
        IF FOUND THEN
            r_state := 'PR003';
        END IF;
        RETURN;
    END IF;
    r_rows := v_run.r_rows;
    r_old := v_run.r_old;
    SELECT sum(octet_length(u.params) + coalesce(octet_length(u.old), 0) + 64) INTO v_bytes
        FROM unnest(p_params, r_old) AS u (params, old);
    PERFORM prism.settle_held();
    SELECT * INTO v FROM prism.take_numbers(v_count, p_tags[v_count], v_bytes);
    r_first := v.r_first;
    r_prev_tag := v.r_prev_tag;
    r_hlc := v.r_hlc;
    r_seen := v.r_seen;
    INSERT INTO prism.request (request_id, body_digest, stream, seq)
        SELECT u.id, u.body, v.r_name, r_first + u.i - 1
        FROM unnest(p_requests, p_bodies) WITH ORDINALITY AS u (id, body, i)
        WHERE u.id IS NOT NULL;
    INSERT INTO prism.outbox
            (seq, tag, prev_tag, hlc, rows, statement, request_id, params, old, seen, bytes)
        SELECT r_first + u.i - 1, u.tag, lag(u.tag, 1, r_prev_tag) OVER (ORDER BY u.i),
               r_hlc + u.i - 1, u.rows, u.id, u.request_id, u.params, u.old, r_seen,
               v.r_bytes - octet_length(u.params) - coalesce(octet_length(u.old), 0) - 64
                   + sum(octet_length(u.params) + coalesce(octet_length(u.old), 0) + 64)
                       OVER (ORDER BY u.i ROWS UNBOUNDED PRECEDING)
        FROM unnest(p_ids, p_tags, p_params, p_requests, r_rows, r_old)
            WITH ORDINALITY AS u (id, tag, params, request_id, rows, old, i)
        ORDER BY u.i;
END
$function$;
