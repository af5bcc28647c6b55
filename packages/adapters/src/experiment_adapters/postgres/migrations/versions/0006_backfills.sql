-- Backfills, and the layers they make.

CREATE TABLE backfills (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    capture_session_id uuid NOT NULL REFERENCES capture_sessions,
    run_id uuid NOT NULL REFERENCES runs,
    sensor_id uuid NOT NULL REFERENCES sensors,
    profile_id uuid NOT NULL REFERENCES conversion_profiles,
    profile_version integer NOT NULL,
    status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
    chunks_total integer NOT NULL,
    chunks_done integer NOT NULL,
    readings_converted bigint NOT NULL,
    attempts integer NOT NULL,
    error text,
    queued_at timestamptz NOT NULL,
    started_at timestamptz,
    finished_at timestamptz,
    place bigint[],
    is_swept boolean NOT NULL,
    claimed_by uuid,
    claimed_until timestamptz
) WITH (fillfactor = 50);
-- No column of an index changes with each step: progress is kept within the page, and leaves nothing behind.
CREATE INDEX backfills_of_session ON backfills (capture_session_id, created_at, id);
CREATE INDEX backfills_in_turn ON backfills (queued_at, id) WHERE status IN ('queued', 'running');
CREATE INDEX backfills_active_in_run ON backfills (run_id) WHERE status IN ('queued', 'running');
CREATE UNIQUE INDEX backfills_active ON backfills (capture_session_id, sensor_id, profile_id)
    WHERE status IN ('queued', 'running');
COMMENT ON COLUMN backfills.place IS 'Series and position of the last chunk that was seen; null at the beginning, and at the end.';
COMMENT ON COLUMN backfills.claimed_by IS 'The worker that works on it; null: nobody.';
COMMENT ON COLUMN backfills.claimed_until IS 'By the clock of this server, until when nobody else may: a worker renews it with each step.';

-- Layers that backfills have made whole, and beside them, once there is one, that of the pin. Before, the pinned
-- profile's is the only one, and has no row: all that comes in is converted by it, and it is current.

CREATE TABLE telemetry_layers (
    capture_session_id uuid NOT NULL REFERENCES capture_sessions,
    sensor_id uuid NOT NULL,
    profile_id uuid NOT NULL,
    is_current boolean NOT NULL,
    PRIMARY KEY (capture_session_id, sensor_id, profile_id)
);
CREATE UNIQUE INDEX telemetry_layers_current ON telemetry_layers (capture_session_id, sensor_id) WHERE is_current;
COMMENT ON TABLE telemetry_layers IS 'The whole physical layers of a sensor''s readings in a session: what comes late is converted for each.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON backfills, telemetry_layers TO experiment_app;
    END IF;
END
$$;
