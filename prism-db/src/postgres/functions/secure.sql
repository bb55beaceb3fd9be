-- After all others. The functions of the ledger know pg_catalog only: whoever may create functions and
-- operators in a schema that a caller looks into could otherwise have them called instead, with the
-- rights of that caller (CVE-2018-1058). prism.run_batch, and with it the statements' functions, which
-- nothing else calls, look into the application's schema.
DO $secure$
DECLARE
    v_function regprocedure;
BEGIN
    FOR v_function IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = 'prism' AND p.proname <> 'run_batch' AND p.proname !~ '^[sou]_[0-9]+$'
          AND pg_has_role(p.proowner, 'USAGE')
          AND NOT coalesce(p.proconfig::text LIKE '%search_path=%', false)
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = pg_catalog, pg_temp', v_function);
    END LOOP;
END
$secure$;
