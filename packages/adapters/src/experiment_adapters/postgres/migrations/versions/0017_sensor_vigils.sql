-- When sensors are looked at, so that those that have gone offline are told.

CREATE TABLE sensor_vigils (
    sensor_id uuid PRIMARY KEY REFERENCES sensors,
    look_at timestamptz,
    is_told_offline boolean NOT NULL DEFAULT false
) WITH (fillfactor = 70);
CREATE INDEX sensor_vigils_due ON sensor_vigils (look_at, sensor_id) WHERE look_at IS NOT NULL;
COMMENT ON TABLE sensor_vigils IS 'Apart from the sensors, whose indexes would have to follow. A row is written when it is looked at, every five minutes at most, and by the first sign of life after a silence.';
COMMENT ON COLUMN sensor_vigils.look_at IS 'When it is to be looked at; null: after its next sign of life.';
COMMENT ON COLUMN sensor_vigils.is_told_offline IS 'Whether the last that was told of it is sensor.offline.';

-- Those that have been silent for long already are not told now.
INSERT INTO sensor_vigils (sensor_id, look_at)
SELECT id, last_seen_at + interval '5 minutes' FROM sensors WHERE last_seen_at > now() - interval '5 minutes';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE, DELETE ON sensor_vigils TO experiment_app;
    END IF;
END
$$;
