"""Chunks of readings at one distance from each other keep two timestamps: whatever is asked, the answer is the same."""

import random
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_adapters.postgres.telemetry.arrays import restored, shortened
from experiment_domain.telemetry.batches import EARLIEST, LATEST
from experiment_domain.telemetry.envelopes import EnvelopeQuery
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitsOfWork
from laboratory import Laboratory
from recorder import Recorder

KEPT = "SELECT cardinality(timestamps), count FROM telemetry_chunks WHERE capture_session_id = %s ORDER BY position"


@given(
    first=st.integers(EARLIEST, LATEST),
    distances=st.lists(st.integers(1, 5), min_size=0, max_size=9) | st.tuples(st.integers(1, 10**9), st.integers(0, 9)),
)
def test_timestamps_are_restored_as_they_were(first: int, distances: Any) -> None:
    if isinstance(distances, tuple):
        distances = [distances[0]] * distances[1]
    stamps = np.cumsum([first, *distances])
    kept = shortened(stamps)
    assert len(kept) == (2 if len(stamps) > 2 and len(set(distances)) == 1 else len(stamps))
    assert restored(kept, len(stamps)).tolist() == stamps.tolist()


@pytest.mark.postgres
async def test_everything_is_told_as_if_all_timestamps_were_kept(
    runner: object, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
) -> None:
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work), valid_range={"min": None, "max": 60.0})
    chance = random.Random(18)
    starts = [0, 400, 1_000, 900, 2_000, 10**9]
    for start, step, count in zip(starts, [1, 7, 3, 10, 333_333, 1], [400, 90, 200, 1, 3, 2], strict=True):
        await it.send(*((start + place * step, chance.uniform(-9, 99)) for place in range(count)))
    # One that is not regular, and one that is, but with others between.
    await it.send(*((stamp, chance.uniform(-9, 99)) for stamp in (3_000, 3_001, 3_003)))
    await it.send(*((stamp, chance.uniform(-9, 99)) for stamp in range(-50, 3_050, 31)))
    assert await it.ask(KEPT) == [(2, 400), (2, 90), (2, 200), (1, 1), (2, 3), (2, 2), (3, 3), (2, 100)]
    before, drawn = await it.told(), await _envelopes(it)
    async with await psycopg.AsyncConnection.connect(module_postgres_url) as connection:
        await connection.execute("UPDATE telemetry_chunks AS chunk SET timestamps = timestamps_of(chunk)")
    assert {kept == count for kept, count in await it.ask(KEPT)} == {True}
    assert (await it.told(), await _envelopes(it)) == (before, drawn)


@pytest.mark.postgres
async def test_chunks_that_are_merged_are_regular_if_their_readings_are(
    runner: object, postgres_units_of_work: UnitsOfWork
) -> None:
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    seconds = [second for second in range(100) if second != 60]
    for second in seconds:
        await it.send((second * 1_000_000, float(second)), signal="whole" if second < 60 else "other")
    before = await it.told()
    await it.compact()
    assert await it.told() == before
    assert sorted(await it.ask(KEPT)) == [(2, 39), (2, 60)]
    for second in seconds:
        sent = await it.send((second * 1_000_000, float(second)), signal="whole" if second < 60 else "other")
        assert sent.duplicate


@pytest.mark.postgres
async def test_timestamps_are_the_same_in_every_time_zone(
    runner: object, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
) -> None:
    """Days of 23 and 25 hours are those of clocks on walls."""
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    starts = [EARLIEST, 1_079_000_000_000_000, 1_696_000_000_123_456]
    steps = [10_000 * 86_400_000_000, 86_400_000_000, 36 * 3_600_000_000 + 1]
    for signal, start, step in zip("abc", starts, steps, strict=True):
        await it.send(*((start + place * step, 1.0) for place in range(40)), signal=signal)
    expected = [start + place * step for start, step in zip(starts, steps, strict=True) for place in range(40)]
    for zone in ("UTC", "Europe/Berlin", "America/St_Johns"):
        async with await psycopg.AsyncConnection.connect(module_postgres_url, options=f"-c timezone={zone}") as asking:
            found = await asking.execute(
                "SELECT (extract(epoch FROM stamp) * 1000000)::bigint FROM telemetry_chunks AS chunk,"
                " unnest(timestamps_of(chunk)) WITH ORDINALITY AS held (stamp, place)"
                " WHERE capture_session_id = %s ORDER BY position, place",
                [it.session.id],
            )
            assert [stamp for (stamp,) in await found.fetchall()] == expected


@pytest.mark.postgres
async def test_no_series_is_removed(
    runner: object, postgres_units_of_work: UnitsOfWork, module_postgres_url: str
) -> None:
    it = await Recorder.make(await Laboratory.open(postgres_units_of_work))
    await it.send((1, 1.0))
    before = await it.told()
    for statement in ("DELETE FROM telemetry_series", "TRUNCATE telemetry_series CASCADE"):
        async with await psycopg.AsyncConnection.connect(module_postgres_url) as connection:
            with pytest.raises(psycopg.Error, match="telemetry_series is append-only"):
                await connection.execute(statement)
    assert await it.told() == before


async def _envelopes(it: Recorder) -> list[Any]:
    """Envelopes of stretches whose edges lie anywhere in a chunk."""
    chance = random.Random(18)
    found: list[Any] = []
    for _ in range(40):
        start = chance.randrange(-60, 3_000)
        end = start + chance.randrange(1, 900)
        query = EnvelopeQuery(
            capture_session_id=it.session.id,
            sensor_id=it.made.sensor.id,
            signal="value",
            layer=Layer.RAW,
            start=start,
            end=end,
            points=chance.choice([1, 3, 10, 100]),
        )
        drawn = (await it.lab.ask(lambda work: work.telemetry.envelope(query, layer=Layer.RAW))).envelope  # noqa: B023
        found.append([list(map(repr, part)) for part in (drawn.starts, drawn.counts, drawn.minimums, drawn.lasts)])
    return found
