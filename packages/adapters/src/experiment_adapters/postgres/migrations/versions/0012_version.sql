-- The schema's version is not the application's to change: it was granted with all tables that were there at first.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM experiment_app;
    END IF;
END
$$;
