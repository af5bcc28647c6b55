"""What every `Spool` promises: batches are kept in the order of their reception, within bounds, and let go of once."""

import asyncio
import json
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import NOW, fresh
from experiment_adapters.memory.spool import MemorySpool
from experiment_adapters.spool.files import FileSpool
from experiment_adapters.spool.format import Record, payload_of, waiting_of
from experiment_adapters.spool.settings import SpoolSettings
from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.spool import Promise, Spool, SpoolFull, WaitingBatch
from experiment_domain.telemetry.batches import Batch, Column, moment
from strategies import finite_floats

MIB = 1 << 20
Opened = Callable[[], AbstractAsyncContextManager[Spool]]


def waiting(**values: Any) -> WaitingBatch:
    column = Column("value", array("q", [1, 2]), array("d", [1.5, -2.0]))
    usual = {"batch": Batch([column]), "token_hash": bytes(32), "sensor_id": fresh(), "received_at": NOW}
    return WaitingBatch(**{**usual, **values})


def promise(key: str = "k-1", fingerprint: bytes = b"same") -> Promise:
    answer = RememberedAnswer(fingerprint=fingerprint, content=b"sealed", answered_at=NOW)
    return Promise(key=IdempotencyKey(principal="sensor:1", key=key), answer=answer)


def shape(found: WaitingBatch) -> Any:
    """Everything of it but its number."""
    batch = found.batch
    columns = [(column.signal, column.timestamps.tolist(), column.values.tolist()) for column in batch.columns]
    head = (batch.capture_session_id, batch.batch_id, found.token_hash, found.sensor_id, found.received_at)
    return (*head, found.request_id, found.address, found.promise, columns)


@asynccontextmanager
async def file_spool(directory: Path, **settings: Any) -> AsyncIterator[FileSpool]:
    spool = FileSpool(SpoolSettings(directory=directory, **settings))
    async with spool.opened():
        yield spool


@asynccontextmanager
async def memory_spool() -> AsyncIterator[Spool]:
    yield MemorySpool()


@pytest.fixture(params=["memory", "files"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Each adapter in turn."""
    return memory_spool if request.param == "memory" else lambda: file_spool(tmp_path / "spool")


async def drained(spool: Spool, most: int = 100) -> list[WaitingBatch]:
    """Everything, taken out."""
    found: list[WaitingBatch] = []
    async with spool.draining() as draining:
        assert draining is not None
        while window := await draining.oldest(most):
            found += window
            await draining.done()
    return found


async def test_first_in_first_out(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        assert spool.is_empty
        kept = [waiting(request_id=f"r-{number}") for number in range(7)]
        for one in kept:
            assert await spool.keep(one) is None
        assert not spool.is_empty
        assert spool.status(NOW).batches == 7
        assert spool.status(NOW).oldest_at == NOW
        found = await drained(spool, most=3)
        assert [shape(one) for one in found] == [shape(one) for one in kept]
        assert [one.number for one in found] == sorted({one.number for one in found})
        assert spool.is_empty
        assert await drained(spool) == []


async def test_many_at_once_are_all_kept(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        await asyncio.gather(*(spool.keep(waiting(request_id=str(number))) for number in range(100)))
        assert sorted(int(one.request_id or "") for one in await drained(spool)) == list(range(100))


async def test_what_is_not_let_go_of_is_taken_out_again(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        for _ in range(3):
            await spool.keep(waiting())
        async with spool.draining() as draining:
            assert draining is not None
            first = await draining.oldest(2)
            assert [one.number for one in await draining.oldest(2)] == [one.number for one in first]
        assert len(await drained(spool)) == 3


async def test_whose_batches_wait(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        one, other = waiting(token_hash=b"1" * 32), waiting(token_hash=b"2" * 32)
        await spool.keep(one)
        assert spool.holds(one.sensor_id)
        assert not spool.holds(other.sensor_id)
        assert spool.sensor_of(b"1" * 32) == one.sensor_id
        assert spool.sensor_of(b"2" * 32) is None
        await spool.keep(other)
        async with spool.draining() as draining:
            assert draining is not None
            await draining.oldest(1)
            await draining.done()
        assert not spool.holds(one.sensor_id)
        assert spool.sensor_of(b"1" * 32) is None
        assert spool.holds(other.sensor_id)


async def test_only_one_drains(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        await spool.keep(waiting())
        async with spool.draining() as draining:
            assert draining is not None
        async with spool.draining() as draining:
            assert draining is not None


async def test_a_promise_is_given_once(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        assert await spool.keep(waiting(promise=promise())) is None
        assert await spool.keep(waiting(promise=promise())) == promise()
        with pytest.raises(Invalid) as refusal:
            await spool.keep(waiting(promise=promise(fingerprint=b"other")))
        assert refusal.value.code == "idempotency_key_reused"
        together = await asyncio.gather(*(spool.keep(waiting(promise=promise("k-2"))) for _ in range(5)))
        assert together.count(None) == 1
        assert len(await drained(spool)) == 2
        # Who drained it has kept the promise: from here on the database knows the key.
        assert await spool.keep(waiting(promise=promise())) is None


async def test_a_refused_batch_is_set_aside(opened: Opened, runner: object) -> None:
    async with opened() as spool:
        await spool.keep(waiting())
        async with spool.draining() as draining:
            assert draining is not None
            (refused,) = await draining.oldest(10)
            await draining.set_aside(refused, Conflict("archived", "It is archived."), NOW)
            await draining.done()
        assert spool.is_empty
        assert spool.status(NOW).refused == 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
columns = st.builds(
    lambda signal, rows: Column(signal, array("q", [t for t, _ in rows]), array("d", [v for _, v in rows])),
    texts,
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), finite_floats()), max_size=5),
)
moments = st.integers(0, 4_000_000_000_000_000).map(moment)


@given(
    st.builds(
        WaitingBatch,
        batch=st.builds(
            Batch,
            columns=st.lists(columns, max_size=4),
            capture_session_id=st.none() | st.uuids(),
            batch_id=st.none() | st.text("aZ0-ö漢🚀", min_size=1, max_size=20),
        ),
        token_hash=st.binary(min_size=32, max_size=32),
        sensor_id=st.uuids(),
        received_at=moments,
        request_id=st.none() | texts,
        address=st.none() | texts,
        promise=st.none()
        | st.builds(
            Promise,
            key=st.builds(IdempotencyKey, principal=texts, key=texts),
            answer=st.builds(RememberedAnswer, fingerprint=st.binary(), content=st.binary(), answered_at=moments),
        ),
        number=st.integers(0, 2**63),
    )
)
def test_a_batch_is_read_as_it_was_written(one: WaitingBatch) -> None:
    found = waiting_of(Record(one.number, one.number + 1, payload_of(one)))
    assert found is not None
    assert (shape(found), found.number) == (shape(one), one.number)


@given(st.binary(max_size=50), st.integers(0, 400), st.integers(1, 255))
def test_what_is_not_understood_is_no_batch(content: bytes, place: int, change: int) -> None:
    """Of another version, say: its checksums are right, and still it must not hold up what is behind it."""
    assert waiting_of(Record(0, 1, content)) is None
    payload = bytearray(payload_of(waiting(batch=Batch([], batch_id="b-1"))))
    payload[place % len(payload)] ^= change
    waiting_of(Record(0, 1, bytes(payload)))  # something else, or nothing, but no error


async def test_what_was_kept_outlives_the_process(tmp_path: Path, runner: object) -> None:
    kept = [waiting(token_hash=bytes([number]) * 32, promise=promise(f"k-{number}")) for number in range(3)]
    async with file_spool(tmp_path / "spool") as spool:
        for one in kept:
            await spool.keep(one)
    async with file_spool(tmp_path / "spool") as spool:
        assert spool.sensor_of(bytes([1]) * 32) == kept[1].sensor_id
        assert spool.holds(kept[2].sensor_id)
        assert await spool.keep(waiting(promise=promise("k-2"))) == promise("k-2")
        assert [shape(one) for one in await drained(spool)] == [shape(one) for one in kept]


async def test_processes_share_a_directory(tmp_path: Path, runner: object) -> None:
    async with file_spool(tmp_path / "spool") as one, file_spool(tmp_path / "spool") as other:
        first = waiting(token_hash=b"1" * 32, promise=promise())
        await one.keep(first)
        assert not other.is_empty
        assert other.holds(first.sensor_id)
        assert other.sensor_of(b"1" * 32) == first.sensor_id
        assert await other.keep(waiting(promise=promise())) == promise()
        second = waiting()
        await other.keep(second)
        async with one.draining() as draining, other.draining() as theirs:
            assert draining is not None
            assert theirs is None
            assert [shape(found) for found in await draining.oldest(10)] == [shape(first), shape(second)]
            await draining.done()
        assert other.is_empty
        assert not other.holds(second.sensor_id)
        await other.keep(waiting())
        assert len(await drained(one)) == 1


async def test_room_is_bounded(tmp_path: Path, runner: object) -> None:
    big = Batch([Column("value", array("q", range(10_000)), array("d", [0.5] * 10_000))])
    async with file_spool(tmp_path / "spool", max_bytes=MIB) as spool:
        outcomes = await asyncio.gather(
            *(spool.keep(waiting(batch=big, request_id=str(number))) for number in range(20)), return_exceptions=True
        )
        full = [one for one in outcomes if isinstance(one, SpoolFull)]
        assert len(full) == 20 - MIB // 160_250
        assert "its spool is full" in full[0].detail
        assert spool.status(NOW).bytes <= MIB
        assert len(await drained(spool)) == 20 - len(full)
        assert spool.status(NOW).bytes == 0
        # What was set aside takes room as well, for as long as it lies there.
        await spool.keep(waiting(batch=big))
        async with spool.draining() as draining:
            assert draining is not None
            (refused,) = await draining.oldest(1)
            await draining.set_aside(refused, Conflict("archived", "It is archived."), NOW)
            await draining.done()
        assert spool.status(NOW).bytes > 50_000


async def test_time_is_bounded(tmp_path: Path, runner: object) -> None:
    async with file_spool(tmp_path / "spool", max_age=60) as spool:
        await spool.keep(waiting())
        await spool.keep(waiting(received_at=NOW + timedelta(seconds=60)))
        assert not spool.status(NOW + timedelta(seconds=60)).is_full
        assert spool.status(NOW + timedelta(seconds=61)).is_full
        with pytest.raises(SpoolFull, match="longer than its spool may"):
            await spool.keep(waiting(received_at=NOW + timedelta(seconds=61)))
        # Nothing is lost because it is old; and when it has left, there is time again.
        assert len(await drained(spool)) == 2
        await spool.keep(waiting(received_at=NOW + timedelta(seconds=61)))


async def test_what_was_set_aside_says_why_and_can_be_sent_again(tmp_path: Path, runner: object) -> None:
    session_id = fresh()
    column = Column("temperature", array("q", [1, 2]), array("d", [0.1, -2.5]))
    batch = Batch([column], capture_session_id=session_id, batch_id="b-1")
    refused = waiting(batch=batch, token_hash=b"\xaa" * 32, request_id="r-1")
    async with file_spool(tmp_path / "spool") as spool:
        await spool.keep(refused)
        async with spool.draining() as draining:
            assert draining is not None
            (found,) = await draining.oldest(1)
            # Whoever is killed before it lets go of it sets it aside again: that is the same file.
            for _ in range(2):
                await draining.set_aside(found, Invalid.at("readings", "must not be bad"), NOW)
            await draining.done()
    (path,) = (tmp_path / "spool" / "refused").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    content = json.loads(path.read_text())
    assert content["code"] == "invalid"
    assert content["detail"] == "readings: must not be bad"
    assert content["sensor_id"] == str(refused.sensor_id)
    assert content["request_id"] == "r-1"
    assert content["message"] == {
        "capture_session_id": str(session_id),
        "batch_id": "b-1",
        "columns": [{"signal": "temperature", "timestamps": [1, 2], "values": [0.1, -2.5]}],
    }
    assert (b"\xaa" * 32).hex() not in path.read_text()


async def test_what_is_damaged_is_set_aside_and_the_rest_goes_on(tmp_path: Path, runner: object) -> None:
    async with file_spool(tmp_path / "spool") as spool:
        for number in range(3):
            await spool.keep(waiting(request_id=str(number)))
        (segment,) = (tmp_path / "spool" / "segments").iterdir()
        content = bytearray(segment.read_bytes())
        content[len(content) // 2] ^= 0xFF
        segment.write_bytes(content)
        assert [one.request_id for one in await drained(spool)] == ["0", "2"]
        assert spool.status(NOW).refused == 1
        assert spool.is_empty
    (path,) = (tmp_path / "spool" / "refused").iterdir()
    assert path.suffix == ".damaged"
    assert len(path.read_bytes()) == len(content) // 3
