-- Held updates. The statement runs in a transaction that stays open; another connection publishes
-- it; the open transaction's own commit makes it final.

CREATE OR REPLACE FUNCTION prism.held_begin(
    p_id integer, p_request uuid,
    p_text text[], p_int bigint[], p_float double precision[], p_bool boolean[],
    p_bytes bytea[], p_uuid uuid[], p_time timestamptz[],
    OUT r_item integer, OUT r_state text, OUT r_message text, OUT r_detail text,
    OUT r_rows bigint, OUT r_old text, OUT r_xid text, OUT r_backend integer
) LANGUAGE plpgsql AS $function$
DECLARE
    v_run record;
BEGIN
    PERFORM set_config('prism.applying', 'on', true);
    PERFORM FROM prism.request q WHERE q.request_id = p_request;
    IF FOUND THEN
        r_item := 1;
        r_state := 'PR003';
        RETURN;
    END IF;
    SET CONSTRAINTS ALL IMMEDIATE;
    SELECT * INTO v_run FROM prism.run_batch(
        true, ARRAY[p_id], NULL, NULL, NULL,
        p_text, p_int, p_float, p_bool, p_bytes, p_uuid, p_time);
    IF v_run.r_item IS NOT NULL THEN
        r_item := v_run.r_item;
        r_state := v_run.r_state;
        r_message := v_run.r_message;
        r_detail := v_run.r_detail;
        PERFORM FROM prism.request q WHERE q.request_id = p_request;
        IF FOUND THEN
            r_state := 'PR003';
        END IF;
        RETURN;
    END IF;
    r_rows := v_run.r_rows[1];
    r_old := v_run.r_old[1];
    -- Assigned even if no row was written: its end must be known.
    r_xid := pg_current_xact_id()::text;
    r_backend := pg_backend_pid();
END
$function$;

CREATE OR REPLACE FUNCTION prism.held_publish(
    p_id integer, p_tag bigint, p_params bytea, p_old text, p_request uuid, p_body bytea,
    p_rows bigint, p_xid text, p_backend integer
) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    v record;
BEGIN
    PERFORM prism.settle_held();
    SELECT * INTO v FROM prism.take_numbers(
        1, p_tag, octet_length(p_params) + coalesce(octet_length(p_old), 0) + 64);
    -- With the numbering locked: as long as it lives, nobody has written behind it and comes before.
    IF pg_xact_status(p_xid::xid8) IS DISTINCT FROM 'in progress' THEN
        RAISE EXCEPTION USING ERRCODE = '40001',
            MESSAGE = 'the held transaction has ended before it was published';
    END IF;
    INSERT INTO prism.request (request_id, body_digest, stream, seq, state)
        VALUES (p_request, p_body, v.r_name, v.r_first, 'h');
    INSERT INTO prism.outbox (seq, tag, prev_tag, hlc, rows, xid, backend, state, statement,
                              request_id, params, old, seen, bytes)
        VALUES (v.r_first, p_tag, v.r_prev_tag, v.r_hlc, p_rows, p_xid::xid8, p_backend, 'h', p_id,
                p_request, p_params, p_old, v.r_seen, v.r_bytes);
    PERFORM pg_notify('prism_outbox', '');
    RETURN v.r_first;
END
$function$;

-- Inside the held transaction; false: it is undone, or this is another transaction.
CREATE OR REPLACE FUNCTION prism.held_finish(p_seq bigint) RETURNS boolean
LANGUAGE plpgsql AS $function$
DECLARE
    v_request uuid;
BEGIN
    UPDATE prism.outbox o SET state = 'f'
        WHERE o.seq = p_seq AND o.state = 'h' AND o.xid = pg_current_xact_id_if_assigned()
        RETURNING o.request_id INTO v_request;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE prism.request q SET state = 'c' WHERE q.request_id = v_request AND q.state = 'h';
    RETURN true;
END
$function$;
