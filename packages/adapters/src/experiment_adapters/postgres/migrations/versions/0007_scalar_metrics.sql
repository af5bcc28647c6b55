-- Scalar metrics of runs: the values of a name lie in chunks, the last few of them beside what is known of the name.

CREATE TABLE scalar_metrics (
    run_id uuid NOT NULL REFERENCES runs,
    name text NOT NULL COLLATE "C",
    id bigint GENERATED ALWAYS AS IDENTITY,
    count bigint NOT NULL CHECK (count > 0),
    latest_step bigint NOT NULL,
    latest_value float8 NOT NULL,
    latest_timestamp timestamptz NOT NULL,
    steps bigint[] NOT NULL,
    "values" float8[] NOT NULL,
    timestamps timestamptz[] NOT NULL,
    PRIMARY KEY (run_id, name)
) WITH (fillfactor = 70);
COMMENT ON TABLE scalar_metrics IS 'A row per name, with the values received last, until there are enough of them for a chunk. Pages have room left for that.';
COMMENT ON COLUMN scalar_metrics.count IS 'How many values were received, those in chunks included.';
COMMENT ON COLUMN scalar_metrics.latest_step IS 'The highest step; latest_value is the value received last of those with it.';

CREATE TABLE scalar_metric_chunks (
    metric_id bigint NOT NULL,
    first_step bigint NOT NULL,
    last_step bigint NOT NULL,
    position bigint NOT NULL,
    steps bigint[] NOT NULL,
    "values" float8[] NOT NULL,
    timestamps timestamptz[] NOT NULL,
    PRIMARY KEY (metric_id, first_step, last_step, position)
);
COMMENT ON TABLE scalar_metric_chunks IS 'Values in the order of arrival. The key is also the way to read them by step.';
COMMENT ON COLUMN scalar_metric_chunks.position IS 'How many values of the name were received before the first of these.';

COMMENT ON COLUMN telemetry_chunks.squares IS 'The sum of squared deviations from the mean; of values beyond 1e140 or within 1e-120, of these divided by a power of two.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON scalar_metrics TO experiment_app;
        GRANT SELECT, INSERT ON scalar_metric_chunks TO experiment_app;
    END IF;
END
$$;
