"""Migrations: repeatable, safe side by side, and the same as the SQL they print."""

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from alembic.util import CommandError
from psycopg import sql
from psycopg.errors import UndefinedTable

from experiment_adapters.postgres import migrations
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from fix_postgres import with_database
from keeping import ask

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


@pytest.mark.covers("migrate")
def test_a_second_time_changes_nothing(empty_url: str) -> None:
    migrations.upgrade(empty_url)
    first = shape(empty_url)
    assert any(line.startswith("runs.status text NO") for line in first)
    migrations.upgrade(empty_url)
    assert shape(empty_url) == first


@pytest.mark.covers("migrate")
def test_several_at_once_wait_for_each_other(empty_url: str) -> None:
    with ThreadPoolExecutor(4) as programs:
        list(programs.map(migrations.upgrade, [empty_url] * 4))
    with psycopg.connect(empty_url) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(migrations.head(),)]


@pytest.mark.covers("migrate")
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


AUDIT = (
    "INSERT INTO audit_log (id, project_id, at, actor, role, request_id, address, action, target_type, target_id,"
    " before, after) SELECT gen_random_uuid(), %(project)s, now() + number * interval '1 ms', 'ann', 'owner',"
    " nullif('r-' || number, 'r-7'), '192.0.2.7', 'update', 'run', number::text,"
    " CASE WHEN number %% 3 > 0 THEN jsonb_build_object('n', number / 7.0) END,"
    " jsonb_build_object('text', 'Größe 🚀', 'list', jsonb_build_array(number, NULL, true))"
    " FROM generate_series(1, %(count)s) AS number"
)
RUN = (
    "INSERT INTO runs (id, project_id, version, created_at, updated_at, created_by, experiment_id, name, params, tags,"
    " metadata, env, notes, participants, status) SELECT gen_random_uuid(), %(project)s, 1, now(), now(), 'ann',"
    " %(project)s, 'Run-' || number, jsonb_build_object('rpm', number), '{a}', '{}', '{}', 'seal leaked', '{}',"
    " 'draft' FROM generate_series(1, %(count)s) AS number"
)
EVENT = (
    "INSERT INTO outbox (id, project_id, subject, type, at, data) SELECT gen_random_uuid(), %(project)s,"
    " 'run/' || number, 'run.created', now(), jsonb_build_object('n', number)"
    " FROM generate_series(1, %(count)s) AS number"
)
WRITTEN = (
    "SELECT position, id, project_id, at, actor, role, request_id, address, action, target_type, target_id, before,"
    " after FROM audit_log ORDER BY position"
)


async def test_what_was_there_before_is_linked_and_kept(empty_url: str, runner: object) -> None:
    migrations.upgrade(empty_url, "0001")
    projects = {uuid.uuid4(): count for count in (1, 120, 250)}
    with psycopg.connect(empty_url) as connection:
        for number in range(2):  # in turns, so that no project's records lie side by side
            for project, count in projects.items():
                values = {"project": project, "count": count}
                facts = "1, now(), now(), 'ann'"
                if number == 0:
                    connection.execute(
                        "INSERT INTO projects (id, version, created_at, updated_at, created_by, name, raw_readers,"
                        f" physical_only, future_tolerance)"
                        f" VALUES (%(project)s, {facts}, 'P', '{{}}', false, 1)".encode(),
                        values,
                    )
                    connection.execute(
                        "INSERT INTO experiments (id, project_id, version, created_at, updated_at, created_by, name,"
                        f" tags, metadata, status) VALUES (%(project)s, %(project)s, {facts}, 'E', '{{}}', '{{}}',"
                        " 'draft')".encode(),
                        values,
                    )
                for statement in (AUDIT, RUN, EVENT):
                    connection.execute(statement.encode(), values)
        before = connection.execute(WRITTEN.encode()).fetchall()
        events = connection.execute("SELECT id, transaction_id, data FROM outbox ORDER BY position").fetchall()
    migrations.upgrade(empty_url)
    with psycopg.connect(empty_url, autocommit=True) as connection:
        assert connection.execute(WRITTEN.encode()).fetchall() == before
        assert len(before) == 2 * sum(projects.values())
        found = connection.execute("SELECT id, transaction_id, data FROM outbox ORDER BY position").fetchall()
        assert found == events
        words = connection.execute("SELECT count(*), bool_and(words @@ 'run & seal'::tsquery) FROM runs").fetchone()
        assert words == (len(before), True)
        for table in ("audit_log", "status_history", "outbox"):
            assert connection.execute(
                "SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass AND tgenabled = 'A'", [table]
            ).fetchone() == (2,)
        with pytest.raises(psycopg.Error, match="append-only"):
            connection.execute("DELETE FROM audit_log")
        connection.execute(AUDIT.encode(), {"project": next(iter(projects)), "count": 1})
    async with PostgresUnitsOfWork.open(empty_url) as units:
        for project, count in projects.items():
            verified = await ask(units, lambda uow, project=project: uow.audit.verify(project))
            assert (verified.is_intact, verified.records) == (True, 2 * count + (1 if count == 1 else 0))
            assert [head.length for head in verified.heads] == [verified.records]  # what is new goes on where it ended
            timeline = await ask(units, lambda uow: uow.events.of("run/1", limit=10, after=None))
            assert [(told.event.type, told.actor) for told in timeline] == [("run.created", "")] * 6


async def test_a_database_that_was_not_migrated_is_not_ready(empty_url: str, runner: object) -> None:
    async with PostgresUnitsOfWork.open(empty_url) as units_of_work:
        with pytest.raises(UndefinedTable) as raised:
            await units_of_work.check()
        migrations.upgrade(empty_url)
        await units_of_work.check()
    assert raised.value.__notes__ == [
        "the database may not have the schema of this version: `experiment-service migrate` brings it there"
    ]
