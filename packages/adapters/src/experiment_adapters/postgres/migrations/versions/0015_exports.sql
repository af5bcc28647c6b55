-- Exports, and the parts of their files.

CREATE TABLE exports (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    scope jsonb NOT NULL,
    format text NOT NULL CHECK (format IN ('csv', 'json', 'parquet')),
    layer text NOT NULL CHECK (layer IN ('physical', 'raw')),
    claimed_role text,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled', 'expired')),
    sessions_total integer NOT NULL,
    sessions_done integer NOT NULL,
    readings_written bigint NOT NULL,
    bytes_written bigint NOT NULL,
    parts_written integer NOT NULL,
    attempts integer NOT NULL,
    error text,
    queued_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    expires_at timestamptz,
    sessions uuid[],
    place jsonb,
    is_tidy boolean NOT NULL,
    claimed_by uuid,
    claimed_until timestamptz
) WITH (fillfactor = 50);
-- No column of an index changes with each part: progress is kept within the page, and leaves nothing behind.
CREATE INDEX exports_of_project ON exports (project_id, created_at, id);
CREATE INDEX exports_in_turn ON exports (queued_at, id) WHERE status IN ('queued', 'running');
CREATE INDEX exports_expiring ON exports (expires_at, id) WHERE status = 'succeeded';
CREATE INDEX exports_untidy ON exports (finished_at, id) WHERE NOT is_tidy;
COMMENT ON COLUMN exports.claimed_role IS 'The role that the token of created_by claimed; null: none. A membership counts beside it.';
COMMENT ON COLUMN exports.sessions IS 'The capture sessions that are read, in this order; null: not decided yet.';
COMMENT ON COLUMN exports.place IS 'Sensor, signal, last timestamp and profile, of the session that is read; null: at its beginning.';
COMMENT ON COLUMN exports.is_tidy IS 'Whether nothing is left of it that is not part of its file.';
COMMENT ON COLUMN exports.claimed_by IS 'The worker that works on it; null: nobody.';
COMMENT ON COLUMN exports.claimed_until IS 'By the clock of this server, until when nobody else may: a worker renews it with each part.';

CREATE TABLE export_parts (
    export_id uuid NOT NULL REFERENCES exports,
    number integer NOT NULL,
    name text NOT NULL,
    size bigint NOT NULL,
    note bytea,
    PRIMARY KEY (export_id, number)
);
COMMENT ON TABLE export_parts IS 'Where the parts of files are: the file is what they hold, one after the other.';
COMMENT ON COLUMN export_parts.note IS 'What the end of the file has to know of this part; null: nothing.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON exports TO experiment_app;
        GRANT SELECT, INSERT, DELETE ON export_parts TO experiment_app;
    END IF;
END
$$;
