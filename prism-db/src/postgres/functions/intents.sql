-- prism.submit(): updates of an application's own transaction. The application has done its local
-- write itself; the update goes to the other regions if, and only if, that transaction commits.
--
-- They are numbered at COMMIT, so that the lock on the numbering is short, by a deferred trigger.
-- Both run with the rights of the schema's owner: an application needs USAGE on the schema and
-- EXECUTE on prism.submit, and nothing else.

-- A value as its type wants it, as text that does not depend on the session's settings; an error of
-- class 22 or P0 if it is no such value.
CREATE OR REPLACE FUNCTION prism.param_text(p_type text, p_value jsonb) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' AS $function$
DECLARE
    v_kind text := jsonb_typeof(p_value);
    v_text text := p_value #>> '{}';
    v_time timestamptz;
BEGIN
    IF v_kind = 'null' THEN
        RETURN NULL;
    END IF;
    CASE
        WHEN p_type = 'bool' AND v_kind = 'boolean' THEN
            RETURN v_text;
        WHEN p_type = 'int' AND v_kind IN ('number', 'string') AND v_text ~ '^[+-]?[0-9]+$' THEN
            RETURN v_text::bigint;
        WHEN p_type = 'float' AND v_kind = 'number' THEN
            -- The digits themselves: nothing is rounded twice.
            PERFORM v_text::double precision;
            RETURN v_text;
        WHEN p_type = 'decimal' AND v_kind = 'string' AND v_text ~ '^-?[0-9]+(\.[0-9]+)?$'
                AND length(ltrim(v_text, '-')) <= 1000 THEN
            RETURN v_text;
        WHEN p_type = 'text' AND v_kind = 'string' THEN
            RETURN v_text;
        WHEN p_type = 'bytes' AND v_kind = 'string' THEN
            RETURN encode(decode(v_text, 'base64'), 'hex');
        WHEN p_type = 'uuid' AND v_kind = 'string' THEN
            RETURN v_text::uuid;
        WHEN p_type = 'timestamp' AND v_kind = 'string' AND v_text ~*
                '^\d{4}-\d\d-\d\d[t ]\d\d:\d\d:\d\d(\.\d+)?(z|[+-]\d\d:\d\d)$' THEN
            v_time := v_text::timestamptz;
            IF v_time >= '0001-01-01' AND v_time < '10000-01-01' THEN
                RETURN extract(epoch FROM date_trunc('second', v_time))::bigint * 1000000
                    + extract(microseconds FROM v_time)::bigint % 1000000;
            END IF;
        WHEN p_type = 'json' THEN
            -- What the other side reads: numbers of 64 bits, and not nested without end.
            IF NOT jsonb_path_exists(p_value, '$.** ? (@.type() == "number"
                                              && (@ > 1.7e308 || @ < -1.7e308))')
                    AND NOT jsonb_path_exists(p_value, '$.**{100}') THEN
                RETURN p_value;
            END IF;
        ELSE
            NULL;
    END CASE;
    RAISE EXCEPTION 'no %', p_type;
END
$function$;

-- What parameter $index+1 of type gen_uuid is in every region that is given the request, by HTTP or
-- by SQL. The application needs it for its own write. (A parameter of type gen_now is now().)
CREATE OR REPLACE FUNCTION prism.generated_uuid(request_id uuid, index integer) RETURNS uuid
LANGUAGE sql IMMUTABLE AS $function$
    SELECT encode(set_byte(set_byte(h.bytes, 6, get_byte(h.bytes, 6) & 15 | 64),
                           8, get_byte(h.bytes, 8) & 63 | 128), 'hex')::uuid
    FROM (SELECT substr(sha256(convert_to('prism gen_uuid 1', 'UTF8') || uuid_send($1)
                               || int2send($2::smallint)), 1, 16)) AS h (bytes)
$function$;

CREATE OR REPLACE FUNCTION prism.submit(
    statement text, params jsonb, request_id uuid DEFAULT NULL, old jsonb DEFAULT NULL
) RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1 AS $function$
#variable_conflict use_column
DECLARE
    v_name    text := $1;
    v_request uuid := coalesce($3, prism.new_request_id());
    v_row     record;
    v_given   integer;
    v_wanted  integer;
    v_next    integer := 0;
    v_type    text;
    v_texts   text[] := '{}';
    v_olds    text;
    v_bytes   bigint;
    v_expects CONSTANT jsonb := '{
        "bool": "true or false", "int": "a whole number of 64 bits, or a string of one",
        "float": "a finite number", "decimal": "a decimal number in a string, such as \"12.50\"",
        "text": "a string", "bytes": "a string of base64", "uuid": "a uuid in a string",
        "timestamp": "an RFC 3339 time in a string, such as \"2026-01-31T12:00:00Z\"",
        "json": "JSON with numbers of 64 bits, nested less than 100 deep"}';
BEGIN
    IF current_setting('prism.applying', true) = 'on' THEN
        RAISE EXCEPTION USING ERRCODE = '55000',
            MESSAGE = 'prism.submit() was called while Prism itself writes (by a trigger?)',
            HINT = 'updates would go round in circles; let the trigger do nothing WHEN '
                || 'current_setting(''prism.applying'', true) = ''on''';
    END IF;
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = '25001',
            MESSAGE = 'prism.submit() needs a transaction that is READ COMMITTED, this one is '
                || upper(current_setting('transaction_isolation')),
            HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED';
    END IF;
    SELECT s.id, s.params, s.old_columns INTO v_row
        FROM prism.statement s WHERE s.name = v_name AND s.current;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = '42704',
            MESSAGE = format('statement %L is not in the catalogue', v_name),
            HINT = 'add it to prism.toml and run prism migrate for every region';
    END IF;
    IF $2 IS NULL OR jsonb_typeof($2) <> 'array' THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('statement %L: the parameters are no JSON array', v_name),
            HINT = 'write them in order, such as ''["steve", 1]''';
    END IF;
    v_given := jsonb_array_length($2);
    SELECT count(*) INTO v_wanted FROM unnest(v_row.params) AS t (name) WHERE t.name NOT LIKE 'gen\_%';
    IF v_given <> v_wanted THEN
        RAISE EXCEPTION USING ERRCODE = '22023',
            MESSAGE = format('statement %L takes %s parameter(s), got %s', v_name, v_wanted, v_given),
            HINT = 'their types: ' || array_to_string(v_row.params, ', ')
                || ' (gen_uuid and gen_now are filled in)';
    END IF;
    FOREACH v_type IN ARRAY v_row.params LOOP
        IF v_type = 'gen_uuid' THEN
            v_texts := v_texts || prism.generated_uuid(v_request, cardinality(v_texts))::text;
        ELSIF v_type = 'gen_now' THEN
            v_texts := v_texts || prism.param_text('timestamp', to_jsonb(to_char(
                now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')));
        ELSE
            BEGIN
                v_texts := v_texts || prism.param_text(v_type, $2 -> v_next);
            EXCEPTION WHEN data_exception OR raise_exception THEN
                RAISE EXCEPTION USING ERRCODE = '22023',
                    MESSAGE = format('statement %L, parameter %s of %s: expected %s (%s), got %s',
                        v_name, v_next + 1, v_wanted, v_type, v_expects ->> v_type,
                        left(($2 -> v_next)::text, 40));
            END;
            v_next := v_next + 1;
        END IF;
    END LOOP;
    IF v_row.old_columns > 0 THEN
        IF $4 IS NULL OR jsonb_typeof($4) <> 'array' OR jsonb_array_length($4) <> v_row.old_columns
        THEN
            RAISE EXCEPTION USING ERRCODE = '22023',
                MESSAGE = format('statement %L needs its %s old value(s), for its undo', v_name,
                    v_row.old_columns),
                HINT = 'read them before your own write and give them as old => ''[...]'', in the '
                    || 'order of the columns of its query `old`; null where there was no row';
        END IF;
        SELECT json_agg(p.part ORDER BY e.i, p.n)::text INTO v_olds
            FROM jsonb_array_elements($4) WITH ORDINALITY AS e (value, i)
            CROSS JOIN LATERAL (VALUES (1, to_json(e.value #>> '{}')), (2, to_json(
                CASE jsonb_typeof(e.value) WHEN 'boolean' THEN 16 WHEN 'number' THEN 1700 ELSE 25 END
            ))) AS p (n, part);
    END IF;
    SELECT coalesce(sum(octet_length(t.value) + 6), 0) + coalesce(octet_length(v_olds), 0)
        INTO v_bytes FROM unnest(v_texts) AS t (value);
    -- The format's limit, with room for what is added at COMMIT and for the undo.
    IF v_bytes > 256 * 1024 - 2048 THEN
        RAISE EXCEPTION USING ERRCODE = '54000',
            MESSAGE = format('statement %L: the update is about %s bytes long, the limit is 256 KiB',
                v_name, v_bytes);
    END IF;
    INSERT INTO prism.intent (xid, tag, statement, request_id, params_text, old, bytes)
        VALUES (pg_current_xact_id(), prism.new_tag(), v_row.id, v_request, v_texts, v_olds, v_bytes);
    RETURN v_request;
END
$function$;
COMMENT ON FUNCTION prism.submit IS
    'Sends an update to all other regions if the transaction commits; returns its request id.';
REVOKE EXECUTE ON FUNCTION prism.submit FROM PUBLIC;

-- At COMMIT: all updates of the transaction at once.
CREATE OR REPLACE FUNCTION prism.number_intents() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
-- A plan that was made while the table was small would read all of it for each row of a large
-- transaction, with the numbering locked.
SET enable_seqscan = off AS $function$
DECLARE
    v_count  integer;
    v_bytes  bigint;
    v_last   bigint;
    v_twice  uuid;
    v        record;
BEGIN
    -- It is called for each row, and the first call numbers all.
    PERFORM FROM prism.intent i WHERE i.id = NEW.id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- Peers hear of it as soon as it is committed: a crash must not take it back here only.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    SELECT count(*), sum(i.bytes + 64), (array_agg(i.tag ORDER BY i.id DESC))[1]
        INTO v_count, v_bytes, v_last
        FROM prism.intent i WHERE i.xid = pg_current_xact_id();
    PERFORM prism.settle_held();
    SELECT * INTO v FROM prism.take_numbers(v_count, v_last, v_bytes);
    BEGIN
        INSERT INTO prism.request (request_id, stream, seq)
            SELECT i.request_id, v.r_name, v.r_first - 1 + row_number() OVER (ORDER BY i.id)
            FROM prism.intent i WHERE i.xid = pg_current_xact_id();
    EXCEPTION WHEN unique_violation THEN
        SELECT i.request_id INTO v_twice
            FROM prism.intent i JOIN prism.request q USING (request_id)
            WHERE i.xid = pg_current_xact_id() LIMIT 1;
        IF v_twice IS NULL THEN
            SELECT min(i.request_id::text)::uuid INTO v_twice
                FROM prism.intent i WHERE i.xid = pg_current_xact_id()
                GROUP BY i.request_id HAVING count(*) > 1 LIMIT 1;
            RAISE EXCEPTION USING ERRCODE = '23505',
                MESSAGE = format('this transaction submits the request %s twice', v_twice),
                HINT = 'give each update an id of its own; nothing was committed';
        END IF;
        RAISE EXCEPTION USING ERRCODE = '23505',
            MESSAGE = format('the request %s has been submitted before', v_twice),
            HINT = 'this transaction has been committed before, then nothing is to be done; '
                || 'otherwise give the request another id';
    END;
    INSERT INTO prism.outbox (seq, tag, prev_tag, hlc, rows, statement, request_id, params_text, old,
                              seen, bytes)
        SELECT v.r_first - 1 + row_number() OVER w, i.tag, lag(i.tag, 1, v.r_prev_tag) OVER w,
               v.r_hlc - 1 + row_number() OVER w, -1, i.statement, i.request_id, i.params_text,
               i.old, v.r_seen, v.r_bytes - i.bytes - 64 + sum(i.bytes + 64) OVER w
        FROM prism.intent i WHERE i.xid = pg_current_xact_id()
        WINDOW w AS (ORDER BY i.id ROWS UNBOUNDED PRECEDING);
    DELETE FROM prism.intent i WHERE i.xid = pg_current_xact_id();
    PERFORM pg_notify('prism_outbox', '');
    RETURN NULL;
END
$function$;
REVOKE EXECUTE ON FUNCTION prism.number_intents FROM PUBLIC;

DO $trigger$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_trigger
                   WHERE tgname = 'number_intents' AND tgrelid = 'prism.intent'::regclass) THEN
        CREATE CONSTRAINT TRIGGER number_intents AFTER INSERT ON prism.intent
            DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION prism.number_intents();
    END IF;
END
$trigger$;
