"""The API keeps taking readings while PostgreSQL is away, and loses none of them, whatever is killed."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from attrs import define, field

from api_program import ApiProgram, Recording, processes_of, wait_until
from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres import migrations
from fix_up import command
from http_api import API, AUDIENCE, ISSUER, SECRET, token_of
from servers import open_directory

pytestmark = pytest.mark.e2e

BASE = 1_773_051_273_000_000
BOUND = 10.0


@pytest.fixture
def home() -> Iterator[Path]:
    with open_directory() as path:
        yield path


@define
class Rig:
    """A sensor that sends batch after batch, each until it is acknowledged."""

    url: str
    token: str
    batches: int = 0
    answers: Counter[int] = field(factory=Counter)
    slowest: float = 0.0
    is_over: bool = False

    async def send(self) -> None:
        """Batch n has a reading of its own, and one more n for the first moment of all."""
        headers = {"Authorization": f"Bearer {self.token}"}
        async with httpx.AsyncClient(base_url=self.url + API, headers=headers, timeout=30, trust_env=False) as client:
            while not self.is_over:
                number = self.batches + 1
                column = {"timestamps": [BASE, BASE + number], "values": [number, number]}
                body = {"batch_id": f"b-{number}", "columns": [column]}
                while not await self._is_taken(client, body, number):  # noqa: ASYNC110 - it is to be sent again
                    await asyncio.sleep(0.05)
                self.batches = number

    async def _is_taken(self, client: httpx.AsyncClient, body: Any, number: int) -> bool:
        began = time.monotonic()
        try:
            answer = await client.post("/telemetry", json=body, headers={"Idempotency-Key": f"k-{number}"})
        except httpx.TransportError:
            self.answers[0] += 1
            return False
        self.slowest = max(self.slowest, time.monotonic() - began)
        self.answers[answer.status_code] += 1
        assert answer.status_code in (200, 202, 409, 503), answer.text
        assert answer.status_code != 503 or answer.headers["retry-after"]
        return answer.is_success


async def until(condition: Callable[[], bool], rigs: Sequence[Rig]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, [rig.answers for rig in rigs]
        await asyncio.sleep(0.02)


async def more(rigs: Sequence[Rig], status: int, count: int) -> None:
    """Every rig has had so many more of these answers."""
    wanted = {rig.token: rig.answers[status] + count for rig in rigs}
    await until(lambda: all(rig.answers[status] >= wanted[rig.token] for rig in rigs), rigs)


def check(rigs: list[Rig], recording: Recording, url: str) -> None:
    """Everything that was acknowledged is there once, and of one moment the reading received last is read."""
    sent = sum(rig.batches for rig in rigs)
    with psycopg.connect(url) as database:
        (row,) = database.execute("SELECT count(*), sum(accepted), sum(late) FROM telemetry_batches").fetchall()
        assert row == (sent, 2 * sent, 0)
        assert database.execute("SELECT sum(count) FROM telemetry_chunks").fetchall() == [(2 * sent,)]
    owner = httpx.Client(
        base_url=recording.url + API,
        headers={"Authorization": f"Bearer {token_of('ann')}"},
        trust_env=False,
        timeout=30,
    )
    with owner:
        series = owner.get(f"/capture-sessions/{recording.session_id}/series").json()["items"]
        assert sorted(one["count"] for one in series) == sorted(1 + rig.batches for rig in rigs)
        assert {one["late"] for one in series} == {0}
        last: list[float] = []
        for one in series:
            params = {"sensor_id": one["sensor_id"], "layer": "raw", "limit": 10_000}
            answer = owner.get(f"/capture-sessions/{recording.session_id}/telemetry", params=params)
            values = [item["value"] for item in answer.json()["items"]]
            assert values[1:] == list(range(1, len(values)))
            last.append(values[0])
        assert sorted(last) == sorted(rig.batches for rig in rigs)


def test_nothing_is_lost_while_the_database_is_away_and_the_api_is_killed(home: Path) -> None:
    server = EmbeddedPostgres(home / "data")
    url = server.start()
    try:
        migrations.upgrade(url)
        spool = home / "spool"
        with ApiProgram(home, url, more={"EXPERIMENT_SPOOL_DIR": str(spool)}) as api:
            recording = Recording.begin(api.url, 3)
            rigs = [Rig(api.url, token) for token in recording.tokens]
            asyncio.run(go_on(rigs, server, api))
            wait_until(lambda: api.ready().get("spool", {}).get("batches") == 0, "all of it is stored")
            assert api.ready()["status"] == "ok"
            assert api.ready()["spool"]["refused"] == 0
            check(rigs, recording, url)
            assert list((spool / "refused").iterdir()) == []
            assert list((spool / "segments").iterdir()) == []
    finally:
        server.stop()


async def go_on(rigs: list[Rig], server: EmbeddedPostgres, api: ApiProgram) -> None:
    sending = [asyncio.create_task(rig.send()) for rig in rigs]
    await more(rigs, 200, 5)
    await asyncio.to_thread(server.stop)
    await more(rigs, 202, 20)
    api.kill_workers()
    await more(rigs, 202, 20)
    api.kill_workers()
    await more(rigs, 202, 100)
    await asyncio.to_thread(server.start)
    waiting = 1_000_000
    while waiting:  # it is being drained
        now = (await asyncio.to_thread(api.ready)).get("spool", {}).get("batches", waiting)
        if now < waiting < 1_000_000:
            api.kill_workers()
            break
        waiting = now
    await more(rigs, 200, 5)
    for rig in rigs:
        rig.is_over = True
    await asyncio.gather(*sending)


def test_a_database_that_does_not_answer_is_not_waited_for_long(home: Path) -> None:
    server = EmbeddedPostgres(home / "data")
    url = server.start()
    try:
        migrations.upgrade(url)
        with ApiProgram(home, url, more={"EXPERIMENT_SPOOL_DIR": str(home / "spool")}) as api:
            recording = Recording.begin(api.url, 4)
            rigs = [Rig(api.url, token) for token in recording.tokens]
            asyncio.run(freeze_and_thaw(rigs, home / "data"))
            wait_until(lambda: api.ready().get("spool", {}).get("batches") == 0, "all of it is stored")
            check(rigs, recording, url)
            assert max(rig.slowest for rig in rigs) < BOUND
    finally:
        server.stop()


async def freeze_and_thaw(rigs: list[Rig], data_dir: Path) -> None:
    sending = [asyncio.create_task(rig.send()) for rig in rigs]
    await more(rigs, 200, 1)
    frozen = processes_of(data_dir)
    for process in frozen:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        await more(rigs, 202, 10)
    finally:
        for process in frozen:
            os.kill(process.pid, signal.SIGCONT)
    for rig in rigs:
        rig.is_over = True
    await asyncio.gather(*sending)


def test_a_directory_that_cannot_be_used_is_named_at_start(home: Path) -> None:
    (home / "file").write_text("")
    settings = {
        "EXPERIMENT_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing",
        "EXPERIMENT_JWT_ISSUER": ISSUER,
        "EXPERIMENT_JWT_AUDIENCE": AUDIENCE,
        "EXPERIMENT_JWT_KEYS": f"HS256:{SECRET.decode()}",
        "EXPERIMENT_SECRET_KEY": SECRET.decode(),
        "EXPERIMENT_SPOOL_DIR": str(home / "file"),
    }
    done = command("api", "--port", "0", home=home, more=settings)
    assert done.returncode == 1
    assert done.stderr == f"experiment-service: EXPERIMENT_SPOOL_DIR cannot be used: File exists ({home}/file)\n"


def test_tokens_and_secrets_are_not_on_the_disk(home: Path) -> None:
    server = EmbeddedPostgres(home / "data")
    url = server.start()
    try:
        migrations.upgrade(url)
        with ApiProgram(home, url, more={"EXPERIMENT_SPOOL_DIR": str(home / "spool")}) as api:
            recording = Recording.begin(api.url, 1)
            rigs = [Rig(api.url, token) for token in recording.tokens]

            async def go() -> None:
                sending = asyncio.create_task(rigs[0].send())
                await more(rigs, 200, 1)
                await asyncio.to_thread(server.stop)
                await more(rigs, 202, 3)
                rigs[0].is_over = True
                await sending

            asyncio.run(go())
            content = b"".join(path.read_bytes() for path in (home / "spool").rglob("*") if path.is_file())
            assert b"b-2" in content
            assert recording.tokens[0].encode() not in content
            assert json.dumps({"spooled": True}).encode() not in content
    finally:
        server.stop()
