"""Requests that send batches at the same time: stored together, and each answered for itself."""

import asyncio
import gc
import json
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from attrs import evolve
from litestar import Litestar

from experiment_adapters.vectorised import NumpyConverter
from experiment_domain.kernel.access import Principal, SensorToken, System
from experiment_domain.kernel.errors import Unavailable
from experiment_domain.sensors import token_hash
from experiment_domain.telemetry.store import Offer
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import Services
from experiment_http.gathering import AT_ONCE, COLUMNS, READINGS, TOGETHER, Gathering
from experiment_http.v1.batches import batch_from
from http_api import World, new_world, refusal

BASE = 1_773_051_273_000_000


def batch(world: World, stamp: int, value: Any = 1.0) -> bytes:
    """One reading."""
    reading = {"timestamp": BASE + stamp, "value": value}
    return json.dumps({"capture_session_id": world.session_id, "readings": [reading]}).encode()


async def send(world: World, body: bytes, **headers: str) -> Any:
    """What is answered to a batch."""
    return await world.sensor.send(
        "POST", "/telemetry", content=body, headers={"Content-Type": "application/json", **headers}
    )


async def stored(world: World) -> list[float]:
    """The values that are read back."""
    path = f"/capture-sessions/{world.session_id}/telemetry"
    found = await world.editor.done("GET", path, params={"sensor_id": world.sensor_id, "layer": "raw"})
    return [item["value"] for item in found["items"]]


class Units:
    """Units of work of which it is known who began them; they take time, also in memory.

    `waiting` holds them up at the beginning, `ending` at the end, and `broken` lets none begin.
    """

    def __init__(self, units: UnitsOfWork) -> None:
        self.began: list[Principal] = []
        self.waiting = asyncio.Event()
        self.waiting.set()
        self.ending = asyncio.Event()
        self.ending.set()
        self.broken = False
        self._units = units

    @asynccontextmanager
    async def begin(self, principal: Principal, *, read_only: bool = False) -> AsyncGenerator[Any]:
        """A unit of work."""
        self.began.append(principal)
        await asyncio.sleep(0.001)
        await self.waiting.wait()
        if self.broken:
            raise Unavailable("The database is away.")
        async with self._units.begin(principal, read_only=read_only) as unit:
            yield unit
            await self.ending.wait()


async def gathering_over(units: UnitsOfWork, world: World) -> tuple[Gathering, Units]:
    """A gathering by itself, to which the sensor is known: it has delivered batches that went by themselves."""
    watched: Any = Units(units)
    services = Services(units_of_work=watched, converter=NumpyConverter())
    for value in (0.5, 1.0):
        async with services.begin(SensorToken(token_hash=token_hash(token_of(world)))) as work:
            await work.telemetry.ingest(batch_from(batch(world, 0, value)))
    watched.began.clear()
    return Gathering(services), watched


def token_of(world: World) -> str:
    """The token of the sensor."""
    token = world.sensor.token
    assert token is not None
    return token


def offer(world: World, stamp: int) -> Offer:
    """A batch on its way to be gathered."""
    return Offer(token_hash=token_hash(token_of(world)), batch=batch_from(batch(world, stamp)))


def asking(gathering: Gathering, world: World) -> Callable[[int], list[asyncio.Task[Any]]]:
    """What sends so many new batches at once."""
    stamps = iter(range(1, 10_000))
    return lambda number: [asyncio.create_task(gathering.store(offer(world, next(stamps)))) for _ in range(number)]


async def test_each_is_answered_for_itself(app: Litestar, runner: object) -> None:
    worlds = [await new_world(app) for _ in range(4)]
    for world in worlds:
        for value in (0.5, 1.0):
            assert (await send(world, batch(world, 0, value))).status_code == 200
    # Of each sensor one batch that comes twice, two that are refused, and one with a key of its own.
    asked = [
        (world, number, send(world, batch(world, *what), **headers))
        for world in worlds
        for number, (what, headers) in enumerate(
            [
                ((1, 1.5), {}),
                ((2, 2.5), {}),
                ((2, 2.5), {}),
                ((3, "text"), {}),
                ((10**15, 1.0), {}),
                ((4, 3.5), {"Idempotency-Key": "a-key"}),
                ((5, 4.5), {}),
            ]
        )
    ]
    answers = await asyncio.gather(*(request for _, _, request in asked))
    twice: dict[str, list[bool]] = {}
    for (world, number, _), answer in zip(asked, answers, strict=True):
        if number in (3, 4):
            assert refusal(answer, 422, "bad_readings")["errors"][0]["index"] == 0
            continue
        told = answer.json()
        assert (answer.status_code, told["accepted"], told["late"]) == (200, 1, 0), answer.text
        assert told["capture_session_id"] == world.session_id
        if number in (1, 2):
            twice.setdefault(world.session_id, []).append(told["duplicate"])
    assert [sorted(told) for told in twice.values()] == [[False, True]] * len(worlds)
    for world in worlds:
        assert await stored(world) == [1.0, 1.5, 2.5, 3.5, 4.5]


async def test_what_comes_in_during_one_transaction_goes_into_the_next(
    units_of_work: UnitsOfWork, world: World
) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    units.waiting.clear()
    asked = [asyncio.create_task(gathering.store(offer(world, 1)))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked += [asyncio.create_task(gathering.store(offer(world, stamp))) for stamp in range(2, 101)]
    await asyncio.sleep(0)
    # One who does not wait any longer leaves the others as they are.
    asked.pop(50).cancel()
    units.waiting.set()
    outcomes = await asyncio.gather(*asked)
    assert all(outcome is not None and outcome.accepted == 1 for outcome in outcomes)
    assert units.began == [System()] * 3  # one, 64, and the rest
    assert len(await stored(world)) in (100, 101)


async def test_another_transaction_begins_where_as_much_waits_as_it_has_room_for(
    units_of_work: UnitsOfWork, world: World
) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    units.ending.clear()
    asked: list[asyncio.Task[Any]] = []

    async def ask(number: int) -> None:
        first = len(asked) + 1
        asked.extend(
            [asyncio.create_task(gathering.store(offer(world, stamp))) for stamp in range(first, first + number)]
        )
        await asyncio.sleep(0.1)

    await ask(1)
    assert len(units.began) == 1
    await ask(TOGETHER - 1)
    assert len(units.began) == 1  # they wait for it to end
    await ask(1)
    assert len(units.began) == 2
    await ask(2 * TOGETHER)
    assert len(units.began) == AT_ONCE
    await ask(TOGETHER)
    assert len(units.began) == AT_ONCE
    assert not any(one.done() for one in asked)
    units.ending.set()
    async with asyncio.timeout(30):
        assert None not in await asyncio.gather(*asked)
    assert len(units.began) == AT_ONCE + 1
    assert len(await stored(world)) == 1 + len(asked)


async def test_another_transaction_begins_with_half_of_what_there_is_at_once(
    units_of_work: UnitsOfWork, world: World
) -> None:
    """Eight clients that wait for their answers: while four of them are with the database, the others are here."""
    gathering, units = await gathering_over(units_of_work, world)
    ask = asking(gathering, world)
    for _ in range(60):
        await asyncio.gather(*ask(8))
    units.began.clear()
    await asyncio.gather(*ask(8))  # though all have arrived before the first of them is stored
    assert len(units.began) == 2
    for _ in range(2):
        await asyncio.gather(*ask(1))  # once or twice fewer: they are not forgotten as soon as that
    units.ending.clear()
    units.began.clear()
    asked: list[asyncio.Task[Any]] = []
    for number, transactions in ((1, 1), (3, 1), (1, 2), (3, 2), (1, 3)):
        asked += ask(number)
        await asyncio.sleep(0.1)
        assert len(units.began) == transactions
    units.ending.set()
    async with asyncio.timeout(30):
        assert None not in await asyncio.gather(*asked)
    assert len(units.began) == 3


async def test_if_who_stores_for_others_goes_away_they_store_by_themselves(
    units_of_work: UnitsOfWork, world: World
) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    ask = asking(gathering, world)
    for _ in range(80):
        await asyncio.gather(*ask(4))
    units.ending.clear()
    first, storing, *others = ask(4)
    await asyncio.sleep(0.1)
    storing.cancel()
    async with asyncio.timeout(30):
        assert await first is None
        units.ending.set()
        assert None not in await asyncio.gather(*others, *ask(4))


async def test_nobody_is_left_to_hear_what_became_of_who_stored_for_others_and_went_away(
    units_of_work: UnitsOfWork, world: World
) -> None:
    """The same batch twice: the latter completes the half and stores the former, not itself."""
    gathering, units = await gathering_over(units_of_work, world)
    ask = asking(gathering, world)
    for _ in range(60):
        await asyncio.gather(*ask(6))
    unheard: list[Any] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unheard.append(context))
    try:
        units.waiting.clear()
        first = ask(1)
        await asyncio.sleep(0.1)
        same = offer(world, 5_000)
        former, between, storing = [
            asyncio.create_task(gathering.store(one)) for one in (same, offer(world, 5_001), same)
        ]
        await asyncio.sleep(0.1)
        storing.cancel()
        await asyncio.sleep(0)
        units.broken = True
        units.waiting.set()
        await asyncio.gather(*first, former, between, storing, return_exceptions=True)
        await asyncio.sleep(0.1)
        del first, former, between, storing
        gc.collect()
    finally:
        loop.set_exception_handler(None)
    assert unheard == []


async def test_who_sends_no_longer_is_not_waited_for(units_of_work: UnitsOfWork, world: World) -> None:
    """Two of three clients go away: after some transactions without them, the other one is not kept waiting."""
    gathering, units = await gathering_over(units_of_work, world)
    ask = asking(gathering, world)
    for _ in range(80):
        await asyncio.gather(*ask(3))
    for alone, transactions in ((4, 1), (4, 2)):  # until two are expected, not three
        for _ in range(alone):
            await asyncio.gather(*ask(1))
        units.ending.clear()
        units.began.clear()
        asked = ask(1)
        await asyncio.sleep(0.1)
        asked += ask(1)
        await asyncio.sleep(0.1)
        assert len(units.began) == transactions
        units.ending.set()
        await asyncio.gather(*asked)


@pytest.mark.parametrize(("signals", "readings"), [(COLUMNS // 2, 1), (1, READINGS // 2)])
async def test_large_batches_take_the_room_of_many(
    units_of_work: UnitsOfWork, world: World, signals: int, readings: int
) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    column = {"timestamps": list(range(BASE, BASE + readings)), "values": [1.0] * readings}
    columns = [{"signal": f"s{number}", **column} for number in range(signals)]
    large = batch_from(json.dumps({"capture_session_id": world.session_id, "columns": columns}).encode())
    asked = [
        Offer(token_hash=token_hash(token_of(world)), batch=evolve(large, batch_id=f"{number}")) for number in range(5)
    ]
    outcomes = await asyncio.gather(*map(gathering.store, [*asked, offer(world, 1)]))
    assert [outcome is not None for outcome in outcomes] == [False] * 5 + [True]  # their series do not exist yet
    assert len(units.began) == 3  # two, two, and the rest


async def test_nobody_is_forgotten(units_of_work: UnitsOfWork, world: World) -> None:
    """Whenever they come: before a transaction, while it lasts, or while it is only to be committed."""
    gathering, units = await gathering_over(units_of_work, world)
    chance = random.Random(20261125)

    async def sender(number: int) -> None:
        for place in range(25):
            await asyncio.sleep(chance.choice((0, 0, 0.001, 0.003)))
            units.ending.clear() if chance.random() < 0.3 else units.ending.set()
            asyncio.get_running_loop().call_later(chance.uniform(0, 0.003), units.ending.set)
            assert await gathering.store(offer(world, 1 + number * 1_000 + place)) is not None

    async with asyncio.timeout(60):
        await asyncio.gather(*map(sender, range(6)))
    assert len(await stored(world)) == 151


async def test_the_same_batch_twice_is_not_for_one_transaction(units_of_work: UnitsOfWork, world: World) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    same = offer(world, 1)
    outcomes = await asyncio.gather(*map(gathering.store, [offer(world, 2), same, same, offer(world, 3)]))
    assert [outcome is None for outcome in outcomes] == [False, False, True, False]
    assert len(units.began) == 2
    assert len(await stored(world)) == 4


async def test_everybody_is_told_at_once_that_the_database_is_away(units_of_work: UnitsOfWork, world: World) -> None:
    gathering, units = await gathering_over(units_of_work, world)
    units.broken = True
    for transactions in (1, 2):
        outcomes = await asyncio.gather(
            *(gathering.store(offer(world, stamp)) for stamp in range(1, 101)), return_exceptions=True
        )
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert len(units.began) == transactions
    units.broken = False
    # Those who were told so are neither waited for nor counted any longer.
    units.ending.clear()
    units.began.clear()
    asked = [asyncio.create_task(gathering.store(offer(world, 1)))]
    await asyncio.sleep(0.1)
    asked.append(asyncio.create_task(gathering.store(offer(world, 2))))
    await asyncio.sleep(0.1)
    assert len(units.began) == 1
    units.ending.set()
    assert None not in await asyncio.gather(*asked)
