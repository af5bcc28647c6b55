-- The audit log becomes a hash chain per project, and events are written once.

CREATE FUNCTION expect_rows(changed bigint, expected bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF changed <> expected THEN
        RAISE EXCEPTION 'expected % rows, found %', expected, changed USING ERRCODE = 'XP001';
    END IF;
END
$$;
COMMENT ON FUNCTION expect_rows IS 'Fails the transaction unless a statement changed as many rows as expected: a version had moved on.';

-- A chain has as many strands as there ever were transactions that wrote to it at once. One that is about to write takes
-- a strand that nobody holds, or begins one: nobody ever waits for another. It keeps to that strand: one that lasts would
-- otherwise collect those that others let go of, and they would have to begin new ones.

CREATE TABLE audit_strands (
    project_id uuid NOT NULL,
    strand bigint GENERATED ALWAYS AS IDENTITY,
    length bigint NOT NULL,
    hash bytea NOT NULL,
    PRIMARY KEY (project_id, strand)
) WITH (fillfactor = 50);
COMMENT ON TABLE audit_strands IS 'Where each strand of a project''s chain ends: how many records it has, and the hash of the last.';

ALTER TABLE audit_log ADD COLUMN strand bigint, ADD COLUMN sequence bigint, ADD COLUMN hash bytea;

CREATE FUNCTION audit_content(record audit_log) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT convert_to(jsonb_build_array(
        record.id, record.project_id, (extract(epoch FROM record.at) * 1000000)::bigint, record.actor, record.role,
        record.request_id, record.address, record.action, record.target_type, record.target_id,
        record.before, record.after
    )::text, 'UTF8')
$$;
COMMENT ON FUNCTION audit_content IS 'What the hash of a record covers, besides the hash before it.';

CREATE FUNCTION audit_beginning(project_id uuid, strand bigint) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT sha256(convert_to(project_id || '/' || strand, 'UTF8'))
$$;
COMMENT ON FUNCTION audit_beginning IS 'What stands before the first record of a strand.';

-- They run as their owner: the application itself can neither choose a record's place nor touch the strands. While a
-- statement adds records, each follows the one before it; the head is noted once, when the statement ends: it would
-- have a row version for each record otherwise, which the next would have to walk through.
CREATE FUNCTION link_audit_record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    head audit_strands;
    link audit_log;
BEGIN
    SELECT * INTO head FROM audit_strands WHERE project_id = NEW.project_id
        ORDER BY (xmin = pg_current_xact_id()::xid) DESC, strand LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        INSERT INTO audit_strands (project_id, length, hash) VALUES (NEW.project_id, 0, '') RETURNING * INTO head;
        UPDATE audit_strands SET hash = audit_beginning(project_id, strand)
            WHERE project_id = head.project_id AND strand = head.strand RETURNING * INTO head;
    END IF;
    SELECT * INTO link FROM audit_log
        WHERE project_id = head.project_id AND strand = head.strand AND sequence > head.length
        ORDER BY sequence DESC LIMIT 1;
    NEW.strand := head.strand;
    NEW.sequence := coalesce(link.sequence, head.length) + 1;
    NEW.hash := sha256(coalesce(link.hash, head.hash) || audit_content(NEW));
    RETURN NEW;
END
$$;

CREATE FUNCTION note_audit_heads() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    tail record;
BEGIN
    FOR tail IN
        SELECT project_id, strand, min(sequence) AS first, max(sequence) AS last, count(*) AS records,
            (array_agg(hash ORDER BY sequence DESC))[1] AS hash
        FROM added GROUP BY project_id, strand
    LOOP
        UPDATE audit_strands SET length = tail.last, hash = tail.hash
            WHERE project_id = tail.project_id AND strand = tail.strand
                AND length + 1 = tail.first AND length + tail.records = tail.last;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'strand % goes on beyond its noted end: somebody has tampered with it', tail.strand
                USING ERRCODE = 'XP003';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- What they name is what is meant here, whatever tables the application's role may make for itself.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION link_audit_record() SET search_path = %I, pg_temp', current_schema());
    EXECUTE format('ALTER FUNCTION note_audit_heads() SET search_path = %I, pg_temp', current_schema());
END
$$;
-- Nor may it hang them on tables of its own: what these hold would be noted as if it were in the log.
REVOKE EXECUTE ON FUNCTION link_audit_record(), note_audit_heads() FROM PUBLIC;

-- What was written before is linked as it stands, in its order.
ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only;
DO $$
DECLARE
    link audit_log;
    head audit_strands;
BEGIN
    FOR link IN SELECT * FROM audit_log ORDER BY project_id, position LOOP
        IF head.project_id IS DISTINCT FROM link.project_id THEN
            INSERT INTO audit_strands (project_id, length, hash) VALUES (link.project_id, 0, '') RETURNING * INTO head;
            head.hash := audit_beginning(head.project_id, head.strand);
        END IF;
        head.length := head.length + 1;
        head.hash := sha256(head.hash || audit_content(link));
        UPDATE audit_log SET strand = head.strand, sequence = head.length, hash = head.hash
            WHERE position = link.position;
    END LOOP;
END
$$;
UPDATE audit_strands SET length = last.sequence, hash = last.hash
    FROM (SELECT DISTINCT ON (strand) strand, sequence, hash FROM audit_log ORDER BY strand, sequence DESC) AS last
    WHERE audit_strands.strand = last.strand;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_append_only;

ALTER TABLE audit_log ALTER strand SET NOT NULL, ALTER sequence SET NOT NULL, ALTER hash SET NOT NULL,
    ADD CONSTRAINT audit_log_links UNIQUE (project_id, strand, sequence);
CREATE TRIGGER audit_log_is_linked BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION link_audit_record();
CREATE TRIGGER audit_log_heads_are_noted AFTER INSERT ON audit_log REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION note_audit_heads();

DROP INDEX audit_log_by_project;
CREATE INDEX audit_log_by_time ON audit_log (project_id, at, id);
CREATE INDEX audit_log_by_target ON audit_log (target_id, at, id);
CREATE INDEX audit_log_by_actor ON audit_log (project_id, actor, at, id);

-- Events are what timelines and feeds are read from: written once, like the history.

ALTER TABLE outbox ADD COLUMN actor text;
COMMENT ON COLUMN outbox.actor IS 'Who made it true; null where it was not noted yet.';
CREATE INDEX outbox_by_subject ON outbox (subject, at, id);
CREATE TRIGGER outbox_is_append_only BEFORE UPDATE OR DELETE ON outbox
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER outbox_is_not_truncated BEFORE TRUNCATE ON outbox
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE outbox ENABLE ALWAYS TRIGGER outbox_is_append_only;
ALTER TABLE outbox ENABLE ALWAYS TRIGGER outbox_is_not_truncated;

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'experiment_app') THEN
        GRANT SELECT ON audit_strands TO experiment_app;
        REVOKE UPDATE, DELETE ON outbox FROM experiment_app;
    END IF;
END
$$;
