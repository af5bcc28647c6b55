"""What was acknowledged is there once: the API is killed, one key is in many hands, answers to COMMIT are lost."""

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import psycopg
import pytest

from api_program import ApiProgram, Recording, wait_until
from experiment_adapters.embedded import EmbeddedPostgres
from experiment_adapters.postgres import migrations
from http_api import API, token_of
from servers import open_directory

pytestmark = pytest.mark.e2e

BASE = 1_773_051_273_000_000
CLIENTS = 16
NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
KILLS, BATCHES = (20, 10_000) if NIGHTLY else (3, 320)
PROCESSES, CALLERS, KEYS = (4, 200, 100) if NIGHTLY else (2, 40, 3)
LOST_ANSWERS = 100 if NIGHTLY else 8
SEED = int(os.environ.get("CRASHES_SEED", "20260309"))


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with open_directory() as path:
        yield path


@pytest.fixture(scope="module")
def url(home: Path) -> Iterator[str]:
    """A server whose data outlive it, as those of a product do."""
    with EmbeddedPostgres(home / "data") as found:
        migrations.upgrade(found)
        yield found


def client(api: ApiProgram, token: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=CALLERS)
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=api.url + API, headers=headers, timeout=60, trust_env=False, limits=limits)


async def acknowledged(caller: httpx.AsyncClient, path: str, body: Any, key: str, seen: Counter[Any]) -> Any:
    """Send it under one key until it is acknowledged, whatever becomes of the service."""
    while True:
        try:
            answer = await caller.post(path, json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError:
            seen["cut off"] += 1
            await asyncio.sleep(0.05)
            continue
        seen[answer.status_code] += 1
        if answer.is_success:
            return answer.json()
        assert answer.status_code in (409, 503), answer.text
        await asyncio.sleep(0.02)


def one(url: str, sql: str) -> Any:
    with psycopg.connect(url) as database:
        (row,) = database.execute(sql.encode()).fetchall()
        return row


def test_the_api_is_killed_while_many_send(home: Path, url: str) -> None:
    print(f"CRASHES_SEED={SEED}")
    dice = random.Random(SEED)
    seen: Counter[Any] = Counter()

    async def send(api: ApiProgram, token: str, numbers: list[int]) -> None:
        async with client(api, token) as sensor:
            for number in numbers:
                column = {"timestamps": [BASE + number], "values": [number]}
                found = await acknowledged(sensor, "/telemetry", {"columns": [column]}, f"k-{number}", seen)
                assert found["accepted"] == 1

    async def run(api: ApiProgram, tokens: list[str]) -> None:
        shares = [list(range(place, BATCHES, CLIENTS)) for place in range(CLIENTS)]
        async with asyncio.TaskGroup() as group:
            for token, share in zip(tokens, shares, strict=True):
                group.create_task(send(api, token, share))
            for kill in range(1, KILLS + 1):
                due = BATCHES * (kill - dice.random() / 2) / (KILLS + 1)
                while seen[200] < due:  # noqa: ASYNC110 - it is counted by the others
                    await asyncio.sleep(0.005)
                api.kill_workers()

    with ApiProgram(home, url, processes=2) as api:
        recording = Recording.begin(api.url, CLIENTS)
        asyncio.run(run(api, recording.tokens))
    print(dict(seen))
    assert seen["cut off"]
    assert one(url, "SELECT count(*), sum(accepted) FROM telemetry_batches") == (BATCHES, BATCHES)
    assert one(url, "SELECT count(*), sum(count) FROM telemetry_chunks") == (BATCHES, BATCHES)
    readings = "SELECT unnest(timestamps_of(chunk)) AS at, unnest(values) AS value FROM telemetry_chunks AS chunk"
    assert one(url, f"SELECT count(DISTINCT at), count(DISTINCT value) FROM ({readings}) AS found") == (
        BATCHES,
        BATCHES,
    )


def test_one_key_in_many_hands(home: Path, url: str) -> None:
    async def run(api: ApiProgram, user: str) -> None:
        async with client(api, token_of(user)) as caller:
            for number in range(KEYS):
                headers = {"Idempotency-Key": f"k-{number}"}
                body = {"name": f"Project {number}"}
                answers = await asyncio.gather(
                    *(caller.post("/projects", json=body, headers=headers) for _ in range(CALLERS))
                )
                assert {answer.status_code for answer in answers} <= {201, 409}
                made = [answer for answer in answers if answer.status_code == 201]
                assert len({answer.content for answer in made}) == 1
                assert sum("idempotency-replayed" not in answer.headers for answer in made) == 1
                refused = {answer.json()["code"] for answer in answers if answer.status_code == 409}
                assert refused <= {"idempotency_key_in_progress"}

    with ApiProgram(home, url, processes=PROCESSES) as api:
        asyncio.run(run(api, "many-hands"))
    found = "SELECT count(*), count(DISTINCT name) FROM projects WHERE created_by = 'many-hands'"
    assert one(url, found) == (KEYS, KEYS)
    audited = "SELECT count(*) FROM audit_log WHERE actor = 'many-hands' AND action = 'create'"
    assert one(url, audited) == (KEYS,)


class Between:
    """A proxy before PostgreSQL's socket. While `is_armed`, it lets a COMMIT through, and nothing of its answer."""

    def __init__(self, directory: Path, target: str) -> None:
        self.path = directory / Path(target).name
        self.is_armed = False
        self.dropped = 0
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        self._thread.start()
        assert self._ready.wait(10)
        try:
            yield
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with await asyncio.start_unix_server(self._connect, self.path):
            self._ready.set()
            await self._over.wait()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_unix_connection(self._target)
        is_cut = asyncio.Event()

        async def forth() -> None:
            while data := await reader.read(1 << 16):
                if self.is_armed and b"COMMIT" in data:
                    self.is_armed = False
                    self.dropped += 1
                    is_cut.set()
                server.write(data)
                await server.drain()

        async def back() -> None:
            while data := await upstream.read(1 << 16):
                if is_cut.is_set():
                    return
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(forth()), asyncio.create_task(back())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, server):
                end.close()
                with suppress(OSError):
                    await end.wait_closed()


@pytest.mark.parametrize("with_spool", [False, True], ids=["plain", "spool"])
def test_the_answer_to_a_commit_is_lost(home: Path, url: str, with_spool: bool) -> None:
    (socket_dir,) = parse_qs(urlsplit(url).query)["host"]
    own = home / f"between-{with_spool}"
    own.mkdir()
    between = Between(own, f"{socket_dir}/.s.PGSQL.5432")
    through = f"postgresql://postgres@/experiment?host={own}&port=5432"
    seen: Counter[Any] = Counter()
    more = {"EXPERIMENT_SPOOL_DIR": str(own / "spool")} if with_spool else {}

    async def run(api: ApiProgram, token: str) -> None:
        async with client(api, token) as sensor, client(api, token_of(f"owner-{with_spool}")) as owner:
            # A batch by its content alone, and one more that is known by its key.
            for number in range(LOST_ANSWERS):
                for caller, path, body in (
                    (sensor, "/telemetry", {"columns": [{"timestamps": [BASE + number], "values": [number]}]}),
                    (owner, "/projects", {"name": f"Project {number}"}),
                ):
                    before = between.dropped
                    between.is_armed = True
                    await acknowledged(caller, path, body, f"k-{number}", seen)
                    between.is_armed = False
                    assert between.dropped > before or with_spool

    with between.running(), ApiProgram(home, through, more=more) as api:
        recording = Recording.begin(api.url, 1)
        asyncio.run(run(api, recording.tokens[0]))
        if with_spool:
            wait_until(lambda: api.ready().get("spool", {}).get("batches") == 0, "all of it is stored")
    print(dict(seen))
    assert between.dropped >= LOST_ANSWERS
    assert seen[202] > 0 if with_spool else seen[503] >= LOST_ANSWERS
    session = f"capture_session_id = '{recording.session_id}'"
    assert one(url, f"SELECT count(*), sum(accepted) FROM telemetry_batches WHERE {session}") == (LOST_ANSWERS,) * 2
    assert one(url, f"SELECT count(*), sum(count) FROM telemetry_chunks WHERE {session}") == (LOST_ANSWERS,) * 2
    found = f"SELECT count(*), count(DISTINCT name) FROM projects WHERE created_by = 'owner-{with_spool}'"
    assert one(url, found) == (LOST_ANSWERS,) * 2
