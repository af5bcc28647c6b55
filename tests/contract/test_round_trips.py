"""How often a unit of work goes to PostgreSQL and back: a command is two or three round trips, not ten."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
from psycopg import AsyncCursor

from entities import NOW, a_batch, a_column
from experiment_adapters.postgres.statements import Statements
from experiment_domain import SensorToken, Services, System, User
from experiment_domain.kernel.access import Principal
from experiment_domain.runs import Run, RunFilter, RunStatus, Tagging
from experiment_domain.sensors import token_hash
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Offer
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import Work
from experiment_domain.usecases.runs import RunOutcome

BulkUse = Callable[[Work, Sequence[UUID]], Awaitable[Sequence[RunOutcome]]]

ANN = User(id="ann")
START = micros(NOW)


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many statements each round trip carries, in the order of the trips."""
    trips: list[int] = []
    send = Statements.send

    async def counting(self: Statements, *, commit: bool = False) -> None:
        trips.append(len(self._queue))
        await send(self, commit=commit)

    with monkeypatch.context() as patch:
        patch.setattr(Statements, "send", counting)
        yield trips


@pytest.fixture
def services(postgres_units_of_work: UnitsOfWork) -> Services:
    return Services(units_of_work=postgres_units_of_work)


async def trips_of(
    monkeypatch: pytest.MonkeyPatch, services: Services, who: Principal, what: Callable[[Work], Awaitable[object]]
) -> int:
    with counted(monkeypatch) as trips:
        async with services.begin(who) as work:
            await what(work)
    return len(trips)


async def a_running_run(services: Services) -> Run:
    async with services.begin(ANN) as work:
        project = await work.projects.create(name="Rig 7")
        experiment = await work.experiments.create(project_id=project.id, name="Creep")
        run = await work.runs.create(experiment.id, name="one")
        return await work.runs.start(run.id)


@pytest.mark.postgres
async def test_commands_are_few_round_trips(runner, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await a_running_run(services)

    async def trips(what: Callable[[Work], Awaitable[object]], who: Principal = ANN) -> int:
        return await trips_of(monkeypatch, services, who, what)

    assert await trips(lambda work: work.runs.create(run.experiment_id, name="two")) == 2
    assert await trips(lambda work: work.runs.edit(run.id, name="three")) == 2
    assert await trips(lambda work: work.runs.finish(run.id)) == 3
    with counted(monkeypatch) as found:
        async with services.read(ANN) as work:
            await work.runs.get(run.id)
            await work.runs.page(RunFilter(project_ids=()))
    assert found == [2, 1]  # the memberships travel with the first query


@pytest.mark.postgres
async def test_batches_are_few_round_trips(runner, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await a_running_run(services)
    async with services.begin(ANN) as work:
        sensor = await work.sensors.register(
            project_id=run.project_id, name="TC", sensor_type="k", input_unit="mV", display_unit="°C"
        )
        await work.runs.bind(run.id, sensor.sensor.id)
        session = await work.captures.create(run.id, start=True)
    token = SensorToken(token_hash=token_hash(sensor.token))

    async def trips(start: int) -> int:
        batch = a_batch(a_column(range(start, start + 10), [1.5] * 10), session=session.id)
        return await trips_of(monkeypatch, services, token, lambda work: work.telemetry.ingest(batch))

    assert await trips(START) == 4  # the first reading makes the sensor active, which holds it and asks who it is
    assert await trips(START + 10) == 2
    assert await trips(START + 10) == 2  # a repeated one: what was answered, and the end of the transaction

    offers = [
        Offer(token_hash=token.token_hash, batch=a_batch(a_column([start], [1.5]), session=session.id))
        for start in range(START + 20, START + 25)
    ]
    executed: list[str] = []
    execute = AsyncCursor.execute

    async def noted(self: Any, query: Any, *arguments: Any, **options: Any) -> Any:
        executed.append(str(query).split()[0])
        return await execute(self, query, *arguments, **options)

    with counted(monkeypatch) as found:
        monkeypatch.setattr(AsyncCursor, "execute", noted)
        async with services.begin(System()) as work:
            assert None not in await work.telemetry.ingest_at_once(offers)
    assert found == [1]
    # It takes the locks as well, and is a transaction of its own. A hint to other processes may follow by itself.
    assert executed.count("WITH") == 1
    assert not {"BEGIN", "COMMIT"} & set(executed)


@pytest.mark.postgres
async def test_starting_a_session_takes_as_many_round_trips_whatever_the_sensors(
    runner, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    for sensors in (1, 12):
        run = await a_running_run(services)
        async with services.begin(ANN) as work:
            for number in range(sensors):
                made = await work.sensors.register(
                    project_id=run.project_id, name=f"TC {number}", sensor_type="k", input_unit="mV", display_unit="°C"
                )
                await work.runs.bind(run.id, made.sensor.id)
        found.append(
            await trips_of(monkeypatch, services, ANN, lambda work, run=run: work.captures.create(run.id, start=True))
        )
    assert found == [5, 5]


@pytest.mark.postgres
async def test_bulk_commands_are_as_many_statements_whatever_the_runs(
    runner, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved(to: RunStatus) -> BulkUse:
        return lambda work, ids: work.runs.set_statuses(ids, to)

    uses: list[BulkUse] = [
        moved(RunStatus.RUNNING),
        moved(RunStatus.FINISHED),
        lambda work, ids: work.runs.tag(ids, Tagging(add=("nightly",))),
        moved(RunStatus.ARCHIVED),
    ]
    found: list[list[list[int]]] = []
    for count in (2, 200):
        async with services.begin(ANN) as work:
            project = await work.projects.create(name="Rig 7")
            experiment = await work.experiments.create(project_id=project.id, name="Creep")
            ids = [(await work.runs.create(experiment.id, name=f"{number}")).id for number in range(count)]
        trips: list[list[int]] = []
        for use in uses:
            with counted(monkeypatch) as sent:
                async with services.begin(ANN) as work:
                    outcomes = await use(work, ids)
            assert [outcome.refusal for outcome in outcomes] == [None] * count
            trips.append(sent)
        found.append(trips)
    assert found[0] == found[1]
    assert all(sum(sent) <= 20 for sent in found[0]), found[0]


@pytest.mark.postgres
async def test_a_card_is_at_most_three_statements(runner, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    run = await a_running_run(services)
    async with services.begin(ANN) as work:
        made = await work.sensors.register(
            project_id=run.project_id, name="TC", sensor_type="k", input_unit="mV", display_unit="°C"
        )
        await work.runs.bind(run.id, made.sensor.id)
        session = await work.captures.create(run.id, start=True)
    async with services.begin(SensorToken(token_hash=token_hash(made.token))) as work:
        await work.telemetry.ingest(a_batch(a_column([START], [1.5]), session=session.id))
    with counted(monkeypatch) as sent:
        async with services.read(ANN) as work:
            card = await work.cards.of_run(run.id)
    assert card.metrics is not None
    assert [metrics.statistics.count for metrics in card.metrics if metrics.statistics] == [1]
    assert sum(sent) <= 3, sent
    with counted(monkeypatch) as sent:
        async with services.read(ANN) as work:
            assert (await work.cards.of_run(run.id, known=[card.tag])).metrics is None
    assert sum(sent) <= 2, sent
