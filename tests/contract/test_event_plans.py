"""How PostgreSQL reads the log of events, however long it has grown: by an index that leads to what is asked for."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import frozen
from hypothesis import settings

from experiment_adapters.postgres.events import PostgresOutbox
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork, PostgresUnitsOfWork
from experiment_domain.kernel.access import System
from experiment_domain.kernel.events import EventPart
from explaining import Explaining

EVENTS = 2_000_000 if settings.get_current_profile_name() == "nightly" else 100_000
PROJECTS = 20
MOST_BUFFERS = max(100, EVENTS // 5_000)
"""Reading all events, or along the index of all their positions, looks at ten times as many pages of 8 KiB at least.

What is new in a small project may be found by reading that project's part of an index, a page for each hundred events.
"""
RARE = "webhook.disabled"

# Two events a transaction, as a command has them that changes a status. The first project has most of them.
_FILL = """
CREATE PROCEDURE fill(total int) LANGUAGE plpgsql AS $$
DECLARE projects uuid[]; project uuid; subject text;
BEGIN
    SELECT array_agg(md5(number::text)::uuid ORDER BY number) INTO projects FROM generate_series(1, %d) AS number;
    FOR number IN 1..total / 2 LOOP
        project := projects[1 + floor(power(random(), 4) * array_length(projects, 1))];
        subject := 'run/' || md5((number / 5)::text)::uuid;
        INSERT INTO outbox (id, project_id, subject, type, at, data, actor) VALUES
            (gen_random_uuid(), project, subject, 'run.started', now(), '{"from": "draft", "reason": null}', 'ada'),
            (gen_random_uuid(), project, subject, CASE WHEN number = 7 THEN 'webhook.disabled' ELSE 'run.finished' END,
             now(), '{"from": "running", "reason": null}', 'ada');
        COMMIT;
    END LOOP;
END $$
"""

Read = Callable[[PostgresOutbox], Awaitable[Any]]


@frozen
class Log:
    """A long log, and places in it."""

    units: PostgresUnitsOfWork
    projects: Collection[UUID]
    large: UUID
    small: UUID
    subject: str
    half_way: str
    late: str
    end: str

    async def buffers(self, read: Read) -> tuple[int, Any]:
        """How many pages are looked at, and what is read."""
        async with self.units.begin(System()) as uow:
            assert isinstance(uow, PostgresUnitOfWork)
            explaining: Any = Explaining(uow._statements)
            found = await read(PostgresOutbox(explaining))
            roots = await explaining.roots()
        return sum(root["Shared Hit Blocks"] + root["Shared Read Blocks"] for root in roots), found


@pytest.fixture(scope="module")
def log(runner: asyncio.Runner, module_postgres_url: str) -> Iterator[Log]:
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        connection.execute((_FILL % PROJECTS).encode())
        connection.execute("CALL fill(%s::int)", [EVENTS])
        connection.execute("VACUUM ANALYZE outbox")

        def ask(query: str, *parameters: object) -> Any:
            row = connection.execute(query.encode(), parameters).fetchone()
            assert row is not None
            return row[0]

        def seen_before(back: int) -> str:
            # What a reader knows who has read all events but the last ones.
            found = "SELECT transaction_id::text FROM outbox ORDER BY position DESC OFFSET %s LIMIT 1"
            return "{0}:{0}:".format(ask(found, back - 1))

        counted = "SELECT array_agg(project_id ORDER BY events) FROM (SELECT project_id, count(*) AS events FROM outbox"
        small, *_, large = projects = ask(f"{counted} GROUP BY project_id) AS projects")
        subject = ask("SELECT subject FROM outbox ORDER BY position OFFSET %s LIMIT 1", EVENTS // 2)
        places = (seen_before(EVENTS // 2), seen_before(10), ask("SELECT pg_current_snapshot()::text"))
    opened = PostgresUnitsOfWork.open(module_postgres_url)
    yield Log(runner.run(opened.__aenter__()), projects, large, small, subject, *places)
    runner.run(opened.__aexit__(None, None, None))


WHO = pytest.mark.parametrize("who", ["relay", "projects", "large", "small"])


def projects_of(log: Log, who: str) -> Collection[UUID] | None:
    return {"relay": None, "projects": log.projects, "large": [log.large], "small": [log.small]}[who]


@WHO
@pytest.mark.parametrize("limit", [1, 50, 500])
@pytest.mark.parametrize("place", ["late", "end"])
async def test_what_is_new_is_found_where_it_lies(log: Log, who: str, limit: int, place: str, runner: object):
    which = projects_of(log, who)
    buffers, part = await log.buffers(lambda outbox: outbox.since(getattr(log, place), limit=limit, project_ids=which))
    assert isinstance(part, EventPart)
    if which is None:
        assert len(part.events) == (min(limit, 10) if place == "late" else 0)
    assert buffers < MOST_BUFFERS


@WHO
async def test_the_log_is_read_on_from_wherever_one_is(log: Log, who: str, runner: object):
    which = projects_of(log, who)
    buffers, first = await log.buffers(lambda outbox: outbox.since(None, limit=50, project_ids=which))
    assert len(first.events) == 50
    assert buffers < MOST_BUFFERS
    # Who has been away is looked for once, by reading what has come since; from there on it is the next page.
    _, first = await log.buffers(lambda outbox: outbox.since(log.half_way, limit=50, project_ids=which))
    assert first.more
    buffers, second = await log.buffers(lambda outbox: outbox.since(first.place, limit=50, project_ids=which))
    assert len(second.events) == 50
    assert buffers < MOST_BUFFERS


async def test_rare_events_are_found_among_all(log: Log, runner: object):
    for which in (None, log.projects):
        buffers, part = await log.buffers(
            lambda outbox: outbox.since(None, limit=50, project_ids=which, types=[RARE])  # noqa: B023
        )
        assert [placed.recorded.event.type for placed in part.events] == [RARE]
        assert buffers < MOST_BUFFERS


async def test_a_timeline_is_found_among_all(log: Log, runner: object):
    buffers, found = await log.buffers(lambda outbox: outbox.of(log.subject, limit=50, after=None))
    assert len(found) == 10
    assert buffers < MOST_BUFFERS
