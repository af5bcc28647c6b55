"""Headers that are kept in memory: whatever became of the chunks since, an envelope shows what there is."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, LiteralString

import psycopg
import pytest
from attrs import evolve, frozen
from hypothesis import settings

from entities import NOW, a_batch
from experiment_adapters.postgres.telemetry.edges import Edges
from experiment_adapters.postgres.telemetry.envelopes import PostgresEnvelopes
from experiment_adapters.postgres.telemetry.known import _EACH, KnownHeaders  # pyright: ignore[reportPrivateUsage]
from experiment_adapters.postgres.unit_of_work import PostgresUnitOfWork, PostgresUnitsOfWork
from experiment_domain.telemetry.batches import Column
from experiment_domain.telemetry.envelopes import Envelope, EnvelopeQuery
from experiment_domain.telemetry.store import Layer
from experiment_domain.unit_of_work import UnitOfWork, UnitsOfWork
from keeping import SYSTEM
from laboratory import Laboratory, token_of
from recorder import Recorder
from rig import SECOND, T0, Rig, column_of

pytestmark = pytest.mark.postgres

CHUNKS, EACH = 4, 5
START = T0 - 10**12
STEPS = 5_000 if settings.get_current_profile_name() == "nightly" else 100


@frozen
class Looked:
    """A rig with some chunks, all that is kept in memory of it, and a way around it into the tables."""

    rig: Rig
    units: PostgresUnitsOfWork
    url: str

    @classmethod
    async def made(cls, units: PostgresUnitsOfWork, url: str) -> "Looked":
        it = cls(await Rig.build(units), units, url)
        for number in range(CHUNKS):
            await it.deliver(number)
        return it

    @property
    def headers(self) -> KnownHeaders:
        return self.units._known  # pyright: ignore[reportPrivateUsage]

    async def deliver(self, number: int, value: float = 1.0) -> None:
        """Keep a chunk of readings with one value."""
        await self.rig.deliver(_column(number, value))

    async def highest(self, layer: Layer = Layer.RAW, **values: Any) -> float:
        """The highest value that an envelope shows."""
        return max((await self.rig.envelope(3, layer, **values)).maximums)

    async def count_in(self, uow: UnitOfWork) -> int:
        """How many readings an envelope has that is made in this unit of work."""
        return sum((await uow.envelopes.read(self.rig.envelope_query(3))).counts)

    async def count(self, layer: Layer = Layer.RAW) -> int:
        return sum((await self.rig.envelope(3, layer)).counts)

    async def change(self, *statements: LiteralString) -> None:
        """Change rows of the session past the service: nobody but the database itself takes notice."""
        async with await psycopg.AsyncConnection.connect(self.url) as connection:
            for statement in statements:
                await connection.execute(statement, [self.rig.session.id])

    @asynccontextmanager
    async def without_last_of_layer(self) -> AsyncIterator[None]:
        """For as long, the last chunk has no physical values, as before a backfill gets there."""
        table = "telemetry_physical_chunks"
        last = f"capture_session_id = %s AND position = (SELECT max(position) FROM {table})"
        async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
            asked = [self.rig.session.id]
            await connection.execute(f"CREATE TEMPORARY TABLE rest AS SELECT * FROM {table} WHERE {last}", asked)
            assert (await connection.execute(f"DELETE FROM {table} WHERE {last}", asked)).rowcount == 1
            yield
            await connection.execute(f"INSERT INTO {table} TABLE rest")


@pytest.fixture
def it(runner: asyncio.Runner, postgres_units_of_work: UnitsOfWork, module_postgres_url: str) -> Looked:
    assert isinstance(postgres_units_of_work, PostgresUnitsOfWork)
    postgres_units_of_work._known = KnownHeaders()  # pyright: ignore[reportPrivateUsage]
    return runner.run(Looked.made(postgres_units_of_work, module_postgres_url))


def _column(number: int, value: float) -> Column:
    return column_of([(T0 + (number * EACH + place) * SECOND, value) for place in range(EACH)])


RAISE = 'UPDATE telemetry_chunks SET maximum = 50, "values"[1] = 50 WHERE capture_session_id = %s'
"""What nobody does: headers are changed without a trace."""


async def test_headers_are_read_once(it: Looked) -> None:
    assert await it.highest() == 1.0
    await it.change(RAISE)
    # Of a part as well as of the whole.
    assert [await it.highest(), await it.highest(start=T0 + 12 * SECOND)] == [1.0, 1.0]
    await it.deliver(CHUNKS, 20.0)
    assert await it.highest() == 20.0


@pytest.mark.parametrize("layer", Layer)
async def test_what_comes_is_shown(it: Looked, layer: Layer) -> None:
    for number in range(CHUNKS, CHUNKS + 3):
        assert await it.count(layer) == number * EACH
        await it.deliver(number)
    # Also where it lies between others.
    await it.rig.deliver(column_of([(T0 + SECOND // 2, 99.0)]), late=True)
    assert await it.highest(layer) == (99.0 if layer is Layer.RAW else 2 * 99.0 + 1.0)
    assert await it.count(layer) == (CHUNKS + 3) * EACH + 1


async def test_a_transaction_that_began_before_and_ended_after_what_was_read_is_shown(it: Looked) -> None:
    async with it.units.begin(SYSTEM) as uow:
        batch = a_batch(_column(CHUNKS, 1.0), batch_id="before")
        assert await uow.telemetry.admit(it.rig.sensor.token_hash, it.rig.session.id, [batch.key], NOW) is not None
        uow.telemetry.append(it.rig.intake(batch, it.rig.session))
        await uow.telemetry.series(it.rig.session.id)
        # Others have begun after it, and ended.
        await it.deliver(CHUNKS + 1)
        assert await it.count() == (CHUNKS + 1) * EACH
        assert await it.count() == (CHUNKS + 1) * EACH
        await uow.commit()
    assert await it.count() == (CHUNKS + 2) * EACH


async def test_what_came_after_the_moment_of_a_unit_of_work_is_not_shown_in_it(it: Looked) -> None:
    async with it.units.begin(SYSTEM, read_only=True) as uow:
        assert await it.count_in(uow) == CHUNKS * EACH
        await it.deliver(CHUNKS)
        # Somebody else reads them meanwhile.
        assert await it.count() == (CHUNKS + 1) * EACH
        assert await it.count_in(uow) == CHUNKS * EACH
    assert await it.count() == (CHUNKS + 1) * EACH


async def test_what_was_rolled_back_is_not_shown(it: Looked) -> None:
    async with it.units.begin(SYSTEM) as uow:
        batch = a_batch(_column(CHUNKS, 1.0), batch_id="taken back")
        assert await uow.telemetry.admit(it.rig.sensor.token_hash, it.rig.session.id, [batch.key], NOW) is not None
        uow.telemetry.append(it.rig.intake(batch, it.rig.session))
        # Who writes sees what it wrote, also where others have looked before.
        for _ in range(2):
            assert await it.count_in(uow) == (CHUNKS + 1) * EACH
            assert await it.count() == CHUNKS * EACH
    assert await it.count() == CHUNKS * EACH


@pytest.mark.parametrize("is_unnamed", [False, True])
async def test_chunks_that_go_are_not_shown(it: Looked, is_unnamed: bool) -> None:
    if is_unnamed:
        # As merged ones are: they name no transaction.
        await it.change("UPDATE telemetry_chunks SET transaction_id = NULL WHERE capture_session_id = %s")
    assert await it.count() == CHUNKS * EACH
    of_this = "WHERE position = (SELECT min(position) FROM telemetry_chunks WHERE capture_session_id = %s)"
    await it.change(f"DELETE FROM telemetry_physical_chunks {of_this}", f"DELETE FROM telemetry_chunks {of_this}")
    assert await it.count() == (CHUNKS - 1) * EACH


async def test_a_layer_that_is_being_made_is_not_kept(it: Looked) -> None:
    async with it.without_last_of_layer():
        assert await it.count(Layer.PHYSICAL) == (CHUNKS - 1) * EACH
    assert await it.count(Layer.PHYSICAL) == CHUNKS * EACH


async def test_the_parts_of_a_layer_that_is_being_made_are_those_of_what_there_is(it: Looked) -> None:
    async with it.without_last_of_layer():
        found = await it.rig.envelope(3, Layer.PHYSICAL, start=T0 + 12 * SECOND, end=T0 + 30 * SECOND)
    assert [start - T0 for start in found.starts] == [12 * SECOND, 13 * SECOND, 14 * SECOND]


async def test_a_chunk_that_gets_its_layer_later_is_shown_then(it: Looked) -> None:
    assert await it.count(Layer.PHYSICAL) == CHUNKS * EACH
    for number in range(CHUNKS, CHUNKS + 2):
        await it.deliver(number)
    async with it.without_last_of_layer():
        assert await it.count(Layer.PHYSICAL) == (CHUNKS + 1) * EACH
    assert await it.count(Layer.PHYSICAL) == (CHUNKS + 2) * EACH


async def test_of_a_database_that_was_copied_as_sql_all_is_read_each_time(it: Looked) -> None:
    """Its chunks name transactions of another server, which are yet to come."""
    await it.change("UPDATE telemetry_chunks SET transaction_id = '9000000000000' WHERE capture_session_id = %s")
    assert await it.highest() == 1.0
    await it.change(RAISE)
    assert await it.highest() == 50.0
    await it.deliver(CHUNKS, 60.0)
    assert await it.highest() == 60.0


async def test_another_life_of_the_server_is_another_database(it: Looked) -> None:
    """Restored from a backup, it gives the same numbers to other transactions."""
    assert await it.highest() == 1.0
    await it.change(RAISE)
    kept = it.headers._series  # pyright: ignore[reportPrivateUsage]
    ((stored, known),) = kept.items()
    async with await psycopg.AsyncConnection.connect(it.url) as connection:
        now = await connection.execute("SELECT pg_postmaster_start_time()")
        assert await now.fetchone() == (known.version.server_started_at,)
    kept[stored] = evolve(known, version=evolve(known.version, server_started_at=NOW))
    assert await it.highest() == 50.0


async def test_the_series_that_was_looked_at_longest_ago_goes_first(it: Looked) -> None:
    others = [await Looked.made(it.units, it.url) for _ in range(2)]
    rigs = [it, *others]
    it.units._known = KnownHeaders(2 * (CHUNKS + _EACH))  # pyright: ignore[reportPrivateUsage]
    for rig in (*rigs[:2], it, others[1]):
        await rig.highest()
    assert len(it.headers._series) == 2  # pyright: ignore[reportPrivateUsage]
    for rig in rigs:
        await rig.change(RAISE)
    assert [await rig.highest() for rig in (it, others[1], others[0])] == [1.0, 1.0, 50.0]


async def test_a_series_that_is_longer_than_there_is_room_for_is_read_each_time(it: Looked) -> None:
    it.units._known = KnownHeaders(CHUNKS)  # pyright: ignore[reportPrivateUsage]
    assert await it.highest() == 1.0
    await it.change(RAISE)
    assert await it.highest() == 50.0


async def test_a_series_that_is_longer_than_there_is_room_for_leaves_the_others(it: Looked) -> None:
    other = await Looked.made(it.units, it.url)
    it.units._known = KnownHeaders(CHUNKS + _EACH)  # pyright: ignore[reportPrivateUsage]
    await it.deliver(CHUNKS)
    assert [await other.highest(), await it.highest()] == [1.0, 1.0]
    await other.change(RAISE)
    assert await other.highest() == 1.0


async def test_whatever_happens_an_envelope_is_what_a_first_look_shows(
    it: Looked, postgres_units_of_work: UnitsOfWork
) -> None:
    sent = await Recorder.make(await Laboratory.open(postgres_units_of_work), valid_range={"min": None, "max": 60.0})
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    await sent.send((START, 1.0))  # whoever makes a series is waited for
    under_way: list[AsyncExitStack] = []
    try:
        for step in range(STEPS):
            await _go_on(sent, step, chance, under_way)
            query = _any_query(sent, step, chance)
            async with it.units.begin(SYSTEM, read_only=True) as uow:
                assert isinstance(uow, PostgresUnitOfWork)
                found = await uow.envelopes.read(query)
                first = await PostgresEnvelopes(uow._statements, KnownHeaders(), Edges()).read(query)  # pyright: ignore[reportPrivateUsage]
            assert _shown(found) == _shown(first), step
    finally:
        for stack in under_way:
            await _take_back(stack)


async def _go_on(sent: Recorder, step: int, chance: random.Random, under_way: list[AsyncExitStack]) -> None:
    """Take a batch in, at once, or by a transaction that ends later, if ever; or end one, or merge."""
    number = step if chance.random() < 0.7 else chance.randrange(step + 1)
    stamps = range(START + number * 5 * SECOND, START + (number * 5 + chance.randrange(1, 8)) * SECOND, SECOND)
    batch = sent.batch(*((stamp, chance.uniform(-9, 99)) for stamp in stamps))
    kind = chance.random()
    if kind < 0.3 and len(under_way) < 3:
        stack = AsyncExitStack()
        under_way.append(stack)
        work = await stack.enter_async_context(sent.lab.services.begin(token_of(sent.made)))
        await work.telemetry.ingest(batch)
    elif kind < 0.5 and under_way:
        stack = under_way.pop(chance.randrange(len(under_way)))
        await (stack.aclose() if chance.random() < 0.7 else _take_back(stack))
    elif kind < 0.6 and not under_way:
        await sent.compact()
    else:
        await sent.lab.ingest(sent.made, batch)


def _any_query(sent: Recorder, step: int, chance: random.Random) -> EnvelopeQuery:
    start = chance.choice([None, START + chance.randrange(5 * step + 1) * SECOND])
    return EnvelopeQuery(
        capture_session_id=sent.session.id,
        sensor_id=sent.made.sensor.id,
        signal="value",
        layer=chance.choice(list(Layer)),
        profile_id=sent.session.pins[0].profile_id,
        points=chance.choice([1, 7, 100]),
        start=start,
        end=chance.choice([None, (start or START) + chance.randrange(1, 100) * SECOND]),
    )


async def _take_back(stack: AsyncExitStack) -> None:
    with suppress(InterruptedError):
        async with stack:
            raise InterruptedError


def _shown(envelope: Envelope) -> list[list[str]]:
    return [list(map(repr, column)) for column in envelope.columns[:-1]]
