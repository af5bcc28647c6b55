-- Every filter of a list of runs finds an index.

-- The words of names and notes. Programs write them as the domain finds them; those of rows that are there already are
-- found by nearly the same rules until they are next written. What the default is for: programs of the version before.
ALTER TABLE runs ADD COLUMN words tsvector NOT NULL DEFAULT '';
ALTER TABLE experiments ADD COLUMN words tsvector NOT NULL DEFAULT '';
ALTER TABLE sensors ADD COLUMN words tsvector NOT NULL DEFAULT '';

CREATE FUNCTION pg_temp.words_of(content text) RETURNS tsvector
LANGUAGE sql AS $$
    SELECT array_to_tsvector(coalesce(array_agg(DISTINCT left(word, 100)), '{}'))
    FROM regexp_split_to_table(lower(normalize(content COLLATE "default", NFKC)), '[^[:alnum:]]+') AS word
    WHERE word <> ''
$$;
UPDATE runs SET words = pg_temp.words_of(concat_ws(' ', name, notes));
UPDATE experiments SET words = pg_temp.words_of(concat_ws(' ', name, description));
UPDATE sensors SET words = pg_temp.words_of(name);
DROP FUNCTION pg_temp.words_of(text);

CREATE INDEX runs_by_word ON runs USING gin (words);
CREATE INDEX experiments_by_word ON experiments USING gin (words);
CREATE INDEX sensors_by_word ON sensors USING gin (words);
CREATE INDEX runs_by_param ON runs USING gin (params jsonb_path_ops);

-- The runs of a sensor and the sessions of a profile are found without a look at the tables.
CREATE INDEX run_sensors_of_sensor ON run_sensors (sensor_id, run_id);
DROP INDEX run_sensors_by_sensor;
CREATE INDEX capture_session_pins_of_profile ON capture_session_pins (profile_id, capture_session_id);
DROP INDEX capture_session_pins_by_profile;

-- Lists are read project by project, and runs with a time apart from those without one: any index can be read
-- backwards. Each order knows the times that can be asked for, so that runs at other times are passed over unread.
DROP INDEX runs_in_time, runs_by_creation, runs_by_start, runs_by_start_backwards, runs_by_finish,
    runs_by_finish_backwards, runs_by_name;
CREATE INDEX runs_by_creation ON runs (project_id, created_at, id) INCLUDE (started_at);
CREATE INDEX runs_by_start ON runs (project_id, started_at, id) INCLUDE (created_at);
CREATE INDEX runs_by_finish ON runs (project_id, finished_at, id) INCLUDE (created_at, started_at);
CREATE INDEX runs_by_name ON runs (project_id, name, id) INCLUDE (created_at, started_at);

-- Otherwise the first lists are planned as if nothing had words or params.
ANALYZE runs, experiments, sensors, run_sensors, capture_session_pins;
