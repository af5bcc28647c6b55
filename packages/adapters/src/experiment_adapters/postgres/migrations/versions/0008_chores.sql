-- Chores: what the service does again and again without being asked.

CREATE TABLE chores (
    name text PRIMARY KEY COLLATE "C",
    due_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    done_at timestamptz,
    claimed_by uuid
) WITH (fillfactor = 50);
COMMENT ON COLUMN chores.due_at IS 'By the clock of this server, when it is to be done next; while somebody is at it, until when nobody else may be.';
COMMENT ON COLUMN chores.attempts IS 'Tries in a row that came to nothing, one that is under way included.';
COMMENT ON COLUMN chores.error IS 'Why the last try came to nothing.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT, INSERT, UPDATE ON chores TO experiment_app;
    END IF;
END
$$;
