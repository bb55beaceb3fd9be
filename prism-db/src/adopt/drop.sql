-- Everything of the application and of Prism that is in the target's database. Collected first:
-- dropping one takes others along. Extensions stay. A schema that belongs to somebody else (public,
-- as a rule) stays as well, emptied.
DO $prism_drop$
DECLARE
    v_drops text[];
    v_drop  text;
    v_left  text;
BEGIN
    WITH spaces AS (
        SELECT oid, nspname,
               nspname <> 'public' AND pg_catalog.pg_has_role(nspowner, 'USAGE') AS mine
        FROM pg_catalog.pg_namespace n
        WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
    ), extensions AS (
        SELECT classid, objid FROM pg_catalog.pg_depend WHERE deptype = 'e'
    ), drops (place, command) AS (
        SELECT 1, format('DROP SCHEMA IF EXISTS %I CASCADE', nspname)
        FROM spaces s
        WHERE mine AND NOT EXISTS (SELECT FROM extensions e WHERE e.objid = s.oid)
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extnamespace = s.oid)
        UNION ALL
        SELECT 2, format('DROP %s IF EXISTS %I.%I CASCADE',
                         CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                             WHEN 'S' THEN 'SEQUENCE' WHEN 'f' THEN 'FOREIGN TABLE'
                             WHEN 'c' THEN 'TYPE' ELSE 'TABLE' END,
                         s.nspname, c.relname)
        FROM pg_catalog.pg_class c JOIN spaces s ON s.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
          AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM extensions e WHERE e.objid = c.oid)
        UNION ALL
        SELECT 3, format('DROP ROUTINE IF EXISTS %I.%I(%s) CASCADE', s.nspname, p.proname,
                         pg_catalog.pg_get_function_identity_arguments(p.oid))
        FROM pg_catalog.pg_proc p JOIN spaces s ON s.oid = p.pronamespace
        WHERE pg_catalog.pg_has_role(p.proowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM extensions e WHERE e.objid = p.oid)
        UNION ALL
        SELECT 4, format('DROP TYPE IF EXISTS %I.%I CASCADE', s.nspname, t.typname)
        FROM pg_catalog.pg_type t JOIN spaces s ON s.oid = t.typnamespace
        WHERE t.typtype IN ('d', 'e', 'r') AND pg_catalog.pg_has_role(t.typowner, 'USAGE')
          AND NOT EXISTS (SELECT FROM extensions e WHERE e.objid = t.oid)
    )
    SELECT array_agg(command ORDER BY place, command) INTO v_drops FROM drops;
    FOREACH v_drop IN ARRAY coalesce(v_drops, '{}') LOOP
        EXECUTE v_drop;
    END LOOP;
    PERFORM pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata
        WHERE pg_catalog.pg_has_role(lomowner, 'USAGE');
    SELECT string_agg(format('%I.%I of role %I', n.nspname, c.relname,
                             pg_catalog.pg_get_userbyid(c.relowner)), ', ')
        INTO v_left
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
          AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
          AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                          WHERE d.objid = c.oid AND d.deptype = 'e');
    IF v_left IS NOT NULL THEN
        RAISE EXCEPTION 'the role % may not drop %: let the owner drop it first', current_user, v_left;
    END IF;
END
$prism_drop$;
