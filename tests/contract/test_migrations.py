"""Migrations: repeatable, safe side by side, and the same as the SQL they print."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.util import CommandError
from psycopg import sql

from experiment_adapters.postgres import migrations
from fix_postgres import with_database

SHAPE = """
SELECT format('%s.%s %s %s', table_name, column_name, data_type, is_nullable)
    FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT format('%s %s', pg_get_triggerdef(oid), tgenabled) FROM pg_trigger WHERE NOT tgisinternal
ORDER BY 1
"""


@pytest.fixture
def empty_url(postgres_server: str) -> Iterator[str]:
    name = f"empty_{uuid.uuid4().hex}"
    with psycopg.connect(postgres_server, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        yield with_database(postgres_server, name)
        server.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def shape(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [line for (line,) in connection.execute(SHAPE).fetchall()]


def test_a_second_time_changes_nothing(empty_url: str) -> None:
    migrations.upgrade(empty_url)
    first = shape(empty_url)
    assert any(line.startswith("runs.status text NO") for line in first)
    migrations.upgrade(empty_url)
    assert shape(empty_url) == first


def test_several_at_once_wait_for_each_other(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as programs:
        list(programs.map(migrations.upgrade, [empty_url] * 4))
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrations.head(),)]


def test_the_printed_sql_makes_the_same_schema(
    empty_url: str, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    migrations.as_sql()
    printed = capsys.readouterr().out
    with psycopg.connect(empty_url, autocommit=True) as connection:
        connection.execute(printed.encode())
    assert shape(empty_url) == shape(postgres_url)


def test_an_unknown_revision_is_refused(empty_url: str) -> None:
    with pytest.raises(CommandError, match="nonsense"):
        migrations.upgrade(empty_url, "nonsense")
    assert shape(empty_url) == []


def test_what_was_there_before_is_found_by_its_words(empty_url: str) -> None:
    migrations.upgrade(empty_url, "0002")
    facts = "'0195798a-8d28-7a55-9c3e-3f1a4a6c9d21', 1, now(), now(), 'ann'"
    with psycopg.connect(empty_url) as connection:
        connection.execute(
            "INSERT INTO projects (id, version, created_at, updated_at, created_by, name, raw_readers, physical_only,"
            f" future_tolerance) VALUES ({facts}, 'P', '{{}}', false, 1)".encode()
        )
        for name, description in (("Pump-2", "LEAKS, 'again'"), ("...", None)):
            connection.execute(
                "INSERT INTO experiments (id, project_id, version, created_at, updated_at, created_by, name,"
                " description, tags, metadata, status)"
                f" VALUES (gen_random_uuid(), {facts}, %s, %s, '{{}}', '{{}}', 'draft')".encode(),
                [name, description],
            )
    migrations.upgrade(empty_url)
    with psycopg.connect(empty_url) as connection:
        rows = connection.execute("SELECT name, tsvector_to_array(words) FROM experiments ORDER BY name").fetchall()
    assert rows == [("...", []), ("Pump-2", ["2", "again", "leaks", "pump"])]
