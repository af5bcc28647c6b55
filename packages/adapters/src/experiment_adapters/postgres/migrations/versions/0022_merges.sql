-- Merges leave a trace in the row of their series even where none of the merged chunks names its transaction, which those
-- do not that were merged before: whoever keeps headers of chunks in memory finds by it that they are not what they were.

CREATE OR REPLACE FUNCTION note_merged_chunks() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE telemetry_series AS series SET merged_through = greatest(series.merged_through, gone.latest)
    FROM (
        SELECT capture_session_id, series_id, max(transaction_id) AS latest FROM removed
        GROUP BY capture_session_id, series_id
    ) AS gone
    WHERE series.capture_session_id = gone.capture_session_id AND series.id = gone.series_id;
    RETURN NULL;
END
$$;

COMMENT ON COLUMN telemetry_series.merged_through IS 'The latest of the transactions whose chunks are gone: who has not seen all up to it cannot go on from where it was. Written with each merge, be it as it was: a new version of the row says that there was one.';
