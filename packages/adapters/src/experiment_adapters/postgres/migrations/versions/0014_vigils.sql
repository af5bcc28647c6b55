-- Signs of life of runs.

CREATE TABLE run_vigils (
    run_id uuid PRIMARY KEY,
    alive_at timestamptz NOT NULL,
    warned_at timestamptz
) WITH (fillfactor = 50);
COMMENT ON TABLE run_vigils IS 'When runs gave their last signs of life. Not foreign keys: a batch must not wait for who holds the run.';
COMMENT ON COLUMN run_vigils.alive_at IS 'By the clock of this server, when readings, a heartbeat or a command came last.';
COMMENT ON COLUMN run_vigils.warned_at IS 'When it was warned about; null: not since its last sign of life.';

INSERT INTO run_vigils (run_id, alive_at) SELECT id, now() FROM runs WHERE status = 'running';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON run_vigils TO experiment_app;
    END IF;
END
$$;
