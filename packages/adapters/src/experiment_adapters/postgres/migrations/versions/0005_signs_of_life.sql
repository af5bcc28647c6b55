-- Signs of life of sensors, by the minute.

CREATE TABLE sensor_signs_of_life (
    sensor_id uuid NOT NULL REFERENCES sensors,
    minute timestamptz NOT NULL CHECK (minute = date_trunc('minute', minute, 'UTC')),
    count integer NOT NULL CHECK (count > 0),
    PRIMARY KEY (sensor_id, minute)
) WITH (fillfactor = 70);
CREATE INDEX sensor_signs_of_life_by_age ON sensor_signs_of_life (minute);
COMMENT ON TABLE sensor_signs_of_life IS 'How many heartbeats, and batches that renewed last_seen_at, came within a minute. Pages have room left for the counts to grow in place.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON sensor_signs_of_life TO experiment_app;
    END IF;
END
$$;
