"""What links audit records runs as its owner: the application can neither lead it astray nor use it for itself."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors
from psycopg.conninfo import make_conninfo

RECORD = """
INSERT INTO audit_log (id, project_id, at, actor, role, action, target_type, target_id)
    VALUES (gen_random_uuid(), gen_random_uuid(), now(), 'ann', 'owner', 'create', 'run', '1')
"""
STRANDS = "SELECT * FROM audit_strands ORDER BY project_id, strand"
FORGERIES = {
    "a table in the place of the strands": "CREATE TEMPORARY TABLE audit_strands"
    " (project_id uuid, strand bigint DEFAULT 7, length bigint, hash bytea);"
    " CREATE FUNCTION pg_temp.note() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RAISE EXCEPTION 'as %', current_user; END $$;"
    " CREATE TRIGGER note BEFORE INSERT ON pg_temp.audit_strands FOR EACH ROW EXECUTE FUNCTION pg_temp.note();",
    "a type in the place of the strands": "CREATE TYPE pg_temp.audit_strands AS (strand text);",
    "a table in the place of the log": "CREATE TEMPORARY TABLE audit_log (LIKE public.audit_log);"
    " INSERT INTO pg_temp.audit_log SELECT (record).* FROM"
    " (SELECT record FROM public.audit_log AS record) AS found;",
}
TRIGGERS = {
    "link_audit_record": "BEFORE INSERT ON own FOR EACH ROW",
    "note_audit_heads": "AFTER INSERT ON own REFERENCING NEW TABLE AS added FOR EACH STATEMENT",
}


@pytest.fixture
def owner(module_postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute(RECORD)
        yield connection


@pytest.fixture
def application(module_postgres_url: str, owner: psycopg.Connection) -> Iterator[psycopg.Connection]:
    with psycopg.connect(make_conninfo(module_postgres_url, user="experiment_app"), autocommit=True) as connection:
        yield connection


@pytest.mark.parametrize("forgery", FORGERIES)
def test_nothing_temporary_comes_in_the_place_of_the_real(
    application: psycopg.Connection, owner: psycopg.Connection, forgery: str
) -> None:
    before = owner.execute(STRANDS).fetchall()
    application.execute(FORGERIES[forgery].encode())
    application.execute(RECORD.replace("audit_log", "public.audit_log").encode())
    after = owner.execute(STRANDS).fetchall()
    assert len(after) == len(before) + 1


@pytest.mark.parametrize("function", TRIGGERS)
def test_the_application_hangs_it_on_no_table_of_its_own(
    application: psycopg.Connection, owner: psycopg.Connection, function: str
) -> None:
    before = owner.execute(STRANDS).fetchall()
    application.execute("CREATE TEMPORARY TABLE own (LIKE audit_log)")
    with pytest.raises(errors.InsufficientPrivilege, match=function):
        application.execute(f"CREATE TRIGGER own {TRIGGERS[function]} EXECUTE FUNCTION {function}()".encode())
    assert owner.execute(STRANDS).fetchall() == before


def test_a_record_in_the_place_of_another_is_not_linked(
    application: psycopg.Connection, owner: psycopg.Connection
) -> None:
    before = owner.execute(STRANDS).fetchall()
    columns = "position, id, project_id, at, actor, role, action, target_type, target_id"
    application.execute(
        f"INSERT INTO audit_log ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM audit_log LIMIT 1"
        " ON CONFLICT DO NOTHING".encode()
    )
    assert owner.execute(STRANDS).fetchall() == before
