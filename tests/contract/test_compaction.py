"""Compaction: few sorted chunks in the place of many, and nothing that is read, answered or counted has changed."""

import random
from datetime import timedelta
from typing import Any

import pytest

from entities import NOW, SettableClock, a_batch, a_column
from experiment_domain.kernel.errors import Conflict
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.compaction import FULL, RUN, ChunkHeader, choose
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases.backfilling import work_off_backfills
from laboratory import Laboratory
from recorder import Recorder

T0 = micros(NOW)


@pytest.mark.postgres
async def test_a_reading_a_second_becomes_few_chunks(runner: object, postgres_units_of_work: UnitsOfWork):
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    for second in range(200):
        await it.send((T0 + second * 1_000_000 - 10**9, second / 7))
    before = await it.told()
    assert len(await it.chunks()) == 200
    assert await it.compact() > 0
    assert await it.chunks() == [(200, False)]
    assert await it.told() == before
    # The session goes on, and what is new lies behind.
    await it.send((T0, 1.0), (T0 - 500_000_000 * 3, 2.0))
    before = await it.told()
    await it.compact()
    assert await it.chunks() == [(202, False)]
    assert await it.told() == before


@pytest.mark.postgres
async def test_what_was_overridden_stays_stored_and_is_read_by_nobody(
    runner: object, postgres_units_of_work: UnitsOfWork
):
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    await it.send((1, 1.0), (2, 2.0), (3, 3.0))
    await it.send((2, 20.0))
    await it.lab.stop(it.session)
    await it.send((3, 30.0), (2, 200.0))
    before = await it.told()
    await it.compact()
    assert await it.told() == before
    assert sorted(await it.chunks()) == [(1, False), (2, True)]
    aside = await it.ask('SELECT late, "values" FROM telemetry_overridden WHERE capture_session_id = %s ORDER BY id')
    assert [(late, list(values)) for late, values in aside] == [([False, False, False], [2.0, 20.0, 3.0])]
    # A later one still overrides, and again nothing is lost.
    await it.send((1, 10.0))
    before = await it.told()
    await it.compact()
    assert await it.told() == before
    assert await it.chunks() == [(3, True)]


@pytest.mark.postgres
async def test_shuffled_repeated_and_late_it_is_the_same(runner: object, postgres_units_of_work: UnitsOfWork):
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work), valid_range={"min": None, "max": 60.0})
    chance = random.Random(7)
    batches = [
        it.batch(*((chance.randrange(400) * 100_000, chance.uniform(-9, 99)) for _ in range(chance.randrange(1, 9))))
        for _ in range(250)
    ]
    for number, batch in enumerate(batches):
        if number == 200:
            await it.lab.stop(it.session)
        await it.lab.ingest(it.made, batch)
        if number % 60 == 59:
            before = await it.told()
            await it.compact(**({"quiet": timedelta(days=1)} if number % 120 == 59 else {}))
            assert await it.told() == before
    await it.compact()
    assert len(await it.chunks()) == 2
    stored = sum(len(batch) for batch in batches)
    ((aside,),) = await it.ask(
        "SELECT coalesce(sum(cardinality(timestamps)), 0) FROM telemetry_overridden WHERE capture_session_id = %s"
    )
    assert sum(count for count, _ in await it.chunks()) + aside == stored
    # The same batches again change nothing, and are answered as the first time.
    before = await it.told()
    for number, batch in enumerate(batches):
        answer = await it.lab.ingest(it.made, batch)
        late = len(batch) if number >= 200 else 0
        assert (answer.accepted, answer.late, answer.duplicate) == (len(batch), late, True)
    assert await it.told() == before


@pytest.mark.postgres
async def test_every_layer_is_merged(runner: object, postgres_units_of_work: UnitsOfWork):
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    for second in range(10):
        await it.send((second, float(second)))
    await it.lab.stop(it.session)
    second = await it.lab.profile(it.made, 3, 0)
    ids = {"profile_id": second.id, "sensor_id": it.made.sensor.id}
    for number, _ in enumerate(("queued", "done")):
        if number:
            assert await work_off_backfills(it.lab.services) == 1
        else:
            await it.lab.do(lambda work: work.backfills.request(it.session.id, **ids))
            # A chunk more than the others has when they are converted.
            await it.send((20, 5.0))
        before = await it.told()
        await it.compact()
        assert await it.told() == before
    assert sorted(await it.chunks()) == [(1, True), (10, False)]
    layers = await it.ask(
        "SELECT profile_id, sum(count) FROM telemetry_physical_chunks WHERE capture_session_id = %s GROUP BY profile_id"
    )
    assert sorted(count for _, count in layers) == [11, 11]


@pytest.mark.postgres
async def test_a_receipt_is_known_by_its_mark(runner: object, postgres_units_of_work: UnitsOfWork):
    clock = SettableClock()
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work, clock))
    await it.send((1, 1.0), batch_id="b-1")
    await it.send((2, 2.0))
    clock.pass_by(700)
    assert await it.compact(lag=timedelta(minutes=2), quiet=timedelta(minutes=10)) == 3  # a chunk and two receipts
    assert await it.ask("SELECT key FROM telemetry_batches WHERE capture_session_id = %s") == []
    for batch in (it.batch((1, 1.0), batch_id="b-1"), it.batch((2, 2.0))):
        answer = await it.lab.ingest(it.made, batch)
        assert (answer.accepted, answer.late, answer.duplicate) == (1, 0, True)
    # Without a session it is found too, also when that is over and another one runs.
    await it.lab.stop(it.session)
    again = a_batch(a_column([2], [2.0]))
    answer = await it.lab.ingest(it.made, again)
    assert (answer.capture_session_id, answer.duplicate) == (it.session.id, True)
    following = await it.lab.session(it.run)
    answer = await it.lab.ingest(it.made, again)
    assert (answer.capture_session_id, answer.duplicate) == (it.session.id, True)
    # Another content is another batch: it is not said to be stored without being so.
    answer = await it.lab.ingest(it.made, a_batch(a_column([2], [3.0]), session=following.id))
    assert (answer.capture_session_id, answer.duplicate) == (following.id, False)


@pytest.mark.postgres
async def test_an_id_is_not_used_for_other_readings_while_its_receipt_is_there(
    runner: object, postgres_units_of_work: UnitsOfWork
):
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    await it.send((1, 1.0), batch_id="b-1")
    with pytest.raises(Conflict) as refusal:
        await it.send((1, 2.0), batch_id="b-1")
    assert refusal.value.code == "batch_id_reused"
    await it.compact()
    answer = await it.send((1, 2.0), batch_id="b-1")
    assert (answer.duplicate, answer.accepted) == (False, 1)


@pytest.mark.postgres
async def test_what_is_new_is_left_as_it_came(runner: object, postgres_units_of_work: UnitsOfWork):
    clock = SettableClock()
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work, clock))
    for second in range(50):
        await it.send((second, 1.0))
    clock.pass_by(300)
    for second in range(50, 60):
        await it.send((second, 1.0))
    how: dict[str, Any] = {"lag": timedelta(minutes=2), "quiet": timedelta(minutes=10)}
    assert await it.compact(least=51, **how) == 0
    assert await it.compact(least=50, **how) > 0
    # The newest of the old ones is told from the others by its receipt only.
    assert [count for count, _ in await it.chunks()] == [49, *[1] * 11]
    ((left,),) = await it.ask("SELECT count(*) FROM telemetry_batches WHERE capture_session_id = %s")
    assert left == 10
    clock.pass_by(700)
    assert await it.compact(least=50, **how) > 0
    assert [count for count, _ in await it.chunks()] == [60]


def headers(*counts: int, start: int = 1) -> list[ChunkHeader]:
    return [ChunkHeader(start + place, count, frozenset()) for place, count in enumerate(counts)]


def chosen(*counts: int, is_settled: bool = False) -> tuple[list[int], int]:
    choice = choose(headers(*counts), 0, is_settled=is_settled)
    return [chunk.position for chunk in choice.chunks], choice.done


def test_small_chunks_are_chosen_when_they_make_a_full_one():
    assert chosen(*[1] * (FULL + 99)) == (list(range(1, FULL + 1)), FULL)
    assert chosen(*[1_000] * 20) == ([], 17)
    assert chosen(*[700] * 25) == (list(range(1, 25)), 24)
    assert chosen(100_000, *[1] * RUN) == (list(range(2, RUN + 2)), 1)


def test_the_end_is_merged_by_and_by():
    assert chosen(*[1] * (RUN - 1)) == ([], 0)
    assert chosen(*[1] * RUN) == (list(range(1, RUN + 1)), 0)
    assert chosen(5_000, *[1] * RUN)[0] == list(range(2, RUN + 2))
    assert chosen(64, 32, *[1] * RUN)[0] == list(range(1, RUN + 3))
    assert chosen(2_000, 1, is_settled=True) == ([1, 2], 0)
    assert chosen(2_000, is_settled=True) == ([], 0)
    assert chosen() == ([], 0)


def test_each_reading_is_moved_a_few_times_only():
    counts, moved = list[int](), 0
    for _ in range(30_000):
        counts.append(1)
        while (choice := choose(headers(*counts), 0, is_settled=False)).chunks:
            first = choice.chunks[0].position - 1
            size = sum(chunk.count for chunk in choice.chunks)
            moved += size
            counts[first : first + len(choice.chunks)] = [size]
    assert moved < 30_000 * 20
    assert len(counts) < 30_000 / FULL + 2 * RUN
