-- Artifacts of runs.

CREATE TABLE artifacts (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    run_id uuid NOT NULL REFERENCES runs,
    name text NOT NULL,
    uri text NOT NULL,
    kind text,
    checksum text,
    size bigint CHECK (size >= 0),
    metadata jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'approved', 'rejected', 'revoked'))
);
CREATE INDEX artifacts_of_run ON artifacts (run_id, created_at, id);
CREATE INDEX artifacts_by_status ON artifacts (run_id, status, created_at, id);
COMMENT ON COLUMN artifacts.size IS 'In bytes, as its registrant says.';

-- Artifacts are neither edited nor removed: only their status moves, and their version with it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON artifacts TO experiment_app;
    END IF;
END
$$;
