-- Compaction: few sorted chunks in the place of many small ones, and marks in the place of receipts.

ALTER TABLE telemetry_batches ADD COLUMN starts_at timestamptz, ADD COLUMN position bigint;
ALTER TABLE telemetry_batches ALTER COLUMN position SET DEFAULT nextval('telemetry_positions');
COMMENT ON COLUMN telemetry_batches.starts_at IS 'The earliest timestamp of the batch; null: received before this was noted.';
COMMENT ON COLUMN telemetry_batches.position IS 'Below those of its chunks, and above those of the chunks of earlier batches.';

ALTER TABLE telemetry_series ADD COLUMN compacted_to bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN telemetry_series.compacted_to IS 'Up to this position, chunks are not merged any more.';

CREATE TABLE telemetry_overridden (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    capture_session_id uuid NOT NULL,
    series_id bigint NOT NULL,
    late boolean[] NOT NULL,
    positions bigint[] NOT NULL,
    timestamps timestamptz[] NOT NULL,
    "values" float8[] NOT NULL,
    FOREIGN KEY (capture_session_id, series_id) REFERENCES telemetry_series
);
CREATE INDEX telemetry_overridden_by_series ON telemetry_overridden (capture_session_id, series_id);
COMMENT ON TABLE telemetry_overridden IS 'Readings that were overridden by later ones, and are read by nobody; positions tell in which order they were received.';

CREATE TABLE telemetry_marks (
    id bigint GENERATED ALWAYS AS IDENTITY,
    capture_session_id uuid NOT NULL,
    sensor_id uuid NOT NULL,
    late boolean NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL,
    received_from timestamptz NOT NULL,
    received_to timestamptz NOT NULL,
    readings bigint NOT NULL,
    marks integer[] NOT NULL,
    PRIMARY KEY (capture_session_id, sensor_id, late, id)
);
ALTER TABLE telemetry_marks ALTER marks SET STORAGE EXTERNAL;
CREATE INDEX telemetry_marks_by_time ON telemetry_marks (sensor_id, ends_at);
COMMENT ON TABLE telemetry_marks IS 'What is left of receipts: 32 bits for each batch, by which the same one is known again, together with its readings.';
COMMENT ON COLUMN telemetry_marks.starts_at IS 'The earliest beginning of these batches; ends_at is the latest beginning.';
COMMENT ON COLUMN telemetry_marks.late IS 'Whether they came late.';

-- Small rows come and go all the time: their space is to be free for the next ones soon.
ALTER TABLE telemetry_batches SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE telemetry_chunks SET (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE telemetry_physical_chunks SET (autovacuum_vacuum_scale_factor = 0.05);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT ON telemetry_overridden TO experiment_app;
        GRANT SELECT, INSERT, UPDATE ON telemetry_marks TO experiment_app;
    END IF;
END
$$;
