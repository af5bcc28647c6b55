"""What happened is written once: the database itself refuses everything else, whoever tries."""

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

TABLES = ("status_history", "audit_log", "outbox")
ROWS = """
INSERT INTO status_history (entity_type, entity_id, project_id, source, target, at, actor, role)
    VALUES ('run', gen_random_uuid(), gen_random_uuid(), 'draft', 'running', now(), 'ann', 'owner');
INSERT INTO audit_log (id, project_id, at, actor, role, action, target_type, target_id)
    VALUES (gen_random_uuid(), gen_random_uuid(), now(), 'ann', 'owner', 'create', 'run', '1');
INSERT INTO outbox (id, project_id, subject, type, at, data, actor)
    VALUES (gen_random_uuid(), gen_random_uuid(), 'run/1', 'run.started', now(), '{}', 'ann');
"""
ATTACKS = {
    "update": "UPDATE {table} SET actor = 'eve'",
    "update of nothing that matters": "UPDATE {table} SET at = at",
    "delete": "DELETE FROM {table}",
    "truncate": "TRUNCATE {table}",
    "truncate with what hangs on it": "TRUNCATE {table} CASCADE",
    "merge": "MERGE INTO {table} t USING (SELECT 1) s ON true WHEN MATCHED THEN UPDATE SET actor = 'eve'",
    "merge that deletes": "MERGE INTO {table} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "insert on conflict": "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table}"
    " ON CONFLICT (position) DO UPDATE SET actor = 'eve'",
    "insert on conflict with a constraint": "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM {table}"
    " ON CONFLICT ON CONSTRAINT {table}_pkey DO UPDATE SET at = now()",
    "update within a query": "WITH changed AS (UPDATE {table} SET actor = 'eve' RETURNING 1)"
    " SELECT count(*) FROM changed",
    "cursor": "DO $$ DECLARE c CURSOR FOR SELECT * FROM {table}; BEGIN OPEN c; MOVE c;"
    " DELETE FROM {table} WHERE CURRENT OF c; END $$",
    "without triggers": "ALTER TABLE {table} DISABLE TRIGGER ALL; DELETE FROM {table}",
    "without the guard": "ALTER TABLE {table} DISABLE TRIGGER {table}_is_append_only; DELETE FROM {table}",
    "other columns": "ALTER TABLE {table} DROP COLUMN actor",
    "a rule": "CREATE RULE silent AS ON INSERT TO {table} DO INSTEAD NOTHING",
    "a partition is detached": "CREATE TABLE whole (LIKE {table}) PARTITION BY LIST (project_id);"
    " ALTER TABLE whole ATTACH PARTITION {table} DEFAULT; ALTER TABLE whole DETACH PARTITION {table};"
    " DELETE FROM {table}",
    "an heir": "CREATE TABLE heir () INHERITS ({table}); ALTER TABLE {table} NO INHERIT heir; DELETE FROM {table}",
    "as a replica": "SET session_replication_role = replica; DELETE FROM {table}",
    "drop": "DROP TABLE {table}",
    "as the owner": "SET ROLE postgres; DELETE FROM {table}",
}
BY_THE_OWNER = [
    name
    for name in ATTACKS
    # An owner may unmake a table and its guards: that is not a change of its rows by accident.
    if name not in ("without triggers", "without the guard", "other columns", "a rule", "drop")
    and name not in ("a partition is detached", "an heir")
]


@pytest.fixture(scope="module")
def owner(module_postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute(ROWS)
        yield connection


@pytest.fixture(scope="module")
def application(module_postgres_url: str, owner: psycopg.Connection) -> Iterator[psycopg.Connection]:
    with psycopg.connect(make_conninfo(module_postgres_url, user="experiment_app"), autocommit=True) as connection:
        connection.execute(ROWS)
        yield connection


def rows(owner: psycopg.Connection, table: str) -> list[tuple[object, ...]]:
    return owner.execute(sql.SQL("SELECT * FROM {} ORDER BY position").format(sql.Identifier(table))).fetchall()


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_application_changes_nothing(
    application: psycopg.Connection, owner: psycopg.Connection, table: str, attack: str
) -> None:
    before = rows(owner, table)
    assert before
    with pytest.raises((errors.InsufficientPrivilege, errors.RaiseException, errors.DatabaseError)):
        application.execute(ATTACKS[attack].format(table=table).encode())
    assert rows(owner, table) == before


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("attack", BY_THE_OWNER)
def test_the_owner_changes_nothing_by_accident(owner: psycopg.Connection, table: str, attack: str) -> None:
    before = rows(owner, table)
    with pytest.raises(errors.DatabaseError, match="append-only"):
        owner.execute(ATTACKS[attack].format(table=table).encode())
    owner.execute("RESET ROLE")
    owner.execute("RESET session_replication_role")
    assert rows(owner, table) == before


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM alembic_version",
        "INSERT INTO alembic_version VALUES ('0001')",
        "UPDATE audit_strands SET length = 0",
        "DELETE FROM audit_strands",
        "INSERT INTO audit_strands (project_id, length, hash) VALUES (gen_random_uuid(), 0, '')",
        "SELECT FROM audit_strands FOR UPDATE",
    ],
)
def test_the_application_notes_neither_versions_nor_heads(application: psycopg.Connection, attack: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        application.execute(attack.encode())


def test_they_refer_to_nothing_by_foreign_keys(owner: psycopg.Connection) -> None:
    # A cascade would delete without asking for the right to.
    found = owner.execute(
        "SELECT conname FROM pg_constraint WHERE contype = 'f' AND conrelid = ANY(%s::regclass[])", [list(TABLES)]
    ).fetchall()
    assert found == []


def test_the_application_owns_nothing(owner: psycopg.Connection) -> None:
    owned = owner.execute(
        "SELECT relname FROM pg_class JOIN pg_roles ON pg_roles.oid = relowner WHERE rolname = 'experiment_app'"
    ).fetchall()
    assert owned == []
