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
-- a strand that nobody holds, or begins one: nobody ever waits for another.

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

-- It runs as its owner: the application itself can neither choose a record's place nor touch the strands.
CREATE FUNCTION link_audit_record() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    head audit_strands;
BEGIN
    SELECT * INTO head FROM audit_strands WHERE project_id = NEW.project_id
        ORDER BY strand LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        INSERT INTO audit_strands (project_id, length, hash) VALUES (NEW.project_id, 0, '') RETURNING * INTO head;
        head.hash := audit_beginning(NEW.project_id, head.strand);
    END IF;
    NEW.strand := head.strand;
    NEW.sequence := head.length + 1;
    NEW.hash := sha256(head.hash || audit_content(NEW));
    UPDATE audit_strands SET length = NEW.sequence, hash = NEW.hash
        WHERE project_id = NEW.project_id AND strand = NEW.strand;
    RETURN NEW;
END
$$;

-- What was written before is linked as it stands, in its order.
ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_append_only;
INSERT INTO audit_strands (project_id, length, hash)
    SELECT project_id, 0, '' FROM audit_log GROUP BY project_id;
UPDATE audit_strands SET hash = audit_beginning(project_id, strand);
DO $$
DECLARE
    link audit_log;
    head audit_strands;
BEGIN
    FOR link IN SELECT * FROM audit_log ORDER BY position LOOP
        SELECT * INTO head FROM audit_strands WHERE project_id = link.project_id;
        UPDATE audit_log SET strand = head.strand, sequence = head.length + 1,
            hash = sha256(head.hash || audit_content(link)) WHERE position = link.position RETURNING * INTO link;
        UPDATE audit_strands SET length = link.sequence, hash = link.hash
            WHERE project_id = link.project_id AND strand = link.strand;
    END LOOP;
END
$$;
ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_is_append_only;

ALTER TABLE audit_log ALTER strand SET NOT NULL, ALTER sequence SET NOT NULL, ALTER hash SET NOT NULL,
    ADD CONSTRAINT audit_log_links UNIQUE (project_id, strand, sequence);
CREATE TRIGGER audit_log_is_linked BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION link_audit_record();

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
