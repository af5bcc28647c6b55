-- How far the relays have come.

CREATE TABLE relays (
    sink text PRIMARY KEY COLLATE "C",
    place text NOT NULL,
    relayed_at timestamptz NOT NULL
) WITH (fillfactor = 50);
COMMENT ON COLUMN relays.place IS 'Behind all events that have arrived in the sink.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON relays TO experiment_app;
    END IF;
END
$$;
