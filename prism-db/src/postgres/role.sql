-- By default a session looks into the schema that is named like its role first. For a role called
-- prism that would be ours: the application's next CREATE TABLE would land among the ledger.
DO $role$
BEGIN
    IF current_user = 'prism' AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_db_role_setting s
        JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
        CROSS JOIN unnest(s.setconfig) AS c (setting)
        WHERE r.rolname = current_user
          AND (s.setdatabase = 0 OR d.datname = current_database())
          AND c.setting LIKE 'search\_path=%'
    ) THEN
        EXECUTE format('ALTER ROLE prism IN DATABASE %I SET search_path = public',
                       current_database());
    END IF;
END
$role$;
