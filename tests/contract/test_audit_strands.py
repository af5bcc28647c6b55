"""The application's role writes to the audit log, and neither chooses a record's place nor touches where it ends."""

from collections.abc import Iterator
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

WRITE = (
    "INSERT INTO public.audit_log (id, project_id, at, actor, role, action, target_type, target_id{columns})"
    " VALUES (gen_random_uuid(), %(project_id)s, now(), 'eve', 'owner', 'create', 'run', '1'{values})"
)
PLAIN = WRITE.format(columns="", values="").encode()
STRANDS = "SELECT * FROM audit_strands ORDER BY strand"
ATTACKS = {
    "insert": "INSERT INTO audit_strands (project_id, length, hash) VALUES (gen_random_uuid(), 0, '')",
    "update": "UPDATE audit_strands SET length = 0",
    "lock": "SELECT * FROM audit_strands FOR UPDATE",
    "delete": "DELETE FROM audit_strands",
    "truncate": "TRUNCATE audit_strands",
    "merge": "MERGE INTO audit_strands t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "insert on conflict": "INSERT INTO audit_strands OVERRIDING SYSTEM VALUE SELECT * FROM audit_strands"
    " ON CONFLICT (project_id, strand) DO UPDATE SET length = 0",
    "the next number": "SELECT nextval('audit_strands_strand_seq')",
    "other code": "CREATE OR REPLACE FUNCTION audit_beginning(project_id uuid, strand bigint) RETURNS bytea"
    " LANGUAGE sql AS $$ SELECT ''::bytea $$",
    "not linked": "ALTER TABLE audit_log DISABLE TRIGGER audit_log_is_linked",
    "not noted": "ALTER TABLE audit_log DISABLE TRIGGER audit_log_heads_are_noted",
    "as a replica": "SET session_replication_role = replica",
}


@pytest.fixture(scope="module")
def owner(module_postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute(PLAIN, {"project_id": uuid4()})
        yield connection


@pytest.fixture(scope="module")
def application(module_postgres_url: str, owner: psycopg.Connection) -> Iterator[psycopg.Connection]:
    with psycopg.connect(make_conninfo(module_postgres_url, user="experiment_app"), autocommit=True) as connection:
        yield connection


def noted(owner: psycopg.Connection, project_id: UUID) -> list[tuple[object, ...]]:
    """The strands of a project: how long each is, and whether it is one record that is linked as it should be."""
    return owner.execute(
        "SELECT audit_strands.length, audit_log.sequence = 1 AND audit_log.hash = audit_strands.hash"
        " AND audit_log.hash = sha256(audit_beginning(project_id, strand) || audit_content(audit_log))"
        " FROM audit_strands LEFT JOIN audit_log USING (project_id, strand) WHERE project_id = %s",
        [project_id],
    ).fetchall()


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_application_does_not_touch_the_strands(
    application: psycopg.Connection, owner: psycopg.Connection, attack: str
) -> None:
    before = owner.execute(STRANDS).fetchall()
    assert before
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute(ATTACKS[attack].encode())
    assert owner.execute(STRANDS).fetchall() == before


@pytest.mark.parametrize(
    ("columns", "values"),
    [(", strand", ", 4711"), (", sequence", ", 4711"), (", hash", ", 'x'"), (", strand, sequence, hash", ", 1, 2, ''")],
)
def test_the_application_does_not_choose_a_records_place(
    application: psycopg.Connection, owner: psycopg.Connection, columns: str, values: str
) -> None:
    project_id = uuid4()
    application.execute(WRITE.format(columns=columns, values=values).encode(), {"project_id": project_id})
    assert noted(owner, project_id) == [(1, True)]


def test_tables_of_the_applications_own_do_not_stand_in_for_ours(
    application: psycopg.Connection, owner: psycopg.Connection
) -> None:
    # What is temporary is found first, unless a function that runs as its owner says otherwise.
    project_id = uuid4()
    application.execute("CREATE TEMPORARY TABLE audit_strands (LIKE public.audit_strands)")
    application.execute("CREATE TEMPORARY TABLE audit_log (LIKE public.audit_log)")
    try:
        application.execute("GRANT ALL ON pg_temp.audit_strands, pg_temp.audit_log TO PUBLIC")
        application.execute("INSERT INTO pg_temp.audit_strands VALUES (%s, 4711, 4711, 'no hash')", [project_id])
        application.execute(PLAIN, {"project_id": project_id})
        assert noted(owner, project_id) == [(1, True)]
    finally:
        application.execute("DROP TABLE pg_temp.audit_strands, pg_temp.audit_log")


def test_a_record_that_is_not_written_after_all_leaves_no_gap(
    application: psycopg.Connection, owner: psycopg.Connection
) -> None:
    project_id = uuid4()
    with application.transaction(force_rollback=True):
        application.execute(PLAIN, {"project_id": project_id})
    assert noted(owner, project_id) == []
    with application.transaction():
        with application.transaction(force_rollback=True):
            application.execute(PLAIN, {"project_id": project_id})
        application.execute(PLAIN, {"project_id": project_id})
    assert noted(owner, project_id) == [(1, True)]


def test_one_statement_is_one_piece_of_one_strand(owner: psycopg.Connection, module_postgres_url: str) -> None:
    # Also where others let go of theirs meanwhile.
    project_id = uuid4()
    many = (
        "INSERT INTO audit_log (id, project_id, at, actor, role, action, target_type, target_id)"
        " SELECT gen_random_uuid(), %s, now(), 'ann', 'owner', 'create', 'run', number::text"
        " FROM generate_series(1, %s) AS number"
    )
    with psycopg.connect(module_postgres_url) as first, psycopg.connect(module_postgres_url) as second:
        first.execute(many, [project_id, 3])
        second.execute(many, [project_id, 5])
        first.commit()
        second.execute(many, [project_id, 1_000])
        second.commit()
    lengths = owner.execute(
        "SELECT length FROM audit_strands WHERE project_id = %s ORDER BY strand", [project_id]
    ).fetchall()
    assert lengths == [(3,), (1_005,)]
