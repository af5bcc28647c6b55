"""Batches of readings while the database is away: 202, the same rules, and what is told of them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from attrs import frozen
from litestar import Litestar

from doors import Door
from experiment_adapters.memory.spool import MemorySpool
from experiment_adapters.spool.files import FileSpool
from experiment_adapters.spool.settings import SpoolSettings
from experiment_domain.unit_of_work import UnitsOfWork
from http_api import Client, World, app_over, new_world, refusal
from socket_line import Line

BASE = 1_773_051_273_000_000


@frozen(kw_only=True)
class Place:
    """A world, the door to its database, and the directory of its spool."""

    world: World
    door: Door
    directory: Path
    app: Litestar

    async def send(self, *values: float, at: int = 0, **more: Any) -> Any:
        headers = {"Idempotency-Key": key} if (key := more.pop("key", None)) else {}
        rows = [{"timestamp": BASE + at + place, "value": value} for place, value in enumerate(values)]
        return await self.world.sensor.post("/telemetry", {"readings": rows, **more}, headers=headers)

    async def values(self) -> list[float]:
        path = f"/capture-sessions/{self.world.session_id}/telemetry"
        params = {"sensor_id": self.world.sensor_id, "layer": "raw", "start": BASE}
        found = await self.world.editor.done("GET", path, params=params)
        return [item["value"] for item in found["items"]]

    async def ready(self) -> tuple[int, Any]:
        answer = await self.world.anonymous.get("//health/ready")
        return answer.status_code, answer.json()

    async def metric(self, name: str) -> float:
        text = (await self.world.anonymous.get("//metrics")).text
        (line,) = [line for line in text.splitlines() if line.startswith(name) and line[len(name)] in " {"]
        return float(line.rpartition(" ")[2])

    async def drained(self, count: int) -> Any:
        """What readiness says when so many batches have left the spool."""
        deadline = time.monotonic() + 30
        while True:
            done = [
                await self.metric(f'experiment_spool_drained_total{{outcome="{it}"}}') for it in ("stored", "refused")
            ]
            if sum(done) >= count:
                assert sum(done) == count
                return (await self.ready())[1]
            assert time.monotonic() < deadline, f"waited in vain: {done}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def placed(units: UnitsOfWork, directory: Path, **settings: Any) -> AsyncIterator[Place]:
    door = Door(units)
    spool = FileSpool(SpoolSettings(directory=directory, **settings))
    app = app_over(door, {"database": door.check}, spool=spool)
    async with spool.opened(), app.lifespan():
        place = Place(world=await new_world(app), door=door, directory=directory, app=app)
        # Only who was let in before may wait.
        assert (await place.send(0.0, at=-1_000_000)).status_code == 200
        yield place


@pytest.mark.covers("telemetry.ingest")
async def test_away_and_back(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        status, content = await place.ready()
        assert (status, content["status"], content["spool"]["status"]) == (200, "ok", "ok")
        place.door.is_shut = True
        answer = await place.send(1.0, 2.0, capture_session_id=place.world.session_id)
        assert answer.status_code == 202
        assert answer.json() == {"accepted": 2, "spooled": True, "capture_session_id": place.world.session_id}
        answer = await place.send(3.0, at=10)
        assert answer.status_code == 202
        assert answer.json() == {"accepted": 1, "spooled": True, "capture_session_id": None}
        status, content = await place.ready()
        assert (status, content["status"]) == (200, "spooling")
        assert content["dependencies"]["database"]["status"] == "failed"
        assert content["spool"]["status"] == "spooling"
        assert content["spool"]["batches"] == 2
        assert content["spool"]["oldest_at"].endswith("Z")
        assert await place.metric("experiment_spool_batches") == 2
        assert await place.metric("experiment_spool_oldest_seconds") > 0
        assert await place.metric("experiment_spool_kept_total") == 2
        place.door.is_shut = False
        content = await place.drained(2)
        assert (content["status"], content["spool"]["status"]) == ("ok", "ok")
        assert await place.values() == [1.0, 2.0, 3.0]
        assert await place.metric('experiment_spool_drained_total{outcome="stored"}') == 2
        assert (await place.send(4.0, at=20)).status_code == 200


async def test_other_requests_and_strangers_get_503(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        place.door.is_shut = True
        unknown = Client(place.app, f"xps_{uuid4().hex}")
        rows = {"readings": [{"timestamp": BASE, "value": 1.0}]}
        answers = [
            await unknown.post("/telemetry", rows),
            await place.world.owner.post("/telemetry", rows),
            await place.world.sensor.post(f"/sensors/{place.world.sensor_id}/heartbeat"),
            await place.world.owner.get("/projects"),
        ]
        for answer in answers:
            refusal(answer, 503, "unavailable")
            assert answer.headers["retry-after"]
        _, content = await place.ready()
        assert content["spool"]["batches"] == 0


async def test_bad_batches_are_refused_at_once(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        place.door.is_shut = True
        refusal(await place.send(1.0, at=10**16), 422, "bad_readings")
        refusal(await place.send(), 422, "invalid")
        refusal(await place.send(1.0, surplus=1), 422, "invalid")
        refusal(await place.send(1.0, batch_id="a\nb"), 422, "invalid")


async def test_idempotency_keys(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        before = await place.send(9.0, at=90, key="before")
        place.door.is_shut = True
        first = await place.send(1.0, key="k-1")
        assert first.status_code == 202
        again = await place.send(1.0, key="k-1")
        assert (again.status_code, again.json()) == (202, first.json())
        assert again.headers["idempotency-replayed"] == "true"
        refusal(await place.send(2.0, key="k-1"), 422, "idempotency_key_reused")
        together = await asyncio.gather(*(place.send(3.0, at=10, key="k-2") for _ in range(8)))
        assert [answer.status_code for answer in together] == [202] * 8
        assert sum("idempotency-replayed" in answer.headers for answer in together) == 7
        # Nobody can ask what came of an earlier one; when it is drained, it has no second effect.
        assert (await place.send(9.0, at=90, key="before")).status_code == 202
        assert await place.metric("experiment_spool_batches") == 3
        place.door.is_shut = False
        await place.drained(3)
        assert await place.values() == [1.0, 3.0, 9.0]
        after = await place.send(1.0, key="k-1")
        assert (after.status_code, after.json()) == (202, first.json())
        assert after.headers["idempotency-replayed"] == "true"
        refusal(await place.send(2.0, key="k-1"), 422, "idempotency_key_reused")
        replayed = await place.send(9.0, at=90, key="before")
        assert (replayed.status_code, replayed.json()) == (200, before.json())
        assert await place.metric("experiment_spool_refused") == 0


async def test_a_lost_answer_to_a_commit(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        place.door.loses_answers = True
        assert (await place.send(1.0, key="k-1", batch_id="b-1")).status_code == 202
        assert (await place.send(2.0, at=10)).status_code == 202
        place.door.loses_answers = False
        await place.drained(2)
        assert await place.values() == [1.0, 2.0]
        assert (await place.send(1.0, batch_id="b-1")).json()["duplicate"] is True
        series = await place.world.editor.done("GET", f"/capture-sessions/{place.world.session_id}/series")
        assert [one["count"] for one in series["items"]] == [3]


async def test_frames_of_sockets_wait_as_well(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:

        def frame(seq: int, *values: float, **more: Any) -> Any:
            return {"seq": seq, "columns": [{"timestamps": [BASE] * len(values), "values": values}], **more}

        async with Line(place.app, place.world.sensor.token) as socket:
            assert (await socket.ask(frame(1, 1.0)))["accepted"] == 1
            place.door.is_shut = True
            kept = {"accepted": 1, "spooled": True, "capture_session_id": None}
            assert await socket.ask(frame(2, 2.0)) == {"seq": 2, **kept}
            assert (await socket.ask(frame(3)))["error"]["code"] == "invalid"
            assert (await place.send(3.0)).status_code == 202
            assert await socket.ask(frame(4, 4.0)) == {"seq": 4, **kept}
            # Whoever is known may open a socket, and nobody else.
            async with Line(place.app, place.world.sensor.token) as other:
                assert await other.ask(frame(1, 5.0)) == {"seq": 1, **kept}
            await Line(place.app, f"xps_{uuid4().hex}").refused(503, "unavailable")
            assert await place.metric("experiment_spool_kept_total") == 4
            place.door.is_shut = False
            await place.drained(4)
            assert await place.values() == [5.0]
            assert (await socket.ask(frame(5, 6.0)))["duplicate"] is False
        assert await place.values() == [6.0]


async def test_what_is_refused_later_is_told(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        place.door.is_shut = True
        assert (await place.send(1.0, capture_session_id=str(uuid4()))).status_code == 202
        assert (await place.send(2.0)).status_code == 202
        place.door.is_shut = False
        content = await place.drained(2)
        assert content["spool"]["refused"] == 1
        assert await place.metric("experiment_spool_refused") == 1
        assert await place.metric('experiment_spool_drained_total{outcome="refused"}') == 1
        assert await place.values() == [2.0]
        assert len(list((place.directory / "refused").iterdir())) == 1


async def test_a_full_spool(units_of_work: UnitsOfWork, tmp_path: Path, runner: object) -> None:
    async with placed(units_of_work, tmp_path / "spool", max_bytes=100_000) as place:
        place.door.is_shut = True
        assert (await place.send(*[0.5] * 5_000)).status_code == 202
        answer = await place.send(*[1.5] * 5_000, at=10_000)
        problem = refusal(answer, 503, "unavailable")
        assert "its spool is full" in problem["detail"]
        assert answer.headers["retry-after"]
        assert await place.metric("experiment_spool_rejected_total") == 1
        assert (await place.send(2.0, at=20_000)).status_code == 202  # there is room for a small one
        place.door.is_shut = False
        await place.drained(2)
        assert (await place.send(*[1.5] * 5_000, at=10_000)).status_code == 200


async def test_readiness_fails_where_nothing_can_wait(
    units_of_work: UnitsOfWork, tmp_path: Path, runner: object
) -> None:
    async with placed(units_of_work, tmp_path / "spool", max_age=1e-6) as place:
        place.door.is_shut = True
        assert (await place.send(1.0)).status_code == 202
        refusal(await place.send(2.0), 503, "unavailable")
        status, content = await place.ready()
        assert (status, content["status"], content["spool"]["status"]) == (503, "failed", "failed")
    door = Door(units_of_work)
    door.is_shut = True
    client = Client(app_over(door, {"database": door.check}, spool=MemorySpool()), None)
    assert (await client.get("//health/ready")).status_code == 503  # nobody is known yet


async def test_a_disk_that_fails(
    units_of_work: UnitsOfWork, tmp_path: Path, runner: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with placed(units_of_work, tmp_path / "spool") as place:
        place.door.is_shut = True

        def fail(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("experiment_adapters.spool.log.os.fsync", fail)
            answer = await place.send(1.0)
            assert "its spool cannot be written" in refusal(answer, 503, "unavailable")["detail"]
        assert (await place.send(1.0)).status_code == 202
