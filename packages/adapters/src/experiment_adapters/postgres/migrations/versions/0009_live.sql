-- What flows out live. What was received before is not known chunk by chunk.

ALTER TABLE telemetry_chunks ADD COLUMN transaction_id xid8;
COMMENT ON COLUMN telemetry_chunks.transaction_id IS 'The transaction that received it; null: received before this was noted, or merged of others.';
CREATE INDEX telemetry_chunks_by_reception ON telemetry_chunks (capture_session_id, transaction_id)
    WHERE transaction_id IS NOT NULL;

ALTER TABLE telemetry_series ADD COLUMN merged_through xid8;
COMMENT ON COLUMN telemetry_series.merged_through IS 'The latest of the transactions whose chunks are gone: who has not seen all up to it cannot go on from where it was.';

-- Whoever takes chunks away, in whatever way, leaves it behind.
CREATE FUNCTION note_merged_chunks() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE telemetry_series AS series SET merged_through = greatest(series.merged_through, gone.latest)
    FROM (
        SELECT capture_session_id, series_id, max(transaction_id) AS latest FROM removed
        WHERE transaction_id IS NOT NULL GROUP BY capture_session_id, series_id
    ) AS gone
    WHERE series.capture_session_id = gone.capture_session_id AND series.id = gone.series_id;
    RETURN NULL;
END
$$;
CREATE TRIGGER telemetry_chunks_merges_are_noted AFTER DELETE ON telemetry_chunks REFERENCING OLD TABLE AS removed
    FOR EACH STATEMENT EXECUTE FUNCTION note_merged_chunks();

CREATE INDEX outbox_by_project ON outbox (project_id, position);
