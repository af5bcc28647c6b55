"""Where exports are kept: memory, a directory, and an S3-compatible storage that is really spoken to over HTTP."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from attrs import evolve

from entities import a_batch, a_column
from experiment_adapters.exports.files import DirectoryFiles, ObjectFiles, files_at
from experiment_adapters.memory import MemoryUnitsOfWork
from experiment_adapters.settings import Settings, SettingsError
from experiment_domain.exports.files import ExportFiles, NoExportFiles
from experiment_domain.exports.jobs import FileFormat
from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.exporting import tidy_exports, work_off_exports
from laboratory import Laboratory

BUCKET = "exports"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket on a server of this process; the environment says where the server is, as an operator would.

    It speaks the real protocol, signatures included.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    assert httpx.put(f"{endpoint}/{BUCKET}").status_code == 200
    said = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "of-the-tests",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in said.items():
            patch.setenv(name, value)
        yield f"s3://{BUCKET}/deep/er"
    server.stop()


@pytest.fixture(params=["memory", "directory", "s3"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> ExportFiles:
    """Each place in turn, named by its URL where it has one."""
    if request.param == "memory":
        return ObjectFiles.in_memory()
    if request.param == "directory":
        return files_at((tmp_path / "a directory").as_uri())
    return files_at(request.getfixturevalue("s3"))


async def content(files: ExportFiles, name: str) -> bytes:
    return b"".join([piece async for piece in files.chunks(name)])


async def test_parts_are_kept_replaced_listed_and_removed(files: ExportFiles, runner: object) -> None:
    folder, large = str(uuid4()), os.urandom(12 << 20)
    assert await files.names(folder) == []
    await files.put(f"{folder}/0-a", b"first")
    await files.put(f"{folder}/1-b", large)
    await files.put(f"{folder}/2-c", b"")
    await files.put(f"{folder}/0-a", b"first again")
    await files.put(f"{uuid4()}/0-a", b"another's")
    assert await content(files, f"{folder}/0-a") == b"first again"
    assert await content(files, f"{folder}/1-b") == large
    assert await content(files, f"{folder}/2-c") == b""
    assert sorted(await files.names(folder)) == [f"{folder}/0-a", f"{folder}/1-b", f"{folder}/2-c"]
    await files.delete([f"{folder}/0-a", f"{folder}/1-b"])
    await files.delete([f"{folder}/0-a"])
    await files.delete([])
    assert await files.names(folder) == [f"{folder}/2-c"]
    with pytest.raises(Unavailable):
        await content(files, f"{folder}/0-a")
    await files.delete([f"{folder}/2-c"])
    assert await files.names(folder) == []


async def test_large_parts_come_in_pieces(files: ExportFiles, runner: object) -> None:
    name = f"{uuid4()}/0"
    await files.put(name, bytes(8 << 20))
    sizes = [len(piece) async for piece in files.chunks(name)]
    assert sum(sizes) == 8 << 20
    if not isinstance(files, DirectoryFiles):
        return
    assert max(sizes) <= 2 << 20


async def test_what_a_killed_process_had_begun_is_found_and_removed(tmp_path: Path, runner: object) -> None:
    files, folder = DirectoryFiles(tmp_path / "exports"), str(uuid4())
    await files.put(f"{folder}/0-a", b"whole")
    begun = tmp_path / "exports" / folder / "1-b#1"
    begun.write_bytes(b"half")
    assert await files.names(folder) == [f"{folder}/0-a", f"{folder}/1-b#1"]
    await files.delete([f"{folder}/1-b#1"])
    assert not begun.exists()
    await files.delete([f"{folder}/0-a"])
    assert list((tmp_path / "exports").iterdir()) == []
    assert (tmp_path / "exports").stat().st_mode & 0o077 == 0


async def test_a_place_that_is_away_says_so(tmp_path: Path, runner: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-tests")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a canary that is told to nobody")
        files = files_at("s3://exports")
        with pytest.raises(Unavailable) as away:
            await asyncio.wait_for(files.put("a/b", b"part"), 30)
    assert "canary" not in away.value.detail
    directory = DirectoryFiles(tmp_path / "exports")
    (tmp_path / "exports" / "a").write_bytes(b"a file in the place of a folder")
    with pytest.raises(Unavailable):
        await directory.put("a/b", b"part")


async def test_without_a_place_nothing_is_kept(runner: object) -> None:
    nowhere = NoExportFiles()
    with pytest.raises(Refusal):
        await nowhere.put("a/b", b"part")
    with pytest.raises(Unavailable):
        await content(nowhere, "a/b")
    assert await nowhere.names("a") == ()
    await nowhere.delete(["a/b"])


@pytest.mark.parametrize(
    "url", ["/srv/exports", "file://host/srv", "file:///", "https://x/y", "s3:///x", "s3://u:p@bucket", "s3://b?x=1"]
)
def test_urls_that_name_no_place_are_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="EXPERIMENT_EXPORTS_URL"):
        Settings.from_environment({"EXPERIMENT_EXPORTS_URL": url})


@pytest.mark.parametrize("url", ["file:///srv/exports", "s3://bucket", "s3://bucket/and/prefix"])
def test_urls_and_policies(url: str) -> None:
    more = {"EXPERIMENT_EXPORTS_KEEP": "3600", "EXPERIMENT_EXPORTS_PER_USER": "2"}
    found = Settings.from_environment({"EXPERIMENT_EXPORTS_URL": url, **more}).exports
    assert (found.url, found.policy.kept_for.total_seconds(), found.policy.per_user) == (url, 3600.0, 2)
    assert found.policy.readings == 1_000_000_000


def test_a_directory_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    from experiment_adapters.compose import composed

    (tmp_path / "file").write_text("no directory")

    def settings(url: str) -> Settings:
        database = "postgresql://nobody@localhost/none"
        return Settings.from_environment({"EXPERIMENT_DATABASE_URL": database, "EXPERIMENT_EXPORTS_URL": url})

    with pytest.raises(SettingsError, match="EXPERIMENT_EXPORTS_URL cannot be used"):
        composed(settings((tmp_path / "file" / "exports").as_uri()))
    composed(settings((tmp_path / "exports").as_uri()))


@pytest.mark.parametrize("kind", FileFormat)
async def test_an_export_is_written_read_and_removed(files: ExportFiles, runner: object, kind: FileFormat) -> None:
    lab = await Laboratory.open(MemoryUnitsOfWork())
    lab.services = evolve(lab.services, export_files=files)
    run = await lab.run(start=True)
    made = await lab.sensor(run)
    session = await lab.session(run)
    stamps = range(60_000)  # more than one part, of some formats
    await lab.ingest(made, a_batch(a_column(stamps, [stamp / 7 for stamp in stamps]), session=session.id))
    what: dict[str, Any] = {"scope": ExportScope(), "format": kind, "layer": Layer.RAW}
    export = await lab.do(lambda work: work.exports.request(project_id=lab.project.id, **what))
    assert await work_off_exports(lab.services) == 1
    file = await lab.ask(lambda work: work.exports.download(export.id))
    data = b"".join([await content(files, part.name) for part in file.parts])
    assert (file.export.readings_written, file.export.bytes_written) == (60_000, len(data))
    assert sorted(await files.names(export.folder)) == [part.name for part in file.parts]
    lab.clock.pass_by(8 * 86_400)
    assert await tidy_exports(lab.services, lambda: False) == 1
    assert await files.names(export.folder) == []
