"""Streams under real servers: readings that another process took in, servers killed, LISTEN cut off, slow readers."""

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from attrs import define, field, frozen
from hypothesis import settings

from experiment_adapters.postgres.news import APPLICATION_NAME
from fix_up import bytecode
from http_api import AUDIENCE, ISSUER, SECRET, token_of
from servers import free_port
from sse import PATIENCE, Parser, ServerEvent

NIGHTLY = settings.get_current_profile_name() == "nightly"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(7200 if NIGHTLY else 3600)]

BATCHES = 100_000 if NIGHTLY else 150
SLOW = 500 if NIGHTLY else 40
START = 1_773_051_273_000_000


@define
class Server:
    """One API process on a database that others serve as well; started again, it has the same port."""

    database: str
    log: Path
    port: int = field(factory=free_port)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("EXPERIMENT_")}
        if environment.pop("PYTHONDONTWRITEBYTECODE", None):
            environment["PYTHONPYCACHEPREFIX"] = bytecode()
        environment |= {
            "EXPERIMENT_DATABASE_URL": self.database,
            "EXPERIMENT_JWT_ISSUER": ISSUER,
            "EXPERIMENT_JWT_AUDIENCE": AUDIENCE,
            "EXPERIMENT_JWT_KEYS": f"HS256:{SECRET.decode()}",
            "EXPERIMENT_SECRET_KEY": SECRET.decode(),
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "experiment_http.cli.serving", "127.0.0.1", str(self.port), "1"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            assert self.process.poll() is None, self.log.read_text()
            with suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/health/live").status_code == 200:
                    return
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def tree(self) -> list[psutil.Process]:
        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def kill(self) -> None:
        for process in self.tree():
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert self.process is not None
        self.process.wait()

    def stop(self) -> float:
        """Ask it to stop; the seconds that it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        return time.monotonic() - began


@pytest.fixture
def servers(postgres_url: str, tmp_path: Path) -> Iterator[tuple[Server, Server]]:
    """Two that know nothing of each other but the database."""
    one, two = (Server(postgres_url, tmp_path / f"{name}.log") for name in ("one", "two"))
    try:
        one.start()
        two.start()
        yield one, two
    finally:
        for server in (one, two):
            if server.process is not None and server.process.poll() is None:
                server.kill()


@frozen
class Rig:
    """A sensor that records, through one of the servers."""

    owner: str
    run_id: str
    session_id: str
    token: str

    @classmethod
    def of(cls, server: Server) -> "Rig":
        owner = token_of("ada")
        with httpx.Client(base_url=f"{server.url}/api/v1", headers={"Authorization": f"Bearer {owner}"}) as api:

            def done(method: str, path: str, body: Any = None) -> Any:
                return api.request(method, path, json=body, timeout=PATIENCE).raise_for_status().json()

            project = done("POST", "/projects", {"name": "Streams"})
            experiment = done("POST", "/experiments", {"project_id": project["id"], "name": "Streams"})
            kind = {"project_id": project["id"], "sensor_type": "load", "input_unit": "V", "display_unit": "bar"}
            sensor = done("POST", "/sensors", {"name": "one", **kind})
            run = done("POST", f"/experiments/{experiment['id']}/runs", {"name": "one"})
            api.put(f"/runs/{run['id']}/sensors/{sensor['id']}").raise_for_status()
            done("POST", f"/runs/{run['id']}/start")
            session = done("POST", f"/runs/{run['id']}/capture-sessions", {"start": True})
        return cls(owner, run["id"], session["id"], sensor["token"])

    @property
    def path(self) -> str:
        return f"/api/v1/telemetry/stream?capture_session_id={self.session_id}&layer=raw"

    async def send(self, client: httpx.AsyncClient, server: Server, number: int, count: int = 1) -> None:
        """A batch, again and again until it is taken."""
        stamps = [START + number * count + place for place in range(count)]
        columns = [{"timestamps": stamps, "values": [float(number)] * count}]
        body = {"capture_session_id": self.session_id, "batch_id": str(number), "columns": columns}
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.TransportError):
                answer = await client.post(
                    f"{server.url}/api/v1/telemetry", json=body, headers={"Authorization": f"Bearer {self.token}"}
                )
                if answer.status_code == 200:
                    return
                assert answer.status_code == 503, answer.text
            assert time.monotonic() < deadline, "the batch was never taken"
            await asyncio.sleep(0.05)


@define
class Reader:
    """A client that comes again when its stream breaks off, as browsers do."""

    server: Server
    path: str
    owner: str
    parser: Parser = field(factory=Parser)
    heard: int = 0
    cuts: int = 0

    async def events(self, client: httpx.AsyncClient, chance: random.Random) -> AsyncGenerator[ServerEvent]:
        """What comes, through as many streams as it takes; now and then it breaks off by itself."""
        while True:
            last = self.parser.last_id
            self.parser = Parser(last_id=last)
            headers = {"Authorization": f"Bearer {self.owner}", **({} if last is None else {"Last-Event-ID": last})}
            left = chance.randint(5, max(40, BATCHES // 200))
            with suppress(httpx.TransportError):
                async with client.stream("GET", f"{self.server.url}{self.path}", headers=headers) as answer:
                    assert answer.status_code in (200, 503), answer.status_code
                    async for part in answer.aiter_raw():
                        for event in self.parser.feed(part):
                            self.heard += 1
                            yield event
                            left -= 1
                            if left == 0:
                                break
                        if left <= 0:
                            break
            self.cuts += 1
            await asyncio.sleep(0.02)


@asynccontextmanager
async def a_client() -> AsyncGenerator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
    async with httpx.AsyncClient(timeout=httpx.Timeout(PATIENCE), limits=limits) as client:
        yield client


def test_nothing_is_missed_or_repeated_though_servers_are_killed(servers: tuple[Server, Server]) -> None:
    rig = Rig.of(servers[0])
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    asyncio.run(_send_read_and_kill(servers, rig, random.Random(seed)))


async def _send_read_and_kill(servers: tuple[Server, Server], rig: Rig, chance: random.Random) -> None:
    one, two = servers
    async with a_client() as client:
        readers = [Reader(server, rig.path, rig.owner) for server in (one, two, two)]
        reading = [asyncio.create_task(_read_all(client, reader, chance.randrange(2**32))) for reader in readers]
        number = 0
        while any(reader.heard == 0 for reader in readers):  # whoever hears this has begun to listen
            number += 1
            await rig.send(client, one, -number)
            await asyncio.sleep(0.2)
        killing = asyncio.create_task(_kill_again_and_again(two, chance))
        await _send_all(client, servers, rig, chance)
        results = await asyncio.gather(*reading)
        killing.cancel()
    for found, reader in zip(results, readers, strict=True):
        assert sorted(found) == [float(number) for number in range(BATCHES)]
        assert reader.cuts > 0


async def _send_all(client: httpx.AsyncClient, servers: tuple[Server, Server], rig: Rig, chance: random.Random) -> None:
    numbers = list(range(BATCHES))

    async def sensor() -> None:
        while numbers:
            await rig.send(client, chance.choice(servers), numbers.pop())

    await asyncio.gather(*(sensor() for _ in range(8)))


async def _kill_again_and_again(server: Server, chance: random.Random) -> None:
    while True:
        began = time.monotonic()
        await asyncio.to_thread(server.kill if chance.random() < 0.7 else server.stop)
        await asyncio.to_thread(server.start)
        # It lives for about as long as it was away: or else, on a slow machine, it would be away most of the time.
        await asyncio.sleep(chance.uniform(0.5, 1.5) * max(1.0, time.monotonic() - began))


async def _read_all(client: httpx.AsyncClient, reader: Reader, seed: int) -> list[float]:
    found: list[float] = []
    async for event in reader.events(client, random.Random(seed)):
        assert event.name == "message", event
        found += [value for value in event.data["values"] if value >= 0]
        if len(found) >= BATCHES:
            break
    return found


@contextmanager
def raw_stream(
    server: Server, rig: Rig, path: str | None = None, *, buffer: int | None = None
) -> Iterator[socket.socket]:
    """A connection on which a stream was asked for."""
    with socket.socket() as connection:
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(PATIENCE)
        head = f"GET {path or rig.path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n"
        connection.sendall(f"{head}Authorization: Bearer {rig.owner}\r\n\r\n".encode())
        yield connection


def read_until(connection: socket.socket, found: Callable[[bytes], bool]) -> bytes:
    content = b""
    while not found(content):
        part = connection.recv(65_536)
        if not part:
            break
        content += part
    return content


LISTENERS = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"


def test_news_comes_though_the_listener_is_gone(servers: tuple[Server, Server], postgres_url: str) -> None:
    one, two = servers
    rig = Rig.of(one)

    async def send(number: int) -> None:
        async with a_client() as client:
            await rig.send(client, one, number)

    with raw_stream(two, rig) as connection, psycopg.connect(postgres_url, autocommit=True) as admin:
        read_until(connection, lambda content: b"id: " in content)
        for number in range(3):
            # Each time it is made anew.
            deadline = time.monotonic() + PATIENCE
            while not admin.execute(f"SELECT pg_terminate_backend(pid) {LISTENERS}", [APPLICATION_NAME]).fetchone():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            asyncio.run(send(number))
            began = time.monotonic()
            wanted = f"[{float(number)}]".encode()
            assert wanted in read_until(connection, lambda content, wanted=wanted: wanted in content)
            print(f"after {time.monotonic() - began:.3f} s")
            assert time.monotonic() - began < 30  # on a busy machine; by itself, 5 at most


def test_streams_end_promptly_when_a_server_stops(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    rig = Rig.of(one)
    with raw_stream(one, rig) as connection, raw_stream(one, rig, "/api/v1/events/stream") as other:
        for stream in (connection, other):
            read_until(stream, lambda content: b"id: " in content)
        assert one.stop() < 8  # long before open requests are given up
        for stream in (connection, other):
            assert b": restart" in read_until(stream, lambda content: b": restart" in content)


@pytest.mark.skipif(not NIGHTLY, reason="takes half a minute: for the nightly profile")
def test_those_who_do_not_read_are_cut_off_and_cost_no_memory(servers: tuple[Server, Server]) -> None:
    one, _ = servers
    rig = Rig.of(one)
    started = [raw_stream(one, rig, buffer=4_096) for _ in range(SLOW)]
    connections = [stream.__enter__() for stream in started]
    worker = one.tree()[-1]

    def open_connections() -> int:
        return sum(
            connection.laddr.port == one.port and connection.status == psutil.CONN_ESTABLISHED
            for connection in worker.net_connections("tcp")
        )

    async def send_much() -> int:
        """How much the process has grown when all of them are gone, after however much fits into their buffers."""
        async with a_client() as client:
            await rig.send(client, one, 0, 5_000)
            await asyncio.sleep(1)
            before = highest = worker.memory_info().rss
            deadline = time.monotonic() + 600
            number = 0
            while open_connections() > 5:
                assert time.monotonic() < deadline, f"{open_connections()} are still open"
                number += 1
                await rig.send(client, one, number, 5_000)
                highest = max(highest, worker.memory_info().rss)
                await asyncio.sleep(0.1)
            return highest - before

    try:
        grown = asyncio.run(send_much())
        print(f"grown by {grown >> 20} MiB")
        # The server's own buffer of each connection, about 0.8 MB, and nothing that grows with what is sent.
        assert grown < SLOW << 20
        # Others are not disturbed.
        with raw_stream(one, rig) as quick:
            read_until(quick, lambda content: b"id: " in content)
            asyncio.run(_send_one(rig, one))
            assert b"data:" in read_until(quick, lambda content: b"data:" in content)
    finally:
        for connection in connections:
            connection.close()


async def _send_one(rig: Rig, server: Server) -> None:
    async with a_client() as client:
        await rig.send(client, server, 1_000_000)
