"""How PostgreSQL runs the lists of runs: by an index, whatever the page, among a hundred thousand."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg
import pytest

from entities import a_project, an_experiment, fresh
from experiment_adapters.postgres.runs import query_of
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain.kernel.access import System
from experiment_domain.kernel.entity import Position
from experiment_domain.runs import RunFilter, RunStatus

RUNS = 100_000
MANY = """
INSERT INTO runs (id, project_id, version, created_at, updated_at, created_by, experiment_id, name, params, tags,
    metadata, env, participants, status, started_at)
SELECT gen_random_uuid(), %s, 1, now() - n * interval '1 minute', now(), 'ann', %s, 'run ' || n, '{}',
    CASE WHEN n %% 10 = 0 THEN ARRAY['nightly'] WHEN n %% 1000 = 1 THEN ARRAY['rare'] ELSE ARRAY['t' || n %% 50] END,
    '{}', '{}', '{}', (ARRAY['draft', 'running', 'finished', 'finished', 'failed'])[1 + n %% 5],
    CASE WHEN n %% 5 > 0 THEN now() - n * interval '1 minute' END
FROM generate_series(1, %s) AS n
"""


@pytest.fixture(scope="module")
def database(module_postgres_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(module_postgres_url, autocommit=True) as connection:
        yield connection


@pytest.fixture(scope="module")
def project_id(database: psycopg.Connection, module_postgres_url: str) -> UUID:
    project = a_project()
    experiment = an_experiment(project)

    async def prepare() -> None:
        async with PostgresUnitsOfWork.open(module_postgres_url) as units, units.begin(System()) as uow:
            uow.projects.add(project)
            uow.experiments.add(experiment)
            await uow.commit()

    asyncio.run(prepare())
    database.execute(MANY, [project.id, experiment.id, RUNS])
    database.execute("ANALYZE runs")
    return project.id


MIDDLE: Position = (datetime.now(UTC) - timedelta(minutes=RUNS // 2), fresh())


@pytest.mark.parametrize("after", [None, MIDDLE], ids=["first page", "deep page"])
@pytest.mark.parametrize(
    ("status", "tag"),
    [(RunStatus.FINISHED, "nightly"), (RunStatus.RUNNING, "t7"), (RunStatus.DRAFT, "rare"), (RunStatus.FAILED, "none")],
)
@pytest.mark.parametrize("sort", ["-created_at", "created_at", "-started_at", "name"])
def test_filtered_by_status_and_tag_no_page_scans_the_table(
    database: psycopg.Connection, project_id: UUID, status: RunStatus, tag: str, sort: str, after: Position | None
) -> None:
    if after is not None and sort == "name":
        after = ("run 50000", fresh())
    which = RunFilter(project_ids=[project_id], statuses=[status], tags=[tag])
    statement, parameters = query_of(which, sort=sort, limit=50, after=after)
    rows = database.execute(f"EXPLAIN (ANALYZE, BUFFERS) {statement}".encode(), parameters).fetchall()
    plan = "\n".join(line for (line,) in rows)
    assert "Seq Scan" not in plan, plan
    assert "OFFSET" not in statement
