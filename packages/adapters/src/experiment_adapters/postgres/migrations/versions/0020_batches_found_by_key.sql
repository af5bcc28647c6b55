-- What decides on batches, as before, but for how pins and receipts are found. EXISTS is planned as a join: of a plan that
-- was made while there were few receipts, and is kept until their table is analyzed, the sensor alone may look into the
-- index. With each batch all receipts of its sensor were read then.

-- With the session, too: else this one may be taken for the primary key, while there are few pins, and all those of a
-- sensor are read.
DROP INDEX capture_session_pins_by_sensor;
CREATE INDEX capture_session_pins_by_sensor ON capture_session_pins (sensor_id, capture_session_id);

CREATE OR REPLACE FUNCTION batches_that_hold(
    sensor_ids uuid[],
    capture_session_ids uuid[],
    keys text[],
    receptions timestamptz[],
    beginnings timestamptz[],
    session_locks bigint[],
    versions bigint[],
    updates timestamptz[],
    future_tolerances float8[],
    profile_ids uuid[],
    sign_of_life_every interval,
    readings_count_every interval
) RETURNS SETOF bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    held bigint[];
BEGIN
    -- Nobody is waited for: the batches of other sensors would wait as well. What is held of a batch that is left out is
    -- let go in the end.
    SELECT array_agg(batch.place) INTO held
    FROM unnest(sensor_ids, keys, session_locks) WITH ORDINALITY AS batch (sensor_id, key, session_lock, place)
    WHERE pg_try_advisory_xact_lock(hashtextextended(batch.sensor_id::text || batch.key, 0))
        AND pg_try_advisory_xact_lock_shared(batch.session_lock);

    -- A session that runs has no layer but that of the pin. Pins, receipts and marks are asked for one by one: joined, all
    -- those of a sensor may be read.
    RETURN QUERY
    SELECT batch.place
    FROM unnest(
        sensor_ids, capture_session_ids, keys, receptions, beginnings, versions, updates, future_tolerances,
        profile_ids
    ) WITH ORDINALITY AS batch (
        sensor_id, capture_session_id, key, received_at, starts_at, version, updated_at, future_tolerance, profile_id,
        place
    )
    JOIN sensors ON sensors.id = batch.sensor_id AND sensors.version = batch.version
        AND sensors.updated_at = batch.updated_at AND sensors.last_seen_at > batch.received_at - sign_of_life_every
    JOIN projects ON projects.id = sensors.project_id AND projects.future_tolerance = batch.future_tolerance
    JOIN capture_sessions AS session ON session.id = batch.capture_session_id AND session.status = 'running'
        AND session.deleted_at IS NULL
    WHERE batch.place = ANY(held)
        AND (
            SELECT pin.profile_id IS NOT DISTINCT FROM batch.profile_id FROM capture_session_pins AS pin
            WHERE pin.capture_session_id = session.id AND pin.sensor_id = sensors.id
        )
        AND EXISTS (
            SELECT FROM run_vigils WHERE run_vigils.run_id = session.run_id AND run_vigils.warned_at IS NULL
                AND run_vigils.alive_at > clock_timestamp() - readings_count_every
        )
        AND (
            SELECT known.accepted FROM telemetry_batches AS known WHERE known.sensor_id = sensors.id
                AND known.key = batch.key AND known.capture_session_id = session.id
        ) IS NULL
        AND (
            (SELECT max(mark.ends_at) FROM telemetry_marks AS mark WHERE mark.sensor_id = sensors.id) < batch.starts_at
        ) IS NOT FALSE;
END
$$;
