"""What every `ArtifactRepository` promises."""

import asyncio
from collections.abc import Collection
from typing import Any
from uuid import UUID

import psycopg
import pytest
from attrs import evolve

from entities import a_project, a_run, an_artifact, an_experiment, fresh, later
from experiment_adapters.postgres.artifacts import PostgresArtifacts
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork
from experiment_domain.artifacts import Artifact, ArtifactStatus
from experiment_domain.kernel.entity import Lock, Position
from experiment_domain.runs import Run
from experiment_domain.unit_of_work import UnitsOfWork
from explaining import Explaining
from keeping import ODD_TEXT, SYSTEM, all_pages, ask, keep, kept, refused, save

PENDING, APPROVED, REJECTED, REVOKED = ArtifactStatus


async def _a_kept_run(units: UnitsOfWork) -> Run:
    project = a_project()
    experiment = an_experiment(project)
    run = a_run(experiment)
    await keep(units, project, experiment, run)
    return run


FULL: dict[str, Any] = {
    "name": ODD_TEXT,
    "uri": "s3://größe/漢字/" + "x" * 1_900,
    "kind": ODD_TEXT,
    "checksum": "sha256:" + "ab" * 32,
    "size": 2**63 - 1,
    "metadata": {"a": [1, -0.5, None, {"b": ODD_TEXT}]},
    "status": REVOKED,
    "version": 4,
}


@pytest.mark.parametrize("values", [{}, FULL, {"size": 0}], ids=["plain", "full", "empty file"])
@pytest.mark.parametrize("lock", Lock)
async def test_every_field_comes_back(units_of_work: UnitsOfWork, values: dict[str, Any], lock: Lock):
    artifact = an_artifact(await _a_kept_run(units_of_work), **values)
    await keep(units_of_work, artifact)
    async with units_of_work.begin(SYSTEM) as uow:
        assert await uow.artifacts.get(artifact.id, lock) == artifact
        assert await uow.artifacts.get(fresh(), lock) is None


async def test_an_artifact_is_kept_through_its_life(units_of_work: UnitsOfWork):
    artifact = an_artifact(await _a_kept_run(units_of_work))
    await keep(units_of_work, artifact)
    for seconds, status in enumerate((REJECTED, PENDING, APPROVED, REVOKED), start=1):
        artifact = artifact.move(status, at=later(seconds)).result
        await save(units_of_work, artifact)
        assert await kept(units_of_work, artifact) == artifact


async def test_two_writers_do_not_overwrite_each_other(units_of_work: UnitsOfWork):
    artifact = an_artifact(await _a_kept_run(units_of_work))
    await keep(units_of_work, artifact)
    await save(units_of_work, artifact.move(APPROVED, at=later(1)).result)
    async with refused(units_of_work, "version_mismatch") as uow:
        uow.artifacts.save(artifact.move(REJECTED, at=later(1)).result)


async def test_an_artifact_is_of_a_run_that_is_there(units_of_work: UnitsOfWork):
    run = await _a_kept_run(units_of_work)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.artifacts.add(evolve(an_artifact(run), run_id=fresh()))
    artifact = an_artifact(run)
    await keep(units_of_work, artifact)
    async with refused(units_of_work, "reference_missing") as uow:
        uow.runs.remove(run)
    assert await kept(units_of_work, artifact) == artifact


async def test_whether_a_run_has_any(units_of_work: UnitsOfWork):
    run, other = await _a_kept_run(units_of_work), await _a_kept_run(units_of_work)
    await keep(units_of_work, an_artifact(run, status=REJECTED))
    assert await ask(units_of_work, lambda uow: uow.artifacts.any_in(run.id)) is True
    assert await ask(units_of_work, lambda uow: uow.artifacts.any_in(other.id)) is False
    assert await ask(units_of_work, lambda uow: uow.artifacts.any_in(fresh())) is False


async def _many(units: UnitsOfWork, run: Run) -> list[Artifact]:
    statuses, kinds = list(ArtifactStatus), ["model", "report", None]
    artifacts = [
        an_artifact(run, status=statuses[place % 4], kind=kinds[place % 3], created_at=later(place // 2))
        for place in range(12)
    ]
    await keep(units, *artifacts, an_artifact(await _a_kept_run(units), status=APPROVED))
    return sorted(artifacts, key=lambda artifact: (artifact.created_at, artifact.id), reverse=True)


@pytest.mark.parametrize("limit", [1, 5, 12])
@pytest.mark.parametrize(
    ("statuses", "kinds"),
    [((), ()), ([APPROVED], ()), ([PENDING, REVOKED], ()), ((), ["model"]), ([APPROVED], ["model", "report"])],
)
async def test_pages_are_newest_first(
    units_of_work: UnitsOfWork, limit: int, statuses: Collection[ArtifactStatus], kinds: Collection[str]
):
    run = await _a_kept_run(units_of_work)
    artifacts = await _many(units_of_work, run)
    pages = await all_pages(
        lambda limit, after: ask(
            units_of_work,
            lambda uow: uow.artifacts.page(run.id, statuses=statuses, kinds=kinds, limit=limit, after=after),
        ),
        limit,
    )
    assert [artifact for page in pages for artifact in page] == [
        artifact
        for artifact in artifacts
        if (not statuses or artifact.status in statuses) and (not kinds or artifact.kind in kinds)
    ]


async def test_the_approved_ones_for_a_card(units_of_work: UnitsOfWork):
    run = await _a_kept_run(units_of_work)
    approved = [artifact for artifact in await _many(units_of_work, run) if artifact.status is APPROVED]
    assert len(approved) == 3
    for limit in (1, 2, 3, 50):
        found = await ask(units_of_work, lambda uow, limit=limit: uow.artifacts.approved_of(run.id, limit))
        assert list(found) == approved[:limit]
    assert list(await ask(units_of_work, lambda uow: uow.artifacts.approved_of(fresh(), 5))) == []


MANY = """
INSERT INTO artifacts (id, project_id, version, created_at, updated_at, created_by, run_id, name, uri, metadata, status)
SELECT gen_random_uuid(), %s, 1, now() - n * interval '1 minute', now(), 'ann', %s, 'artifact ' || n, 's3://b/' || n,
    '{}', CASE WHEN n %% 5000 = 0 THEN 'approved' ELSE 'pending' END
FROM generate_series(1, 20000) AS n
"""


@pytest.mark.postgres
def test_a_run_may_have_very_many(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
) -> None:
    run = runner.run(_a_kept_run(postgres_units_of_work))
    middle: Position = (later(0), fresh())
    with psycopg.connect(module_postgres_url, autocommit=True) as database:
        database.execute(MANY, [run.project_id, run.id])
        database.execute("ANALYZE artifacts")
        for statuses in ((), [APPROVED], [PENDING]):
            for after in (None, middle):
                plans = runner.run(_plans(postgres_units_of_work, run.id, statuses, after))
                assert len(plans) == 1
                assert "Seq Scan" not in plans[0], plans
                assert "Sort" not in plans[0], plans


async def _plans(
    units: UnitsOfWork, run_id: UUID, statuses: Collection[ArtifactStatus], after: Position | None
) -> list[str]:
    async with units.begin(SYSTEM, read_only=True) as uow:
        assert isinstance(uow, PostgresUnitOfWork)
        explaining: Any = Explaining(uow._statements)
        await PostgresArtifacts(explaining).page(run_id, statuses=statuses, limit=50, after=after)
        return [str(root) for root in await explaining.roots()]


@pytest.mark.postgres
def test_the_application_edits_them_and_removes_none(module_postgres_url: str) -> None:
    with psycopg.connect(module_postgres_url) as database:
        found = database.execute(
            "SELECT privilege_type FROM information_schema.role_table_grants"
            " WHERE grantee = 'experiment_app' AND table_name = 'artifacts' ORDER BY 1"
        ).fetchall()
    assert [privilege for (privilege,) in found] == ["INSERT", "SELECT", "UPDATE"]
