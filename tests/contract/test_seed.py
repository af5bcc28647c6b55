"""Test data in bulk is what the service itself would have kept, and the same for the same arguments."""

import asyncio

import psycopg
import pytest

from entities import NOW
from experiment_adapters.postgres.filters import lexemes
from experiment_adapters.postgres.seed import seed_runs
from experiment_domain.captures import CaptureStatus
from experiment_domain.experiments import ExperimentFilter
from experiment_domain.runs import RunFilter, RunStatus
from experiment_domain.sensors import SensorFilter
from experiment_domain.unit_of_work import UnitsOfWork
from keeping import SYSTEM


@pytest.mark.covers("seed")
async def test_seeded_things_are_read_and_found(
    runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
) -> None:
    seeded = seed_runs(module_postgres_url, 60, owner="ann", now=NOW)
    projects = [seeded.project_id]
    async with postgres_units_of_work.begin(SYSTEM, read_only=True) as uow:
        page = await uow.runs.page(RunFilter(project_ids=projects, words="run"), sort="name", limit=100, after=None)
        assert [run.name for run in page.items] == [f"run {number:06d}" for number in range(60)]
        for run in page.items:
            assert run.created_at <= run.updated_at <= NOW
            assert run.version == len(await uow.history.of("run", run.id)) + 1
            bound = {binding.sensor_id for binding in await uow.runs.sensors_of(run.id)}
            for session in (await uow.captures.page(run.id, limit=10, after=None)).items:
                assert {pin.sensor_id for pin in session.pins} == bound
                assert (session.status is CaptureStatus.RUNNING) == (run.status is RunStatus.RUNNING)
                assert session.version == len(await uow.history.of("capture_session", session.id)) + 1
        other = RunFilter(project_ids=[seeded.other_project_id])
        assert len((await uow.runs.page(other, sort="name", limit=100, after=None)).items) == 3
        which = SensorFilter(project_ids=projects, words="thermo 1")
        sensors = (await uow.sensors.page(which, limit=100, after=None)).items
        assert {sensor.name for sensor in sensors} == {
            f"thermocouple {number}" for number in range(4, 300, 4) if str(number).startswith("1")
        }
        found = await uow.experiments.page(
            ExperimentFilter(project_ids=projects, words="seeded endurance"), sort="name", limit=10, after=None
        )
        assert [experiment.id for experiment in found.items] == seeded.experiment_ids


@pytest.mark.covers("seed")
def test_the_same_arguments_make_the_same(postgres_url: str) -> None:
    seed_runs(postgres_url, 10, owner="ann", now=NOW)
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT name, notes, words::text FROM runs").fetchall()
        assert len(rows) == 11
        for name, notes, words in rows:
            assert sorted(words.split()) == sorted(lexemes(name, notes).split())
    with pytest.raises(psycopg.errors.UniqueViolation):
        seed_runs(postgres_url, 10, owner="ann", now=NOW)
    seed_runs(postgres_url, 11, owner="ann", now=NOW)
