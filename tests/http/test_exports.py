"""Exports: asked for, shown with their progress, downloaded in every format, and refused to whom they are not for."""

import asyncio
import csv
import io
import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID, uuid4

import attrs
import pyarrow as pa
import pytest
from litestar import Litestar
from pyarrow import parquet

from entities import SettableClock
from experiment_adapters.auth.jwt import JwtSettings
from experiment_adapters.exports.formats import FORMATS, CsvFormat
from experiment_domain import System
from experiment_domain.exports.files import COLUMNS
from experiment_domain.exports.jobs import FileFormat
from experiment_domain.kernel.clock import SystemClock
from experiment_domain.unit_of_work import UnitsOfWork
from experiment_domain.usecases import Services
from experiment_domain.usecases.exporting import tidy_exports, work_off_exports
from http_api import World, app_over, new_world, refusal, services_over, token_of

NAUGHTY = ("=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", 'a","=1', "＝1", "m/s²")
NUMBERS = (0.0, -0.0, -273.15, 0.1, 1e308, 5e-324, -5e-324, 123456789.123456789)
TYPES = {"csv": "text/csv", "json": "application/jsonl", "parquet": "application/vnd.apache.parquet"}


LEEWAY: Any = attrs.fields_dict(JwtSettings)["leeway"].default


class SmallCsv(CsvFormat):
    """CSV in parts of two readings."""

    readings = 2


class Clock(SystemClock):
    """The system's clock, and some time more."""

    def __init__(self) -> None:
        self.more = SettableClock()

    def now(self) -> Any:
        return super().now() + (self.more.at - SettableClock().at)


@pytest.fixture(scope="module")
def clock() -> Clock:
    """A clock that can be set forward."""
    return Clock()


@pytest.fixture(scope="module")
def services(units_of_work: UnitsOfWork, clock: Clock) -> Services:
    """What the application and the worker work with."""
    return services_over(units_of_work, clock=clock)


@pytest.fixture(scope="module")
def app(units_of_work: UnitsOfWork, services: Services) -> Litestar:
    """The application over each adapter in turn."""
    return app_over(units_of_work, services=services)


def wanted(world: World, format: str = "csv", layer: str = "physical", **scope: Any) -> dict[str, Any]:  # noqa: A002
    return {"project_id": world.project_id, "scope": scope, "format": format, "layer": layer}


async def recorded(world: World, values: Sequence[float] = (0.0, -1.0, 2.5), signal: str = "value") -> None:
    stamps = range(1773051273000000, 1773051273000000 + len(values))
    column = {"signal": signal, "timestamps": [*stamps], "values": [*values]}
    await world.sensor.done("POST", "/telemetry", {"columns": [column]})


async def exported(world: World, services: Services, **what: Any) -> Any:
    asked = await world.editor.done("POST", "/exports", wanted(world, **what), 202)
    await work_off_exports(services)
    return await world.viewer.done("GET", f"/exports/{asked['id']}")


@pytest.mark.covers("exports.request", "exports.download")
async def test_an_export_is_asked_for_worked_off_and_downloaded(
    world: World, runner: object, services: Services
) -> None:
    await recorded(world)
    answer = await world.editor.post("/exports", wanted(world, run_id=world.run_id, signal=["value"]))
    asked = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (202, f"/api/v1/exports/{asked['id']}")
    assert answer.headers["etag"] == '"1"'
    assert asked["scope"] == {"run_id": [world.run_id], "signal": ["value"]}
    assert (asked["status"], asked["sessions_done"], asked["expires_at"]) == ("queued", 0, None)
    path = f"/exports/{asked['id']}"
    early = await world.editor.get(f"{path}/download")
    refusal(early, 409, "export_not_ready")
    assert early.headers["retry-after"] == "2"
    await work_off_exports(services)
    done = await world.viewer.done("GET", path)
    assert (done["status"], done["sessions_done"], done["sessions_total"]) == ("succeeded", 1, 1)
    assert (done["readings_written"], done["attempts"], done["error"]) == (3, 0, None)
    assert done["finished_at"] < done["expires_at"]
    answer = await world.viewer.get(f"{path}/download")
    assert answer.headers["content-type"] == "text/csv"
    assert answer.headers["content-disposition"] == f'attachment; filename="export-{asked["id"]}.csv"'
    assert int(answer.headers["content-length"]) == done["bytes_written"] == len(answer.content)
    assert answer.headers["cache-control"] == "private, no-store"
    ids = (world.run_id, world.session_id, world.sensor_id)
    assert answer.text.splitlines()[:2] == [
        ",".join(COLUMNS),
        ",".join([*ids, "value", "2026-03-09T10:14:33.000000Z", "1.0", "°C", "physical", world.profile_id]),
    ]
    head = await world.viewer.send("HEAD", f"{path}/download")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == answer.headers["content-length"]
    history = (await world.viewer.done("GET", f"{path}/history"))["items"]
    assert [(step["from"], step["to"]) for step in history] == [("queued", "running"), ("running", "succeeded")]
    listed = await world.viewer.done("GET", "/exports", params={"project_id": world.project_id, "status": "succeeded"})
    assert listed == {"items": [done], "next_cursor": None}


@pytest.mark.parametrize("kind", FileFormat)
async def test_every_format_gives_back_what_was_sent(app: Litestar, services: Services, kind: str) -> None:
    world = await new_world(app, signals=[*NAUGHTY])
    for signal in NAUGHTY:
        await recorded(world, NUMBERS, signal)
    done = await exported(world, services, format=kind, layer="raw")
    assert (done["status"], done["readings_written"]) == ("succeeded", len(NAUGHTY) * len(NUMBERS))
    answer = await world.editor.get(f"/exports/{done['id']}/download")
    assert answer.headers["content-type"] == TYPES[kind]
    rows: list[dict[str, Any]]
    if kind == "csv":
        rows = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        for row in rows:
            # Numbers are numbers, negative ones too; text that a spreadsheet would calculate is none any more.
            assert row["value"] == repr(float(row["value"]))
            assert row["signal"][0] not in "=+-@＝"
            row["value"] = float(row["value"])
            row["signal"] = row["signal"].removeprefix("'")
    elif kind == "json":
        rows = [json.loads(line) for line in answer.text.splitlines()]
    else:
        rows = parquet.read_table(pa.BufferReader(answer.content)).to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        assert list(row) == list(COLUMNS)
        found.setdefault(row["signal"], []).append(repr(row["value"]))
    assert found == {signal: [repr(value) for value in NUMBERS] for signal in NAUGHTY}
    assert {row["unit"] for row in rows} == {"mV"}


async def test_scopes_are_filters_of_lists(world: World, runner: object, services: Services) -> None:
    await recorded(world)
    await world.editor.done("PATCH", f"/runs/{world.run_id}", {"tags": ["cold"], "params": {"rpm": 1200}})

    async def found(**scope: Any) -> tuple[Any, Any]:
        done = await exported(world, services, **scope)
        return done["sessions_total"], done["scope"]

    session, now = world.session_id, "2020-01-01T00:00:00.000000Z"
    assert await found() == (1, {})
    assert await found(tag="cold") == (1, {"tag": ["cold"]})
    assert await found(tag=["cold", "old"]) == (0, {"tag": ["cold", "old"]})
    assert await found(any_tag=["cold", "old"], status="running") == (
        1,
        {"any_tag": ["cold", "old"], "status": ["running"]},
    )
    assert await found(param={"rpm": "1200"}) == (1, {"param": {"rpm": ["1200"]}})
    assert await found(param={"rpm": ["7", "8"]}) == (0, {"param": {"rpm": ["7", "8"]}})
    assert await found(capture_session_id=session) == (1, {"capture_session_id": [session]})
    assert await found(created_after=now, q="run") == (1, {"created_after": now, "q": "run"})
    assert await found(started_before=now) == (0, {"started_before": now})
    bad: list[dict[str, Any]] = [
        {"run": "x"},
        {"run_id": "x"},
        {"status": "odd"},
        {"tag": 7},
        {"git_sha": "short"},
        {"q": None},
    ]
    for scope in bad:
        await world.editor.refused("POST", "/exports", 422, "invalid", wanted(world, **scope))
    for name in ("project_id", "scope", "format", "layer"):
        body = wanted(world)
        del body[name]
        await world.editor.refused("POST", "/exports", 422, "invalid", body)
    await world.editor.refused("POST", "/exports", 422, "invalid", wanted(world, format="xlsx"))
    await world.editor.refused("POST", "/exports", 404, "not_found", wanted(world, run_id=str(uuid4())))
    await world.editor.refused("POST", "/exports", 404, "not_found", {**wanted(world), "project_id": str(uuid4())})


async def test_raw_values_are_for_whom_the_policy_says(world: World, runner: object, services: Services) -> None:
    await recorded(world)
    await world.viewer.refused("POST", "/exports", 403, "raw_not_allowed", wanted(world, layer="raw"))
    done = await exported(world, services, layer="raw")
    path = f"/exports/{done['id']}/download"
    await world.viewer.refused("GET", path, 403, "raw_not_allowed")
    await world.outsider.refused("GET", path, 404, "not_found")
    assert (await world.editor.get(path)).text.splitlines()[2].split(",")[5:8] == ["-1.0", "mV", "raw"]
    await world.owner.done("PATCH", f"/projects/{world.project_id}", {"physical_only": True})
    for client in (world.viewer, world.editor, world.owner):
        await client.refused("GET", path, 403, "raw_not_allowed")
        await client.refused("POST", "/exports", 403, "raw_not_allowed", wanted(world, layer="raw"))


@pytest.mark.parametrize("by", ["policy", "token"])
async def test_a_download_breaks_off_where_it_is_forbidden_meanwhile(
    app: Litestar, units_of_work: UnitsOfWork, by: str
) -> None:
    services = services_over(units_of_work, export_formats={**FORMATS, FileFormat.CSV: SmallCsv()})
    app = app_over(units_of_work, services=services)
    world = await new_world(app)
    await recorded(world, [float(number) for number in range(10)])
    done = await exported(world, services, layer="raw")
    sent: list[bytes] = []

    async def receive() -> Any:
        await asyncio.Event().wait()  # the client stays

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            sent.append(message["body"])
            if len(sent) == 2 and by == "policy":
                await world.owner.done("PATCH", f"/projects/{world.project_id}", {"physical_only": True})
            elif len(sent) == 2:
                await asyncio.sleep(2.1)

    path = f"/api/v1/exports/{done['id']}/download"
    token = world.editor.token if by == "policy" else token_of(world.names["editor"], exp=time.time() - LEEWAY + 2)
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", f"Bearer {token}".encode())],
    }
    with pytest.raises(Exception, match="after response started"):
        await app(scope, receive, send)  # pyright: ignore[reportArgumentType]
    assert b"".join(sent).count(b"\n") == 1 + 2 * 2
    assert len(b"".join(sent)) < done["bytes_written"]


@pytest.mark.covers("exports.cancel")
async def test_cancel(world: World, runner: object, services: Services) -> None:
    asked = await world.viewer.done("POST", "/exports", wanted(world), 202)
    path = f"/exports/{asked['id']}"
    await world.viewer.refused("POST", f"{path}/cancel", 412, "version_mismatch", headers={"If-Match": '"7"'})
    cancelled = await world.viewer.done("POST", f"{path}/cancel", {"reason": "wrong"}, headers={"If-Match": '"1"'})
    assert (cancelled["status"], cancelled["version"]) == ("cancelled", 2)
    assert await world.editor.done("POST", f"{path}/cancel") == cancelled
    await world.viewer.refused("GET", f"{path}/download", 409, "export_has_no_file")
    theirs = await world.editor.done("POST", "/exports", wanted(world), 202)
    await world.viewer.refused("POST", f"/exports/{theirs['id']}/cancel", 403, "forbidden")
    await world.editor.done("POST", f"/exports/{theirs['id']}/cancel")
    done = await exported(world, services)
    await world.editor.refused("POST", f"/exports/{done['id']}/cancel", 409, "invalid_transition")


async def test_one_key_is_one_request_and_only_some_are_under_way(
    world: World, runner: object, services: Services
) -> None:
    key = {"Idempotency-Key": uuid4().hex}
    first = await world.editor.post("/exports", wanted(world), headers=key)
    again = await world.editor.post("/exports", wanted(world), headers=key)
    assert (first.status_code, again.status_code, again.json()) == (202, 202, first.json())
    assert again.headers["idempotency-replayed"] == "true"
    for _ in range(4):
        await world.editor.done("POST", "/exports", wanted(world), 202)
    await world.editor.refused("POST", "/exports", 409, "too_many_exports", wanted(world))
    await world.owner.done("POST", "/exports", wanted(world), 202)
    assert await work_off_exports(services) >= 6


async def test_files_expire(world: World, runner: object, services: Services, clock: Clock) -> None:
    await recorded(world)
    done = await exported(world, services)
    path = f"/exports/{done['id']}"
    clock.more.pass_by(7 * 86_400)
    token = world.editor
    try:
        # Tokens are checked by another clock.
        await token.refused("GET", f"{path}/download", 410, "export_expired")
        await tidy_exports(services, lambda: False)
        assert (await token.done("GET", path))["status"] == "expired"
        await token.refused("GET", f"{path}/download", 410, "export_expired")
    finally:
        clock.more.at = SettableClock().at


async def test_a_service_without_a_place_says_so(units_of_work: UnitsOfWork, runner: object) -> None:
    from experiment_domain.exports.files import NoExportFiles

    world = await new_world(
        app_over(units_of_work, services=services_over(units_of_work, export_files=NoExportFiles()))
    )
    await world.editor.refused("POST", "/exports", 409, "no_export_files", wanted(world))


async def test_a_place_that_is_away_is_told_before_anything_is_sent(
    world: World, runner: object, services: Services
) -> None:
    await recorded(world)
    done = await exported(world, services)
    async with services.begin(System()) as work:
        (part,) = await work._uow.exports.parts(UUID(done["id"]))
    await services.export_files.delete([part.name])
    answer = await world.editor.get(f"/exports/{done['id']}/download")
    refusal(answer, 503, "unavailable")
