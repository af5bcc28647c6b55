"""Exports by real workers: killed at any moment, and of any size in the same memory."""

import asyncio
import csv
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pyarrow as pa
import pytest
from attrs import frozen
from pyarrow import parquet

from entities import NOW, SettableClock, a_batch, a_column
from experiment_adapters.exports.files import files_at
from experiment_adapters.exports.formats import FORMATS
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain import Services, User
from experiment_domain.exports.jobs import Export, ExportStatus, FileFormat
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.telemetry.batches import micros
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.exporting import tidy_exports
from fix_up import Up
from laboratory import Laboratory
from recorded import Recording
from workers import environment, until, worker

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3_600)]

IS_NIGHT = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
KILLS = 50 if IS_NIGHT else 4
LARGE = 5_000_000 if IS_NIGHT else 2_000_000
EACH = 1_000
MEMORY = 64 << 20
"""Bytes by which a large export may take more than a small one, at its peak: about as much as one part of it."""

EXPORTING = """
import asyncio, pathlib, re, sys
from experiment_adapters.exports.files import files_at
from experiment_adapters.exports.formats import FORMATS
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain import Services
from experiment_domain.usecases.exporting import work_off_exports

async def main():
    async with PostgresUnitsOfWork.open(sys.argv[1]) as units:
        services = Services(units_of_work=units, export_files=files_at(sys.argv[2]), export_formats=FORMATS)
        assert await work_off_exports(services, seconds=500) == 1

asyncio.run(main())
# Not getrusage: that knows of the process from which this one was forked.
print(re.search("VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1])
"""


@frozen
class Place:
    """A database, and a directory for exports."""

    url: str
    directory: Path

    @property
    def settings(self) -> dict[str, str]:
        return {"EXPERIMENT_DATABASE_URL": self.url, "EXPERIMENT_EXPORTS_URL": self.directory.as_uri()}

    def services(self, units: PostgresUnitsOfWork, clock: SettableClock) -> Services:
        files = files_at(self.directory.as_uri())
        return Services(units_of_work=units, clock=clock, export_files=files, export_formats=FORMATS)

    def ask(self, sql: str, *parameters: Any) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(sql.encode(), parameters)
            return cursor.fetchall() if cursor.description else []

    def parts(self) -> list[str]:
        """All that is kept, by whomever."""
        return sorted(str(path.relative_to(self.directory)) for path in self.directory.rglob("*") if path.is_file())


async def recorded(place: Place, readings: int) -> Laboratory:
    """A session of so many readings and one that is over, in chunks of 1,000; its profile doubles."""
    async with PostgresUnitsOfWork.open(place.url) as units:
        lab = await Laboratory.open(units)
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        await lab.profile(made, 2, 0)
        session = await lab.session(run)
        await lab.ingest(made, a_batch(a_column([micros(NOW) - 1_000_000], [0.0])))
        with psycopg.connect(place.url, autocommit=True) as connection:
            Recording.found(connection, NOW).add(connection, first=0, count=readings // EACH, each=EACH)
        await lab.stop(session)
        return lab


async def requested(place: Place, lab: Laboratory, kind: FileFormat) -> Export:
    async with PostgresUnitsOfWork.open(place.url) as units, place.services(units, lab.clock).begin(lab.owner) as work:
        return await work.exports.request(
            project_id=lab.project.id, scope=ExportScope(), format=kind, layer=Layer.PHYSICAL
        )


async def downloaded(place: Place, by: User, export: Export) -> tuple[Export, bytes]:
    async with PostgresUnitsOfWork.open(place.url) as units:
        services = place.services(units, SettableClock())
        async with services.read(by) as work:
            file = await work.exports.download(export.id)
        pieces = [piece for part in file.parts async for piece in services.export_files.chunks(part.name)]
        return file.export, b"".join(pieces)


async def tidied(place: Place, seconds: float) -> int:
    """What the chore does when so much time has passed."""
    clock = SettableClock()
    clock.at = place.ask("SELECT max(coalesce(finished_at, now())) FROM exports")[0][0]
    clock.pass_by(seconds)
    async with PostgresUnitsOfWork.open(place.url) as units:
        return await tidy_exports(place.services(units, clock), lambda: False)


def readings_of(kind: FileFormat, data: bytes) -> list[tuple[int, float]]:
    if kind is FileFormat.PARQUET:
        table = parquet.read_table(pa.BufferReader(data))
        stamps = table["timestamp"].cast(pa.int64()).to_pylist()
        return list(zip(stamps, table["value"].to_pylist(), strict=True))
    rows = csv.DictReader(io.StringIO(data.decode()))
    known: dict[str, int] = {}
    return [(_micros(row["timestamp"], known), float(row["value"])) for row in rows]


def _micros(text: str, known: dict[str, int]) -> int:
    from datetime import datetime

    if text not in known:
        known[text] = micros(datetime.fromisoformat(text))
    return known[text]


@pytest.mark.covers("worker.exports", "worker.tidy_exports")
def test_a_worker_writes_exports_and_puts_them_away(postgres_url: str, tmp_path: Path) -> None:
    place = Place(postgres_url, tmp_path / "exports")
    lab = asyncio.run(recorded(place, 2_000))
    export = asyncio.run(requested(place, lab, FileFormat.CSV))
    with worker({**place.settings, "EXPERIMENT_EXPORTS_KEEP": "1"}) as running:
        running.wait_for("worked off", kind="exports")
        assert place.ask("SELECT status, readings_written FROM exports")[0] == ("succeeded", 2_001)
        time.sleep(1.1)
        place.ask("UPDATE chores SET due_at = now() WHERE name = 'tidy_exports'")
        until(lambda: place.ask("SELECT status, is_tidy FROM exports WHERE id = %s", export.id)[0][0] == "expired")
        place.ask("UPDATE exports SET finished_at = finished_at - interval '2 minutes'")
        place.ask("UPDATE chores SET due_at = now() WHERE name = 'tidy_exports'")
        until(lambda: place.ask("SELECT is_tidy FROM exports")[0][0])
        running.stop()
    assert place.parts() == []
    assert place.ask("SELECT count(*) FROM export_parts") == [(0,)]


def test_killed_at_any_moment_files_are_whole(postgres_url: str, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    place = Place(postgres_url, tmp_path / "exports")
    readings = 600_000
    lab = asyncio.run(recorded(place, readings))
    exports = [asyncio.run(requested(place, lab, kind)) for kind in (FileFormat.CSV, FileFormat.PARQUET)]
    written: list[int] = []
    for _ in range(KILLS):
        with worker(place.settings) as victim:
            victim.wait_for("worker started")
            time.sleep(0.2 + chance.random() * 0.8)
            victim.kill()
        written.append(place.ask("SELECT sum(readings_written)::bigint FROM exports")[0][0])
        place.ask("UPDATE exports SET claimed_until = now() WHERE claimed_by IS NOT NULL")
        place.ask("UPDATE chores SET due_at = now() WHERE claimed_by IS NOT NULL")
    print(f"written after each kill: {written}")
    assert written == sorted(written)  # what was written is not written again
    with worker(place.settings), worker(place.settings):
        until(lambda: not place.ask("SELECT id FROM exports WHERE status <> 'succeeded'"), 120.0)
    expected = [
        (stamp, 2 * value)
        for stamp, value in place.ask(
            "SELECT (extract(epoch FROM at) * 1000000)::bigint, value FROM telemetry_chunks AS chunk,"
            ' unnest(timestamps_of(chunk), "values") AS reading (at, value) ORDER BY at'
        )
    ]
    assert len(expected) == readings + 1
    for export in exports:
        done, data = asyncio.run(downloaded(place, lab.owner, export))
        assert (done.status, done.readings_written) == (ExportStatus.SUCCEEDED, readings + 1)
        assert len(data) == done.bytes_written
        assert readings_of(done.format, data) == expected
    known = sorted(name for (name,) in place.ask("SELECT name FROM export_parts"))
    assert set(known) <= set(place.parts())
    assert asyncio.run(tidied(place, 61)) == 2
    assert place.parts() == known
    assert asyncio.run(tidied(place, 8 * 86_400)) == 2
    assert place.parts() == []


def peak(place: Place, kind: FileFormat, lab: Laboratory) -> int:
    """How many bytes a process takes at most that writes an export."""
    asyncio.run(requested(place, lab, kind))
    arguments: Sequence[str] = (sys.executable, "-c", EXPORTING, place.url, place.directory.as_uri())
    done = subprocess.run(arguments, env=environment({}), capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) * 1024


def test_any_size_takes_the_same_memory(postgres_url: str, tmp_path: Path) -> None:
    place = Place(postgres_url, tmp_path / "exports")
    lab = asyncio.run(recorded(place, 60_000))
    small = {kind: peak(place, kind, lab) for kind in FileFormat}
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        recording = Recording.found(connection, NOW)
        for first in range(60, LARGE // EACH, 100):
            recording.add(connection, first=first, count=100, each=EACH)
    for kind in FileFormat:
        began = time.monotonic()
        large = peak(place, kind, lab)
        seconds = time.monotonic() - began
        print(f"{kind}: {small[kind] >> 20} MiB, then {large >> 20} MiB in {seconds:.1f} s")
        assert large - small[kind] < MEMORY
    counts = place.ask("SELECT readings_written, bytes_written FROM exports ORDER BY created_at, id")
    assert [count for count, _ in counts[:3]] == [60_001] * 3
    assert all(count > LARGE - 200 * EACH for count, _ in counts[3:])
    assert all(size > MEMORY // 2 for _, size in counts[3:5])


@frozen
class Recordist:
    """Somebody who records over HTTP, with a session of 300,000 raw readings."""

    http: httpx.Client
    project_id: str
    session_id: str

    @classmethod
    def of(cls, up: Up) -> "Recordist":
        headers = {"Authorization": f"Bearer {up.token()}"}
        made = cls(httpx.Client(base_url=f"{up.url}/api/v1", headers=headers, timeout=60), "", "")
        project = made.done("POST", "/projects", {"name": "To be exported"})["id"]
        experiment = made.done("POST", "/experiments", {"project_id": project, "name": "Experiment"})["id"]
        run = made.done("POST", f"/experiments/{experiment}/runs", {"name": "Run"})["id"]
        plain = {"name": "TC-1", "sensor_type": "TC", "input_unit": "mV", "display_unit": "°C"}
        sensor = made.done("POST", "/sensors", {"project_id": project, **plain})
        made.done("PUT", f"/runs/{run}/sensors/{sensor['id']}")
        made.done("POST", f"/runs/{run}/start")
        session = made.done("POST", f"/runs/{run}/capture-sessions", {"start": True})["id"]
        for batch in range(3):
            stamps = range(micros(NOW) + 100_000 * batch, micros(NOW) + 100_000 * (batch + 1))
            column = {"signal": "value", "timestamps": [*stamps], "values": [stamp / 7 for stamp in stamps]}
            token = {"Authorization": f"Bearer {sensor['token']}"}
            made.http.post("/telemetry", json={"columns": [column]}, headers=token).raise_for_status()
        return cls(made.http, project, session)

    def done(self, method: str, path: str, json: Any = None) -> Any:
        answer = self.http.request(method, path, json=json)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def exported(self, kind: FileFormat) -> Any:
        """An export of the session that has succeeded."""
        wanted = {"capture_session_id": self.session_id}
        body = {"project_id": self.project_id, "scope": wanted, "format": kind, "layer": "raw"}
        path = f"/exports/{self.done('POST', '/exports', body)['id']}"
        until(lambda: self.done("GET", path)["status"] not in ("queued", "running"), 60.0)
        export = self.done("GET", path)
        assert export["status"] == "succeeded", export
        return export


@pytest.fixture(scope="module")
def recordist(shared_up: Up) -> Iterator[Recordist]:
    recordist = Recordist.of(shared_up)
    yield recordist
    recordist.http.close()


def test_up_brings_a_place_of_its_own(recordist: Recordist, shared_up: Up) -> None:
    for kind in (FileFormat.CSV, FileFormat.PARQUET):
        export = recordist.exported(kind)
        answer = recordist.http.get(f"/exports/{export['id']}/download").raise_for_status()
        assert len(answer.content) == export["bytes_written"] == int(answer.headers["content-length"])
        stamps = range(micros(NOW), micros(NOW) + 300_000)
        assert readings_of(kind, answer.content) == [(stamp, stamp / 7) for stamp in stamps]
        assert (shared_up.data_dir / "exports" / export["id"]).is_dir()


def test_who_reads_slowly_costs_no_memory_and_who_is_forbidden_gets_no_more(
    recordist: Recordist, shared_up: Up
) -> None:
    export = recordist.exported(FileFormat.JSON)
    assert export["bytes_written"] > 64 << 20
    (server, *_) = [process for process in shared_up.api_processes() if not process.children()]
    path = f"/exports/{export['id']}/download"
    recordist.http.get(path).raise_for_status()
    before = server.memory_info().rss
    with recordist.http.stream("GET", path) as slow:
        pieces = slow.iter_raw(1 << 16)
        read = [len(next(pieces))]
        time.sleep(2.0)
        assert server.memory_info().rss - before < 32 << 20
        recordist.done("PATCH", f"/projects/{recordist.project_id}", {"physical_only": True})
        with pytest.raises(httpx.RemoteProtocolError):
            read.extend(map(len, pieces))
    assert sum(read) < export["bytes_written"]
    refused = recordist.http.get(path)
    assert (refused.status_code, refused.json()["code"]) == (403, "raw_not_allowed")
    recordist.done("PATCH", f"/projects/{recordist.project_id}", {"physical_only": False})
    assert len(recordist.http.get(path).content) == export["bytes_written"]
