-- The tables of every noun. Identifiers are UUIDv7, made by the service; times are UTC.

CREATE FUNCTION expect_one(changed bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF changed <> 1 THEN
        RAISE EXCEPTION 'expected one row, found %', changed USING ERRCODE = 'XP001';
    END IF;
END
$$;
COMMENT ON FUNCTION expect_one IS 'Fails the transaction unless a statement changed exactly one row: the version had moved on.';

CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'XP002';
END
$$;

CREATE TABLE projects (
    id uuid PRIMARY KEY,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    name text NOT NULL,
    raw_readers text[] NOT NULL,
    physical_only boolean NOT NULL,
    auto_close_after float8 CHECK (auto_close_after > 0),
    future_tolerance float8 NOT NULL CHECK (future_tolerance > 0)
);

CREATE TABLE project_members (
    user_id text NOT NULL,
    project_id uuid NOT NULL REFERENCES projects,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'owner')),
    added_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, project_id) INCLUDE (role)
);
CREATE INDEX project_members_by_project ON project_members (project_id);

CREATE TABLE experiments (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    name text NOT NULL COLLATE "C",
    description text,
    experiment_type text,
    tags text[] NOT NULL,
    metadata jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('draft', 'running', 'finished', 'failed', 'archived')),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX experiments_by_creation ON experiments (project_id, created_at, id);
CREATE INDEX experiments_by_tag ON experiments USING gin (tags);

CREATE TABLE runs (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    experiment_id uuid NOT NULL REFERENCES experiments,
    name text NOT NULL COLLATE "C",
    params jsonb NOT NULL,
    tags text[] NOT NULL,
    metadata jsonb NOT NULL,
    git_sha text COLLATE "C",
    env jsonb NOT NULL,
    notes text,
    participants text[] NOT NULL,
    auto_close_after float8 CHECK (auto_close_after > 0),
    status text NOT NULL CHECK (status IN ('draft', 'running', 'finished', 'failed', 'archived')),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX runs_by_creation ON runs (project_id, created_at, id);
CREATE INDEX runs_of_experiment ON runs (experiment_id, created_at, id);
CREATE INDEX runs_by_status ON runs (project_id, status, created_at, id);
CREATE INDEX runs_in_time ON runs (created_at, id);
CREATE INDEX runs_by_start ON runs (project_id, started_at, id);
CREATE INDEX runs_by_start_backwards ON runs (project_id, started_at DESC NULLS LAST, id DESC);
CREATE INDEX runs_by_finish ON runs (project_id, finished_at, id);
CREATE INDEX runs_by_finish_backwards ON runs (project_id, finished_at DESC NULLS LAST, id DESC);
CREATE INDEX runs_by_name ON runs (project_id, name, id);
CREATE INDEX runs_by_git_sha ON runs (git_sha);
CREATE INDEX runs_by_tag ON runs USING gin (tags);
CREATE INDEX runs_by_participant ON runs USING gin (participants);
CREATE INDEX runs_running ON runs (experiment_id) WHERE status = 'running';

CREATE TABLE sensors (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    name text NOT NULL,
    sensor_type text NOT NULL,
    input_unit text NOT NULL,
    display_unit text NOT NULL,
    signals text[] NOT NULL,
    metadata jsonb NOT NULL,
    status text NOT NULL CHECK (status IN ('registered', 'active', 'inactive', 'retired')),
    last_seen_at timestamptz,
    token_hash bytea NOT NULL CONSTRAINT sensors_token_hash UNIQUE,
    previous_token_hash bytea,
    previous_token_dies_at timestamptz
);
CREATE INDEX sensors_by_creation ON sensors (project_id, created_at, id);
CREATE INDEX sensors_by_previous_token ON sensors (previous_token_hash) WHERE previous_token_hash IS NOT NULL;

CREATE TABLE sensor_projects (
    sensor_id uuid NOT NULL REFERENCES sensors,
    project_id uuid NOT NULL REFERENCES projects,
    shared_at timestamptz NOT NULL,
    shared_by text NOT NULL,
    PRIMARY KEY (sensor_id, project_id)
);
CREATE INDEX sensor_projects_by_project ON sensor_projects (project_id);

CREATE TABLE conversion_profiles (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    sensor_id uuid NOT NULL REFERENCES sensors,
    profile_version integer NOT NULL,
    kind text NOT NULL,
    parameters jsonb NOT NULL,
    input_unit text NOT NULL,
    output_unit text NOT NULL,
    valid_range jsonb,
    notes text,
    status text NOT NULL CHECK (status IN ('draft', 'published', 'retired')),
    published_at timestamptz,
    CONSTRAINT conversion_profiles_versions UNIQUE (sensor_id, profile_version)
);
CREATE UNIQUE INDEX conversion_profiles_published ON conversion_profiles (sensor_id) WHERE status = 'published';

CREATE TABLE run_sensors (
    run_id uuid NOT NULL REFERENCES runs,
    sensor_id uuid NOT NULL REFERENCES sensors,
    bound_at timestamptz NOT NULL,
    bound_by text NOT NULL,
    PRIMARY KEY (run_id, sensor_id)
);
CREATE INDEX run_sensors_by_sensor ON run_sensors (sensor_id);

CREATE TABLE capture_sessions (
    id uuid PRIMARY KEY,
    project_id uuid NOT NULL REFERENCES projects,
    version integer NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    created_by text NOT NULL,
    run_id uuid NOT NULL REFERENCES runs,
    ordinal integer NOT NULL,
    notes text,
    status text NOT NULL CHECK (status IN ('draft', 'running', 'succeeded', 'failed', 'archived')),
    started_at timestamptz,
    stopped_at timestamptz,
    deleted_at timestamptz,
    CONSTRAINT capture_sessions_ordinals UNIQUE (run_id, ordinal)
);
CREATE UNIQUE INDEX capture_sessions_running ON capture_sessions (run_id) WHERE status = 'running';

CREATE TABLE capture_session_pins (
    capture_session_id uuid NOT NULL REFERENCES capture_sessions,
    sensor_id uuid NOT NULL REFERENCES sensors,
    place integer NOT NULL,
    profile_id uuid REFERENCES conversion_profiles,
    profile_version integer,
    PRIMARY KEY (capture_session_id, sensor_id)
);
CREATE INDEX capture_session_pins_by_sensor ON capture_session_pins (sensor_id);
CREATE INDEX capture_session_pins_by_profile ON capture_session_pins (profile_id);

-- Telemetry. Every key holds the session, by which the tables can be distributed. Sensors and profiles are not
-- foreign keys here: a batch has held them when it came in, what took part in a session is never removed, and the
-- check would write to their rows for every batch.

CREATE TABLE telemetry_batches (
    sensor_id uuid NOT NULL,
    key text NOT NULL COLLATE "C",
    capture_session_id uuid NOT NULL,
    digest bytea NOT NULL,
    accepted integer NOT NULL,
    late integer NOT NULL,
    received_at timestamptz NOT NULL,
    CONSTRAINT telemetry_batches_pkey PRIMARY KEY (sensor_id, key, capture_session_id)
);
COMMENT ON TABLE telemetry_batches IS 'Receipts: what was answered to a batch, so that the same batch gets the same answer.';

CREATE TABLE telemetry_series (
    capture_session_id uuid NOT NULL REFERENCES capture_sessions,
    id bigint GENERATED ALWAYS AS IDENTITY,
    sensor_id uuid NOT NULL,
    signal text NOT NULL COLLATE "C",
    profile_id uuid,
    PRIMARY KEY (capture_session_id, id),
    CONSTRAINT telemetry_series_names UNIQUE (capture_session_id, sensor_id, signal)
);
COMMENT ON COLUMN telemetry_series.profile_id IS 'The profile version whose physical layer is current; null: raw values only.';

CREATE SEQUENCE telemetry_positions;
COMMENT ON SEQUENCE telemetry_positions IS 'The order of reception: of one timestamp, the reading in the highest position is read.';

CREATE TABLE telemetry_chunks (
    capture_session_id uuid NOT NULL,
    series_id bigint NOT NULL,
    position bigint NOT NULL DEFAULT nextval('telemetry_positions'),
    late boolean NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    count integer NOT NULL CHECK (count > 0),
    minimum float8 NOT NULL,
    maximum float8 NOT NULL,
    mean float8 NOT NULL,
    squares float8 NOT NULL,
    first float8 NOT NULL,
    last float8 NOT NULL,
    timestamps timestamptz[] NOT NULL,
    "values" float8[] NOT NULL,
    PRIMARY KEY (capture_session_id, series_id, position),
    FOREIGN KEY (capture_session_id, series_id) REFERENCES telemetry_series
);
ALTER TABLE telemetry_chunks ALTER timestamps SET STORAGE EXTERNAL, ALTER "values" SET STORAGE EXTERNAL;
CREATE INDEX telemetry_chunks_by_time ON telemetry_chunks (capture_session_id, series_id, starts_at, ends_at);
COMMENT ON TABLE telemetry_chunks IS 'Raw values: readings of one series with strictly rising timestamps, and their statistics.';
COMMENT ON COLUMN telemetry_chunks.squares IS 'The sum of squared deviations from the mean.';

CREATE TABLE telemetry_physical_chunks (
    capture_session_id uuid NOT NULL,
    series_id bigint NOT NULL,
    profile_id uuid NOT NULL,
    position bigint NOT NULL,
    count integer NOT NULL,
    minimum float8,
    maximum float8,
    mean float8,
    squares float8,
    first float8,
    last float8,
    "values" float8[] NOT NULL,
    PRIMARY KEY (capture_session_id, series_id, profile_id, position),
    FOREIGN KEY (capture_session_id, series_id, position) REFERENCES telemetry_chunks
);
ALTER TABLE telemetry_physical_chunks ALTER "values" SET STORAGE EXTERNAL;
COMMENT ON TABLE telemetry_physical_chunks IS 'Physical values of a raw chunk under one profile version; null where there is none.';

-- What happened. Rows are written once.

CREATE TABLE status_history (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    entity_type text NOT NULL,
    entity_id uuid NOT NULL,
    project_id uuid NOT NULL,
    source text NOT NULL,
    target text NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    role text NOT NULL,
    reason text
);
CREATE INDEX status_history_by_entity ON status_history (entity_id, position);
CREATE TRIGGER status_history_is_append_only BEFORE UPDATE OR DELETE ON status_history
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER status_history_is_not_truncated BEFORE TRUNCATE ON status_history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE status_history ENABLE ALWAYS TRIGGER status_history_is_append_only;
ALTER TABLE status_history ENABLE ALWAYS TRIGGER status_history_is_not_truncated;

CREATE TABLE audit_log (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL,
    project_id uuid NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    role text NOT NULL,
    request_id text,
    address text,
    action text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    before jsonb,
    after jsonb
);
CREATE INDEX audit_log_by_project ON audit_log (project_id, position);
CREATE TRIGGER audit_log_is_append_only BEFORE UPDATE OR DELETE ON audit_log
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_is_not_truncated BEFORE TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_append_only;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_not_truncated;

CREATE TABLE outbox (
    position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id uuid NOT NULL,
    project_id uuid NOT NULL,
    subject text NOT NULL,
    type text NOT NULL,
    at timestamptz NOT NULL,
    data jsonb NOT NULL
);
CREATE INDEX outbox_by_transaction ON outbox (transaction_id, position);
COMMENT ON COLUMN outbox.transaction_id IS 'With position, the order of reading: positions alone are not in the order of commits.';

CREATE TABLE idempotency_records (
    principal text NOT NULL COLLATE "C",
    key text NOT NULL COLLATE "C",
    fingerprint bytea NOT NULL,
    content bytea NOT NULL,
    answered_at timestamptz NOT NULL,
    PRIMARY KEY (principal, key)
);
CREATE INDEX idempotency_records_by_age ON idempotency_records (answered_at);

-- The application's role owns nothing and can only add to what is written once. Where the migrating role may not
-- create roles, the operator creates it beforehand, or lets the application connect as another role.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        CREATE ROLE experiment_app LOGIN;
    END IF;
EXCEPTION
    WHEN insufficient_privilege THEN
        RAISE NOTICE 'role experiment_app was not created: %', SQLERRM;
    WHEN duplicate_object OR unique_violation THEN
        NULL; -- another database of this cluster was migrated at the same moment
END
$$;
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO experiment_app', current_schema());
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO experiment_app', current_schema());
        EXECUTE format('GRANT USAGE ON ALL SEQUENCES IN SCHEMA %I TO experiment_app', current_schema());
        REVOKE UPDATE, DELETE ON status_history, audit_log FROM experiment_app;
    END IF;
END
$$;
