"""How PostgreSQL runs the lists of runs: by an index, whatever is asked for, among a hundred thousand."""

import asyncio
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import frozen

from entities import NOW, fresh
from experiment_adapters.postgres.runs import PostgresRuns
from experiment_adapters.postgres.seed import Seeded, seed_runs
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork, PostgresUnitsOfWork
from experiment_domain.experiments import SORTS
from experiment_domain.kernel.access import System
from experiment_domain.kernel.entity import Page, Position
from experiment_domain.runs import Run, RunFilter, RunStatus
from explaining import Explaining

RUNS = 100_000
MOST_BUFFERS = 25_000
"""Reading all runs one by one, in whatever order, looks at more than 100,000 pages of 8 KiB."""
PAIRS = 250
WAYS = [f"{way}{name}" for name in SORTS for way in ("", "-")]

FILTERS = (
    "experiment", "status", "tag", "any_tag", "git_sha", "participant", "sensor", "profile", "created", "started",
    "param", "words",
)  # fmt: skip

Values = Mapping[str, Any]


@frozen
class Stock:
    """The seeded runs, and what they can be asked for: by filter, what is frequent, rare and absent."""

    units: PostgresUnitsOfWork
    seeded: Seeded
    filters: Mapping[str, Sequence[Values]]
    depths: Mapping[str, Position]

    async def page(self, values: Values, sort: str, after: Position | None, *, both: bool = False) -> Page[Run]:
        """A page, after its plans were looked at."""
        projects = [self.seeded.project_id, *([self.seeded.other_project_id] if both else [])]
        which = RunFilter(project_ids=projects, **values)
        async with self.units.begin(System(), read_only=True) as uow:
            assert isinstance(uow, PostgresUnitOfWork)
            explaining: Any = Explaining(uow._statements)
            page = await PostgresRuns(explaining).page(which, sort=sort, limit=50, after=after)
            assert not any(explaining.prepared), "a filtered list is planned for what it is filtered by"
            for query, root in zip(explaining.queries, await explaining.roots(), strict=True):
                told = f"{values} by {sort} after {after}\n{query}\n{root}"
                assert "OFFSET" not in query
                assert not list(_scans(root)), told
                assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < MOST_BUFFERS * (1 + both), told
        return page


def _scans(node: Any) -> Iterator[Any]:
    """The nodes of a plan that read all runs."""
    if node["Node Type"] == "Seq Scan" and node["Relation Name"] == "runs":
        yield node
    for child in node.get("Plans", ()):
        yield from _scans(child)


@pytest.fixture(scope="module")
def stock(runner: asyncio.Runner, module_postgres_url: str) -> Iterator[Stock]:
    seeded = seed_runs(module_postgres_url, RUNS, owner="ann", now=NOW)
    units = PostgresUnitsOfWork.open(module_postgres_url)
    with psycopg.connect(module_postgres_url) as connection:
        filters = _filters(connection, seeded)
        depths = {name: _depth(connection, seeded.project_id, name) for name in SORTS}
    yield Stock(runner.run(units.__aenter__()), seeded, filters, depths)
    runner.run(units.__aexit__(None, None, None))


def _depth(connection: psycopg.Connection, project_id: UUID, name: str) -> Position:
    """A place in the middle of the list."""
    query = (
        f"SELECT {name} FROM runs WHERE project_id = %s AND {name} IS NOT NULL ORDER BY 1 OFFSET {RUNS // 2} LIMIT 1"
    )
    row = connection.execute(query.encode(), [project_id]).fetchone()
    assert row is not None
    return row[0], fresh()


def _filters(connection: psycopg.Connection, seeded: Seeded) -> Mapping[str, Sequence[Values]]:
    def column(query: str) -> list[Any]:
        return [value for (value,) in connection.execute(query.encode(), {"project": seeded.project_id}).fetchall()]

    moments = column("SELECT created_at FROM runs WHERE project_id = %(project)s ORDER BY 1")
    middle, late, never = moments[RUNS // 2], moments[-100], moments[-1].replace(year=2100)
    commits = column(
        "SELECT git_sha FROM runs WHERE project_id = %(project)s AND git_sha IS NOT NULL"
        " GROUP BY 1 ORDER BY count(*), 1"
    )
    sensors = column(
        "SELECT sensor_id FROM run_sensors JOIN runs ON runs.id = run_id WHERE project_id = %(project)s"
        " GROUP BY 1 ORDER BY count(*), 1"
    )
    profiles = column(
        "SELECT profile_id FROM capture_session_pins JOIN capture_sessions ON capture_sessions.id = capture_session_id"
        " WHERE project_id = %(project)s GROUP BY 1 ORDER BY count(*), 1"
    )
    experiments = seeded.experiment_ids
    return {
        "experiment": [{"experiment_ids": ids} for ids in (experiments[:1], experiments[:3], [fresh()])],
        "status": [
            {"statuses": statuses}
            for statuses in ([RunStatus.FINISHED], [RunStatus.RUNNING], [RunStatus.DRAFT, RunStatus.ARCHIVED])
        ],
        "tag": [{"tags": tags} for tags in (["baseline"], ["nightly", "pump-a"], ["ticket-100"], ["none"])],
        "any_tag": [{"any_tags": tags} for tags in (["baseline", "nightly"], ["ticket-100", "ticket-9"], ["none"])],
        "git_sha": [{"git_shas": [sha]} for sha in (commits[-1], commits[-1][:7], commits[0][:7], "0123456")],
        "participant": [{"participants": people} for people in (["amara"], ["guest-01", "guest-02"], ["nobody"])],
        "sensor": [{"sensor_ids": ids} for ids in (sensors[-1:], sensors[-3:], sensors[:1], [fresh()])],
        "profile": [{"profile_ids": ids} for ids in (profiles[-1:], profiles[:2], [fresh()])],
        "created": [
            *({"created_after": moment} for moment in (middle, late, never)),
            {"created_before": middle},
            {"created_before": moments[0]},
        ],
        "started": [
            *({"started_after": moment} for moment in (middle, late, never)),
            {"started_before": middle},
            {"started_before": moments[0]},
        ],
        "param": [
            {"params": pairs}
            for pairs in (
                [("fluid", "oil")],
                [("fluid", "oil"), ("fluid", "argon")],
                [("rpm", "600")],
                [("seal", "S-100")],
                [("none", "1")],
            )
        ],
        "words": [{"words": text} for text in ("run", "pressure drifted", "zero vent", "report 100", "nowhere")],
    }


async def _look(stock: Stock, values: Values, sort: str, *, both: bool = False) -> None:
    for after in (None, stock.depths[sort.removeprefix("-")]):
        await stock.page(values, sort, after, both=both)


@pytest.mark.parametrize("sort", WAYS)
@pytest.mark.parametrize("name", FILTERS)
async def test_no_filter_reads_all_runs(runner: asyncio.Runner, stock: Stock, name: str, sort: str) -> None:
    for values in stock.filters[name]:
        await _look(stock, values, sort)


@pytest.mark.parametrize("part", range(5))
async def test_no_two_filters_read_all_runs(runner: asyncio.Runner, stock: Stock, part: int) -> None:
    pairs = [
        {**one, **other}
        for ones, others in combinations(stock.filters.values(), 2)
        for one, other in product(ones, others)
    ]
    chance = random.Random(part)
    for values in chance.sample(pairs, PAIRS // 5):
        await _look(stock, values, chance.choice(WAYS))


@pytest.mark.parametrize("sort", WAYS)
@pytest.mark.parametrize("both", [False, True], ids=["one project", "two projects"])
async def test_no_order_reads_all_runs(runner: asyncio.Runner, stock: Stock, sort: str, both: bool) -> None:
    await _look(stock, {}, sort, both=both)
    # What never occurs with what, the database does not know.
    await _look(stock, {"tags": ["pump-a"], "params": [("fluid", "oil")]}, sort, both=both)
    await _look(
        stock, {"statuses": [RunStatus.RUNNING], "created_before": stock.depths["created_at"][0]}, sort, both=both
    )


@pytest.mark.parametrize("sort", ["started_at", "-finished_at"])
async def test_what_has_no_time_is_walked_too(runner: asyncio.Runner, stock: Stock, sort: str) -> None:
    for values in ({}, {"tags": ["baseline"]}):
        first = await stock.page(
            values, sort, (None, UUID(int=0) if not sort.startswith("-") else UUID(int=2**128 - 1))
        )
        assert first.next is not None
        assert first.next[0] is None
        second = await stock.page(values, sort, first.next)
        assert {run.id for run in first.items}.isdisjoint(run.id for run in second.items)
