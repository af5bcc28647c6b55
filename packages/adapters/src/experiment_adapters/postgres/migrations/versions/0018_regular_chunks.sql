-- A foreign key writes to the row that is referred to, for every chunk: to that of its series, which all batches of a
-- sensor have in common, and to the chunk that was written a moment before. A chunk takes its series from the table in
-- the statement that writes it, and its physical values come with it: what is left to see to is that no series goes.

ALTER TABLE telemetry_chunks DROP CONSTRAINT telemetry_chunks_capture_session_id_series_id_fkey;
ALTER TABLE telemetry_physical_chunks
    DROP CONSTRAINT telemetry_physical_chunks_capture_session_id_series_id_pos_fkey;
CREATE TRIGGER telemetry_series_are_never_removed BEFORE DELETE ON telemetry_series
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER telemetry_series_are_never_truncated BEFORE TRUNCATE ON telemetry_series
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Sensors that are sampled by a clock are told by two timestamps.
COMMENT ON COLUMN telemetry_chunks.timestamps IS 'Those of all readings, or the first two of more, where the others follow at the same distance: see timestamps_of.';
-- In UTC: a day is not of 24 hours where whoever asks has another time zone.
CREATE FUNCTION timestamps_of(chunk telemetry_chunks) RETURNS timestamptz[] LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN cardinality(chunk.timestamps) = chunk.count THEN chunk.timestamps ELSE ARRAY(
        SELECT (chunk.timestamps[1] AT TIME ZONE 'UTC' + place * (chunk.timestamps[2] - chunk.timestamps[1]))
            AT TIME ZONE 'UTC'
        FROM generate_series(0, chunk.count - 1) AS place ORDER BY place
    ) END
$$;
COMMENT ON FUNCTION timestamps_of IS 'The timestamps of all readings of a chunk, for who looks into the tables.';
