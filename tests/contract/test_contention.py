"""Commands that want the same things in opposite orders: none waits for another in a circle, and nothing is torn."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any
from uuid import UUID, uuid4

import pytest

from contention import CONNECTIONS, contended
from entities import a_batch, a_column
from experiment_domain import Work
from experiment_domain.audit import Verification
from experiment_domain.captures import CaptureStatus
from experiment_domain.kernel.access import Principal, Role
from experiment_domain.kernel.clock import Clock, SystemClock
from experiment_domain.kernel.entity import StatusChange
from experiment_domain.kernel.errors import Conflict, NotFound
from experiment_domain.runs import Run, RunStatus, Tagging
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.sensors import SensorWithToken
from keeping import ask
from laboratory import Laboratory, token_of

pytestmark = pytest.mark.timeout(600)

ROUNDS = 40
Use = Callable[[Work], Awaitable[Any]]


def _circling(url: str, dance: Callable[[Laboratory, random.Random], Awaitable[None]], rounds: int = ROUNDS) -> None:
    """Dance some rounds; at the end, PostgreSQL has seen no deadlock."""

    async def all_rounds() -> None:
        async with contended(url) as units:
            lab = await Laboratory.open(units, clock=_clock())
            for seed in range(rounds):
                await dance(lab, random.Random(seed))
            (found,) = await lab.ask(lambda work: work.audit.verify([lab.project.id]))
            assert found.is_intact
            assert len(found.heads) <= CONNECTIONS

    asyncio.run(all_rounds())


def _clock() -> Any:
    clock: Clock = SystemClock()
    return clock


async def _tried(lab: Laboratory, use: Use, by: Principal | None = None) -> Any:
    """The answer, or the code of what the state of things stood against. Whatever else is refused is a fault."""
    try:
        return await lab.do(use, by=by)
    except (Conflict, NotFound) as refusal:
        if refusal.code == "version_mismatch":
            raise AssertionError("locked, and changed all the same") from refusal
        return refusal.code


async def _at_once(lab: Laboratory, dice: random.Random, uses: Iterable[Use]) -> list[Any]:
    shuffled = list(uses)
    dice.shuffle(shuffled)
    return list(await asyncio.gather(*(_tried(lab, use) for use in shuffled)))


async def _in_a_line(lab: Laboratory, noun: str, entity_id: UUID, first: str = "draft") -> list[StatusChange]:
    """The history of a thing: each step begins where the one before ended, and not before it; events say the same."""
    moves = await lab.history(noun, entity_id)
    assert [move.source for move in moves] == [first, *(move.target for move in moves)][: len(moves)]
    assert all(one.at <= other.at for one, other in pairwise(moves))
    return moves


def test_bulk_commands_in_opposite_orders(module_postgres_url: str):
    async def dance(lab: Laboratory, dice: random.Random) -> None:
        experiments = [await lab.experiment() for _ in range(2)]
        runs = [await lab.run(experiment) for experiment in experiments for _ in range(3)]
        ids = [run.id for run in runs]
        orders = [ids, ids[::-1], dice.sample(ids, 4), dice.sample(ids, 6)]

        def bulk(status: RunStatus, *, atomic: bool) -> list[Use]:
            return [lambda work, it=it: work.runs.set_statuses(it, status, atomic=atomic) for it in orders]

        def single(verb: str) -> list[Use]:
            return [lambda work, it=it: getattr(work.runs, verb)(it) for it in ids]

        tags = [
            lambda work, it=it, n=n: work.runs.tag(it, Tagging.create(add_tags=[f"{n}"])) for n, it in enumerate(orders)
        ]
        create = [lambda work, it=it.id: work.runs.create(it, name="Late") for it in experiments]
        await _at_once(lab, dice, [*bulk(RunStatus.RUNNING, atomic=False), *single("start"), *tags, *create])
        ends = [lambda work, it=it.id: work.experiments.finish(it) for it in experiments]
        await _at_once(lab, dice, [*bulk(RunStatus.FINISHED, atomic=dice.random() < 0.5), *single("fail"), *ends])
        await _at_once(lab, dice, [*bulk(RunStatus.ARCHIVED, atomic=False), *single("archive"), *ends])
        for run_id in ids:
            found = await lab.ask(lambda work, it=run_id: work.runs.get(it))
            moves = await _in_a_line(lab, "run", run_id)
            assert [move.target for move in moves][::2] == ["running", "archived"]
            assert set(found.tags) == {str(number) for number, it in enumerate(orders) if run_id in it}
            assert found.version == 1 + len(moves) + len(found.tags)
        for experiment in experiments:
            await _in_a_line(lab, "experiment", experiment.id)

    _circling(module_postgres_url, dance)


def test_archiving_against_batches_sessions_and_sensors(module_postgres_url: str):
    async def dance(lab: Laboratory, dice: random.Random) -> None:
        runs = [await lab.run(start=True) for _ in range(3)]
        sensors = [await lab.sensor(*dice.sample(runs, len(runs))) for _ in range(2)]
        recorded = [await lab.stop(await lab.session(run)) for run in runs for _ in range(2)]
        recording = [await lab.session(run) for run in runs]
        drafts = [await lab.session(run, start=False) for run in runs]
        ids = [run.id for run in runs]
        sent = 0

        async def deliver(made: SensorWithToken, session_id: UUID | None, number: int) -> Any:
            batch = a_batch(a_column([number], [1.0], dice.choice(["a", "b"])), session=session_id)
            return await _tried(lab, lambda work: work.telemetry.ingest(batch), by=token_of(made))

        deliveries: list[Awaitable[Any]] = []
        for made in sensors:
            for session in (*recorded, *recording, None):
                sent += 1
                deliveries.append(deliver(made, session and session.id, sent))
        stops: list[Use] = [
            lambda work, it=it.id: work.captures.stop(it, CaptureStatus.SUCCEEDED) for it in reversed(recording)
        ]
        starts: list[Use] = [lambda work, it=it.id: work.captures.start(it) for it in drafts]
        archives: list[Use] = [
            lambda work: work.runs.set_statuses(ids, RunStatus.ARCHIVED),
            lambda work: work.runs.set_statuses(ids[::-1], RunStatus.ARCHIVED),
            *(lambda work, it=it: work.runs.archive(it) for it in ids),
            *(lambda work, it=it.id: work.captures.archive(it) for it in recorded[::-2]),
        ]
        others: list[Use] = [
            *(lambda work, it=it.sensor.id: work.sensors.edit(it, name="TC") for it in sensors),
            *(lambda work, it=it: work.runs.unbind(it, sensors[0].sensor.id) for it in ids),
            *(lambda work, it=it: work.runs.bind(it, sensors[0].sensor.id) for it in ids),
        ]
        accepted, _ = await asyncio.gather(
            asyncio.gather(*deliveries),
            _at_once(lab, dice, [*stops, *starts, *archives, *others]),
        )
        await _at_once(lab, dice, archives)
        kept = 0
        for session in (*recorded, *recording, *drafts):
            moves = await _in_a_line(lab, "capture_session", session.id)
            found = await lab.ask(lambda work, it=session.id: work.captures.get(it))
            assert found.version == 1 + len(moves)
            kept += sum(it.count for it in await lab.ask(lambda work, it=session.id: work.telemetry.series(it)))
            page = await lab.ask(lambda work, it=session.id: work.captures.events(it, limit=500))
            told = [recorded.event for recorded in page.items]
            assert [it.data["from"] for it in told if "from" in it.data] == [move.source for move in moves]
            # What came late came after the end, and before the archive.
            late = [number for number, it in enumerate(told) if it.type == "capture.late_data"]
            over = [number for number, it in enumerate(told) if it.type == "capture.completed"]
            archived = [number for number, it in enumerate(told) if it.type == "capture.archived"] or [len(told)]
            assert all(over[0] < number < archived[0] for number in late)
        assert kept == sum(1 for answer in accepted if not isinstance(answer, str))
        for run_id in ids:
            await _in_a_line(lab, "run", run_id)

    _circling(module_postgres_url, dance)


def test_shared_sensors_in_two_projects(module_postgres_url: str):
    async def dance(lab: Laboratory, dice: random.Random) -> None:
        other = await Laboratory.open(lab.units, clock=_clock())
        await other.do(lambda work: work.projects.put_member(other.project.id, lab.owner.id, Role.OWNER))
        runs = [await lab.run(start=True), await lab.run(start=True)]
        guests = [await other.run(start=True), await other.run(start=True)]
        sensors = [await lab.sensor(*dice.sample(runs, 2)) for _ in range(3)]
        sessions = [await lab.session(run, start=False) for run in runs]
        sessions += [await other.session(run, start=False) for run in guests]

        def of(made: SensorWithToken) -> list[Use]:
            it = made.sensor.id
            return [
                lambda work: work.sensors.share(it, other.project.id),
                lambda work: work.sensors.unshare(it, other.project.id),
                lambda work: work.sensors.rotate_token(it, grace=3600.0),
                *(lambda work, run=run: work.runs.bind(run.id, it) for run in (*guests, *runs)),
                *(lambda work, run=run: work.runs.unbind(run.id, it) for run in (*guests, *runs)),
            ]

        uses = [use for made in sensors for use in of(made)]
        uses += [lambda work, it=it.id: work.captures.start(it) for it in sessions]
        uses += [lambda work: work.sensors.retire(sensors[0].sensor.id)]
        uses += [lambda work, it=it.id: work.captures.stop(it, CaptureStatus.FAILED) for it in sessions]
        await _at_once(lab, dice, uses)
        for session in sessions:
            await _in_a_line(lab, "capture_session", session.id)
        bound = await ask(lab.units, lambda uow: uow.captures.active_with(sensors[0].sensor.id))
        found = await lab.ask(lambda work: work.sensors.get(sensors[0].sensor.id))
        assert found.status != "retired" or bound == []

    _circling(module_postgres_url, dance, rounds=20)


WRITERS, COMMANDS = 40, 25


async def _written(labs: Sequence[Laboratory]) -> tuple[float, list[Verification]]:
    """Seconds that 40 writers took, each in one of the projects, and what their chains are like."""
    runs: list[Run] = [await labs[number % len(labs)].run() for number in range(WRITERS)]

    async def write(number: int) -> None:
        lab, run = labs[number % len(labs)], runs[number]
        for step in range(COMMANDS):
            await lab.do(lambda work: work.runs.edit(run.id, notes=f"{step}"))  # noqa: B023

    begin = time.perf_counter()
    await asyncio.gather(*map(write, range(WRITERS)))
    seconds = time.perf_counter() - begin
    chains: list[Verification] = []
    for lab in labs:
        chains += await lab.ask(lambda work, it=lab.project.id: work.audit.verify([it]))
    return seconds, chains


def test_many_write_to_one_audit_log(module_postgres_url: str):
    async def race(units: UnitsOfWork) -> None:
        await _written([await Laboratory.open(units, clock=_clock())])  # to get warm
        together, (chain,) = await _written([await Laboratory.open(units, clock=_clock())])
        apart, chains = await _written([await Laboratory.open(units, clock=_clock()) for _ in range(WRITERS)])
        commands = WRITERS * COMMANDS
        print(f"one log: {commands / together:.0f}/s, {WRITERS} logs: {commands / apart:.0f}/s")
        assert chain.is_intact
        # The project with its members, an experiment for each run, and the edits.
        assert chain.records == 3 + 2 * WRITERS + commands
        assert 1 <= len(chain.heads) <= CONNECTIONS
        assert sum(head.length for head in chain.heads) == chain.records
        assert all(it.is_intact and it.records == 5 + COMMANDS for it in chains)

    async def run() -> None:
        async with contended(module_postgres_url) as units:
            await race(units)

    asyncio.run(run())


def test_a_transaction_keeps_to_its_strand(module_postgres_url: str):
    """Or else one that lasts collects those that others let go of, and there are ever more of them."""

    async def run() -> None:
        async with contended(module_postgres_url) as units:
            lab = await Laboratory.open(units, clock=_clock())
            runs = [await lab.run() for _ in range(2)]

            async def write(work: Work, run: Run) -> None:
                await work.runs.edit(run.id, notes=str(uuid4()))
                await work.runs.get(run.id)  # what was written is sent with the next question

            # There are always two at once, each of which begins before and ends after another one's end.
            async with AsyncExitStack() as last:
                for number in range(12):
                    async with AsyncExitStack() as before:
                        before.push_async_exit(last.pop_all())
                        work = await last.enter_async_context(lab.services.begin(lab.owner))
                        await write(work, runs[number % 2])
                    await write(work, runs[number % 2])
            (chain,) = await lab.ask(lambda work: work.audit.verify([lab.project.id]))
            assert chain.is_intact
            assert len(chain.heads) == 2

    asyncio.run(run())
