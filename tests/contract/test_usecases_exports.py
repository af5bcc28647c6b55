"""Exports through the library's door: asked for, read with their reader's rights, written part by part, and kept."""

import asyncio
import csv
import io
import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from attrs import define, evolve

from entities import a_batch, a_column, fresh
from experiment_adapters.exports.files import ObjectFiles
from experiment_adapters.exports.formats import FORMATS, CsvFormat
from experiment_domain import Role, System
from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.exports.files import ExportPolicy, NoExportFiles
from experiment_domain.exports.jobs import ATTEMPTS, LOSSES, Export, ExportStatus, FileFormat
from experiment_domain.exports.scopes import CHOICES, ExportScope
from experiment_domain.kernel.access import Principal, User
from experiment_domain.kernel.errors import Conflict, Forbidden, Gone, Invalid, NotFound, NotYet, Refusal, Unavailable
from experiment_domain.runs import Run, RunStatus
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases.exporting import tidy_exports, work_off_exports
from experiment_domain.usecases.sensors import SensorWithToken
from laboratory import Laboratory, a_user, token_of

SYSTEM = System()
AT_ONCE = timedelta()
Row = dict[str, str]


class SmallCsv(CsvFormat):
    """CSV in parts of three readings."""

    readings = 3


class CountedFiles(ObjectFiles):
    """Files that tell what was stored, may be out of order, and may do something first."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.stored: list[str] = []
        self.broken = 0
        self.before: Any = None

    async def put(self, name: str, data: bytes) -> None:
        if self.before is not None:
            before, self.before = self.before, None
            await before()
        if self.broken:
            self.broken -= 1
            raise Unavailable("The disk is full.")
        await super().put(name, data)
        self.stored.append(name)


@define
class Recorded:
    """A run of which two sessions are over, with a sensor that doubles what it measures in mV, to °C."""

    lab: Laboratory
    files: CountedFiles
    run: Run
    made: SensorWithToken
    profile: ConversionProfile
    sessions: list[CaptureSession]

    @classmethod
    async def make(cls, lab: Laboratory, *, readings: int = 5, profile: bool = True, **policy: Any) -> "Recorded":
        files = CountedFiles.in_memory()
        assert isinstance(files, CountedFiles)
        formats = {**FORMATS, FileFormat.CSV: SmallCsv()}
        lab.services = evolve(
            lab.services, export_files=files, export_formats=formats, export_policy=ExportPolicy(**policy)
        )
        run = await lab.run(start=True)
        made = await lab.sensor(run)
        first: Any = await lab.profile(made, 2, 0, output_unit="°C") if profile else None
        sessions: list[CaptureSession] = []
        for number in range(2):
            session = await lab.session(run)
            for signal in ("inner", "outer"):
                stamps = [1_000_000 * (10 * number + place) for place in range(readings)]
                column = a_column(stamps, [float(place) - 1 for place in range(readings)], signal)
                await lab.ingest(made, a_batch(column, session=session.id))
            sessions.append(await lab.stop(session))
        return cls(lab, files, run, made, first, sessions)

    async def request(
        self,
        scope: ExportScope | None = None,
        *,
        by: Principal | None = None,
        layer: Layer = Layer.PHYSICAL,
        kind: FileFormat = FileFormat.CSV,
    ) -> Export:
        wanted = scope or ExportScope(run_ids=[self.run.id])
        return await self.lab.do(
            lambda work: work.exports.request(project_id=self.lab.project.id, scope=wanted, format=kind, layer=layer),
            by,
        )

    async def work_off(self, **how: Any) -> int:
        return await work_off_exports(self.lab.services, **how)

    async def get(self, export: Export) -> Export:
        return await self.lab.ask(lambda work: work.exports.get(export.id))

    async def content(self, export: Export, by: Principal | None = None) -> bytes:
        file = await self.lab.ask(lambda work: work.exports.download(export.id), by)
        data = b"".join([piece for part in file.parts async for piece in self.files.chunks(part.name)])
        assert len(data) == file.export.bytes_written
        return data

    async def rows(self, export: Export, by: Principal | None = None) -> list[Row]:
        return list(csv.DictReader(io.StringIO((await self.content(export, by)).decode())))

    async def exported(self, scope: ExportScope | None = None, **how: Any) -> list[Row]:
        """The rows of an export that is asked for and worked off."""
        export = await self.request(scope, **how)
        await self.work_off()
        done = await self.get(export)
        assert done.status is ExportStatus.SUCCEEDED, done.error
        rows = await self.rows(export)
        assert len(rows) == done.readings_written
        return rows

    async def claim(self, worker: UUID) -> Export | None:
        return await self.lab.do(lambda work: work.exports.claim(worker), SYSTEM)

    async def claims_run_out(self, export: Export) -> None:
        """As time would, for a worker that was killed: its claim is there, and is over."""
        async with self.lab.units.begin(SYSTEM) as uow:
            kept = await uow.exports.get(export.id)
            assert kept is not None
            claim = await _claim_of(uow, export.id)
            uow.exports.renew(kept, claim, AT_ONCE)
            await uow.commit()

    async def names(self, export: Export) -> Sequence[str]:
        return await self.files.names(export.folder)


async def _claim_of(uow: Any, export_id: UUID) -> UUID:
    """Which worker has claimed an export."""
    if hasattr(uow, "_store"):
        return uow._store.claims[export_id].worker
    return await uow._statements.ask("SELECT claimed_by FROM exports WHERE id = %s", [export_id]).value()


@pytest.fixture(autouse=True)
def _left_tidy(lab: Laboratory, runner: asyncio.Runner) -> Iterator[None]:
    """What a test leaves behind is over and put away: the next one counts only its own."""
    yield
    runner.run(_put_away(lab))


async def _put_away(lab: Laboratory) -> None:
    async with lab.units.begin(SYSTEM) as uow:
        found = await uow.exports.page([lab.project.id], limit=500, after=None)
        for export in found.items:
            if export.is_active:
                uow.exports.save(export.cancel(at=lab.clock.now()).result)
        await uow.commit()
    lab.clock.pass_by(30 * 86_400)
    await tidy_exports(lab.services, lambda: False)


def numbers(rows: Collection[Row]) -> list[float]:
    return [float(row["value"]) for row in rows]


@pytest.mark.covers("exports.request", "exports.claim", "exports.plan", "exports.read", "exports.advance")
@pytest.mark.covers("exports.finish", "exports.download")
async def test_a_scope_becomes_one_file_of_many_parts(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request(by=lab.viewer)
    assert (asked.status, asked.created_by, asked.expires_at) == ("queued", lab.viewer.id, None)
    assert await recorded.work_off() == 1
    done = await recorded.get(asked)
    assert (done.status, done.sessions_done, done.sessions_total) == ("succeeded", 2, 2)
    assert (done.readings_written, done.error, done.attempts) == (20, None, 0)
    assert done.started_at is not None
    assert done.finished_at is not None
    assert done.expires_at == done.finished_at + timedelta(days=7)
    rows = await recorded.rows(asked, by=lab.viewer)
    assert [(row["capture_session_id"], row["signal"]) for row in rows] == [
        (str(session.id), signal) for session in recorded.sessions for signal in ("inner", "outer") for _ in range(5)
    ]
    assert {row["run_id"] for row in rows} == {str(recorded.run.id)}
    assert {(row["sensor_id"], row["layer"], row["profile_id"], row["unit"]) for row in rows} == {
        (str(recorded.made.sensor.id), "physical", str(recorded.profile.id), "°C")
    }
    assert numbers(rows) == [-2.0, 0.0, 2.0, 4.0, 6.0] * 4
    assert rows[0]["timestamp"] == "1970-01-01T00:00:00.000000Z"
    assert rows[9]["timestamp"] == "1970-01-01T00:00:04.000000Z"
    assert len(recorded.files.stored) == 7  # three readings each, across series and sessions


async def test_history_and_audit_tell_of_it(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request(by=lab.editor)
    await recorded.work_off()
    history = await lab.ask(lambda work: work.exports.history(asked.id), by=lab.viewer)
    assert [(step.source, step.target, step.actor) for step in history] == [
        ("queued", "running", "system"),
        ("running", "succeeded", "system"),
    ]
    audit = [record for record in await lab.audit() if record.target_id == str(asked.id)]
    assert [(record.action, record.actor) for record in audit] == [
        ("export", lab.editor.id),
        ("start", "system"),
        ("finish", "system"),
    ]
    assert audit[0].after is not None
    assert audit[0].after["scope"] == {"run_id": [str(recorded.run.id)]}
    assert all({"place", "sessions", "claimed_role"}.isdisjoint(record.after or {}) for record in audit)


async def test_a_scope_narrows_as_lists_do(lab: Laboratory):
    recorded = await Recorded.make(lab)
    other = await lab.run(start=True, name="Other", tags=["cold"], params={"rpm": 7})
    await lab.do(lambda work: work.runs.bind(other.id, recorded.made.sensor.id))
    session = await lab.session(other)
    await lab.ingest(recorded.made, a_batch(a_column([0], [8.0], "inner"), session=session.id))
    first, second = recorded.sessions

    async def found(**fields: Any) -> Counter[str]:
        return Counter(row["capture_session_id"] for row in await recorded.exported(ExportScope(**fields)))

    everything = {str(first.id): 10, str(second.id): 10, str(session.id): 1}
    assert await found() == everything
    assert await found(tags=["cold"]) == {str(session.id): 1}
    assert await found(params=[("rpm", "7")]) == {str(session.id): 1}
    assert await found(run_ids=[recorded.run.id], tags=["cold"]) == {}
    assert await found(run_ids=[recorded.run.id, other.id], statuses=[RunStatus.RUNNING]) == everything
    assert await found(capture_session_ids=[second.id]) == {str(second.id): 10}
    assert await found(capture_session_ids=[second.id, session.id], words="oth") == {str(session.id): 1}
    assert await found(capture_session_ids=[second.id], run_ids=[other.id]) == {}
    assert await found(signals=["inner"], experiment_ids=[recorded.run.experiment_id]) == {
        str(first.id): 5,
        str(second.id): 5,
    }
    assert await found(sensor_ids=[recorded.made.sensor.id]) == everything
    assert await found(sensor_ids=[fresh()]) == {}
    lone = await lab.run()
    await lab.sensor(lone)
    assert await found(run_ids=[lone.id]) == {}


async def test_an_empty_export_is_a_file_all_the_same(lab: Laboratory):
    recorded = await Recorded.make(lab)
    exports = [await recorded.request(ExportScope(tags=["none"]), kind=kind) for kind in FileFormat]
    assert await recorded.work_off() == 3
    texts = [await recorded.content(export) for export in exports]
    assert texts[0].decode() == SmallCsv().begun().decode()
    assert texts[1] == b""
    assert (texts[2][:4], texts[2][-4:]) == (b"PAR1", b"PAR1")


async def test_physical_values_are_those_of_the_layer_that_was_current(lab: Laboratory):
    recorded = await Recorded.make(lab)
    later = await lab.profile(recorded.made, 1, 100)
    asked = await recorded.request(ExportScope(capture_session_ids=[recorded.sessions[0].id], signals=["inner"]))

    async def applied() -> None:
        from experiment_domain.usecases.backfilling import work_off_backfills

        names = {"profile_id": later.id, "sensor_id": recorded.made.sensor.id}
        await lab.do(lambda work: work.backfills.request(recorded.sessions[0].id, **names))
        await work_off_backfills(lab.services)

    recorded.files.before = applied
    await recorded.work_off()
    rows = await recorded.rows(asked)
    assert numbers(rows) == [-2.0, 0.0, 2.0, 4.0, 6.0]  # to its end by the layer that it was begun with
    rows = await recorded.exported(ExportScope(capture_session_ids=[recorded.sessions[0].id], signals=["inner"]))
    assert numbers(rows) == [99.0, 100.0, 101.0, 102.0, 103.0]
    assert {row["profile_id"] for row in rows} == {str(later.id)}


async def test_raw_values_and_what_has_no_physical_ones(lab: Laboratory):
    recorded = await Recorded.make(lab, profile=False)
    assert await recorded.exported() == []
    rows = await recorded.exported(layer=Layer.RAW)
    assert numbers(rows) == [-1.0, 0.0, 1.0, 2.0, 3.0] * 4
    assert {(row["unit"], row["layer"], row["profile_id"]) for row in rows} == {("mV", "raw", "")}


async def test_what_is_out_of_range_has_no_value(lab: Laboratory):
    recorded = await Recorded.make(lab, profile=False)
    run = await lab.run(start=True)
    await lab.do(lambda work: work.runs.bind(run.id, recorded.made.sensor.id))
    await lab.profile(recorded.made, 1, 0, valid_range={"min": 0.0, "max": None})
    session = await lab.session(run)
    await lab.ingest(recorded.made, a_batch(a_column([0, 1], [-1.0, 1.0]), session=session.id))
    rows = await recorded.exported(ExportScope(run_ids=[run.id]))
    assert [row["value"] for row in rows] == ["", "1.0"]
    assert not any(math.isnan(float(row["value"] or 0)) for row in rows)


async def test_who_may_not_ask_is_refused(lab: Laboratory):
    recorded = await Recorded.make(lab)
    with pytest.raises(NotFound):
        await recorded.request(by=lab.outsider)
    with pytest.raises(NotFound):
        await recorded.request(by=token_of(recorded.made))
    with pytest.raises(Forbidden) as refused:
        await recorded.request(by=lab.viewer, layer=Layer.RAW)
    assert refused.value.code == "raw_not_allowed"
    await lab.do(lambda work: work.projects.edit(lab.project.id, physical_only=True))
    with pytest.raises(Forbidden):
        await recorded.request(layer=Layer.RAW)
    for scope in (ExportScope(run_ids=[fresh()]), ExportScope(capture_session_ids=[fresh()])):
        with pytest.raises(NotFound):
            await recorded.request(scope)
    elsewhere = await Laboratory.open(lab.units)
    foreign = await elsewhere.run()
    with pytest.raises(NotFound):
        await recorded.request(ExportScope(run_ids=[foreign.id]))
    with pytest.raises(Invalid):
        await recorded.request(ExportScope(tags=[str(number) for number in range(CHOICES + 1)]))
    with pytest.raises(Invalid):
        await recorded.request(ExportScope(git_shas=["no commit"]))
    lab.services = evolve(lab.services, export_files=NoExportFiles("A folder is one."))
    with pytest.raises(Refusal) as nowhere:
        await recorded.request()
    assert nowhere.value.code == "no_export_files"
    assert nowhere.value.detail == "This service was given no place to keep exports in. A folder is one."


async def test_a_user_has_only_so_many_under_way(lab: Laboratory):
    recorded = await Recorded.make(lab, per_user=2)
    asked = await asyncio.gather(*(recorded.request(by=lab.editor) for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(found, Export) for found in asked) == 2
    refused = [found for found in asked if isinstance(found, Conflict)]
    assert [refusal.code for refusal in refused] == ["too_many_exports"] * 3
    await recorded.request(by=lab.viewer)
    assert await recorded.work_off() == 3
    await recorded.request(by=lab.editor)


@pytest.mark.covers("exports.fail")
async def test_whoever_loses_access_meanwhile_gets_nothing(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request(by=lab.viewer)

    async def dismissed() -> None:
        await lab.do(lambda work: work.projects.remove_member(lab.project.id, lab.viewer.id))

    recorded.files.before = dismissed
    assert await recorded.work_off() == 1
    lost = await recorded.get(asked)
    assert (lost.status, lost.error) == ("failed", f"{lab.viewer.id} has no access to this project any more.")
    assert len(recorded.files.stored) == 1
    with pytest.raises(Conflict) as refused:
        await recorded.content(asked)
    assert refused.value.code == "export_has_no_file"
    with pytest.raises(NotFound):
        await recorded.content(asked, by=lab.viewer)
    lab.clock.pass_by(61)
    await tidy_exports(lab.services, lambda: False)
    assert await recorded.names(asked) == []


async def test_a_policy_that_forbids_raw_values_holds_at_once(lab: Laboratory):
    recorded = await Recorded.make(lab)
    done = await recorded.request(layer=Layer.RAW, by=lab.editor)
    await recorded.work_off()
    assert len(await recorded.rows(done, by=lab.editor)) == 20
    with pytest.raises(Forbidden) as refused:
        await recorded.rows(done, by=lab.viewer)
    assert refused.value.code == "raw_not_allowed"
    under_way = await recorded.request(layer=Layer.RAW, by=lab.editor)

    async def tightened() -> None:
        await lab.do(lambda work: work.projects.edit(lab.project.id, raw_readers=[Role.OWNER]))

    recorded.files.before = tightened
    await recorded.work_off()
    failed = await recorded.get(under_way)
    assert (failed.status, failed.error) == (
        "failed",
        f"The policy of this project does not let {lab.editor.id} read raw values any more.",
    )
    with pytest.raises(Forbidden):
        await recorded.rows(done, by=lab.editor)
    assert len(await recorded.rows(done, by=lab.owner)) == 20
    await lab.do(lambda work: work.projects.edit(lab.project.id, physical_only=True))
    with pytest.raises(Forbidden):
        await recorded.rows(done, by=lab.owner)


async def test_a_role_that_only_the_token_claims_counts_too(lab: Laboratory):
    recorded = await Recorded.make(lab)
    guest = User(id=a_user("guest").id, projects={lab.project.id: Role.EDITOR})
    asked = await recorded.request(by=guest, layer=Layer.RAW)
    await recorded.work_off()
    assert len(await recorded.rows(asked, by=guest)) == 20
    with pytest.raises(NotFound):
        await recorded.rows(asked, by=User(id=guest.id))


async def test_sessions_that_were_deleted_meanwhile_are_left_out(lab: Laboratory):
    recorded = await Recorded.make(lab)
    session = await lab.session(recorded.run)
    await lab.ingest(recorded.made, a_batch(a_column([0], [1.0]), session=session.id))
    await lab.stop(session, CaptureStatus.FAILED)
    asked = await recorded.request()

    async def deleted() -> None:
        await lab.do(lambda work: work.captures.delete(session.id))

    recorded.files.before = deleted
    await recorded.work_off()
    done = await recorded.get(asked)
    assert (done.status, done.sessions_done, done.readings_written) == ("succeeded", 3, 20)


@pytest.mark.covers("exports.stumble")
async def test_what_goes_wrong_is_tried_again_and_given_up_at_last(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request()
    recorded.files.broken = ATTEMPTS
    told: list[str] = []
    for attempt in range(1, ATTEMPTS):
        await recorded.work_off(failed=lambda export, error: told.append(f"{export.id} {error}"))
        waiting = await recorded.get(asked)
        assert (waiting.status, waiting.attempts, waiting.error) == ("queued", attempt, "The disk is full.")
        assert await recorded.work_off() == 0  # it has its pause
        async with lab.units.begin(SYSTEM) as uow:
            uow.exports.release(asked.id)
            await uow.commit()
    assert await recorded.work_off() == 1
    lost = await recorded.get(asked)
    assert (lost.status, lost.error) == ("failed", "The disk is full.")
    assert told == [f"{asked.id} The disk is full."] * (ATTEMPTS - 1)


async def test_progress_makes_up_for_errors(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request()
    for written in range(3):
        recorded.files.broken = 1
        await recorded.work_off()
        assert (await recorded.get(asked)).attempts == 1
        async with lab.units.begin(SYSTEM) as uow:
            uow.exports.release(asked.id)
            await uow.commit()
        stop = iter([False, True])
        await recorded.work_off(stopping=lambda: next(stop, True))  # noqa: B023
        assert (await recorded.get(asked)).attempts == 0
        assert len(recorded.files.stored) == written + 1
    assert await recorded.work_off() == 1
    assert numbers(await recorded.rows(asked)) == [-2.0, 0.0, 2.0, 4.0, 6.0] * 4


@pytest.mark.covers("exports.leave")
async def test_a_worker_that_lost_its_claim_changes_nothing(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request()
    other, after = fresh(), list[Export | None]()

    async def taken_over() -> None:
        await recorded.claims_run_out(asked)
        after.append(await recorded.claim(other))

    recorded.files.before = taken_over
    assert await recorded.work_off() == 0
    assert after[0] is not None
    assert (after[0].attempts, after[0].readings_written) == (1, 0)
    assert len(recorded.files.stored) == 1  # a part that nobody knows of
    # What it does without its claim is nothing.
    stranger = fresh()
    for use in ("stumble", "fail"):
        assert await lab.do(lambda work: getattr(work.exports, use)(asked.id, stranger, "no"), SYSTEM) is None  # noqa: B023
    assert await lab.do(lambda work: work.exports.plan(asked.id, stranger), SYSTEM) is None
    assert await lab.do(lambda work: work.exports.finish(asked.id, stranger, None), SYSTEM) is None
    await lab.do(lambda work: work.exports.leave(asked.id, stranger), SYSTEM)
    assert await recorded.claim(stranger) is None
    await lab.do(lambda work: work.exports.leave(asked.id, other), SYSTEM)
    assert await recorded.work_off() == 1
    assert numbers(await recorded.rows(asked)) == [-2.0, 0.0, 2.0, 4.0, 6.0] * 4
    assert len(await recorded.names(asked)) == 8


async def test_what_ends_its_workers_fails_in_the_end(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request()
    for _ in range(LOSSES):
        found = await recorded.claim(fresh())
        assert found is not None
        assert found.status is ExportStatus.RUNNING
        await recorded.claims_run_out(asked)
    last = await recorded.claim(fresh())
    assert last is not None
    assert (last.status, last.error) == ("failed", "10 workers in a row ended without a word while they worked on it.")
    assert await recorded.claim(fresh()) is None


async def test_turns(lab: Laboratory):
    recorded = await Recorded.make(lab)
    first = await recorded.request()
    lab.clock.pass_by(1)
    second = await recorded.request()
    assert await recorded.work_off(turn=0.0) == 2
    # One part of the first, one of the second: nobody waits for a large one.
    folders = [name.partition("/")[0] for name in recorded.files.stored]
    assert folders == [first.folder, second.folder] * 7
    stop = iter([False, True])
    await recorded.request()
    assert await recorded.work_off(stopping=lambda: next(stop, True)) == 0
    assert await recorded.work_off() == 1


@pytest.mark.covers("exports.cancel")
async def test_cancel(lab: Laboratory):
    recorded = await Recorded.make(lab)
    asked = await recorded.request(by=lab.viewer)
    by_editor = await recorded.request(by=lab.editor)
    with pytest.raises(Forbidden):
        await lab.do(lambda work: work.exports.cancel(by_editor.id), by=lab.viewer)
    with pytest.raises(NotFound):
        await lab.do(lambda work: work.exports.cancel(by_editor.id), by=lab.outsider)
    cancelled = await lab.do(lambda work: work.exports.cancel(asked.id, reason="wrong"), by=lab.viewer)
    assert (cancelled.status, cancelled.version) == ("cancelled", 2)
    assert await lab.do(lambda work: work.exports.cancel(asked.id)) == cancelled
    recorded.files.before = lambda: lab.do(lambda work: work.exports.cancel(by_editor.id), by=lab.owner)
    assert await recorded.work_off() == 0
    assert (await recorded.get(by_editor)).status == "cancelled"
    assert len(await recorded.names(by_editor)) == 1
    lab.clock.pass_by(61)
    assert await tidy_exports(lab.services, lambda: False) == 2
    assert await recorded.names(by_editor) == []
    listed = await lab.ask(lambda work: work.exports.page([lab.project.id], statuses=[ExportStatus.CANCELLED]))
    assert {export.id for export in listed.items} == {asked.id, by_editor.id}


@pytest.mark.covers("exports.expire", "exports.untidy", "exports.tidied", "exports.notes")
async def test_files_expire_and_nothing_is_left_of_them(lab: Laboratory):
    recorded = await Recorded.make(lab, kept_for=timedelta(hours=1))
    kinds = [await recorded.request(kind=kind) for kind in FileFormat]
    with pytest.raises(NotYet):
        await recorded.content(kinds[0])
    assert await recorded.work_off() == 3
    for export in kinds:
        await recorded.files.put(f"{export.folder}/000001-of-a-worker-that-was-killed", b"part")
    assert await tidy_exports(lab.services, lambda: False) == 0  # somebody may still be writing
    lab.clock.pass_by(61)
    assert await tidy_exports(lab.services, lambda: True) == 0
    assert await tidy_exports(lab.services, lambda: False) == 3
    assert await tidy_exports(lab.services, lambda: False) == 0
    for export in kinds:
        file = await lab.ask(lambda work: work.exports.download(export.id))  # noqa: B023
        assert sorted(await recorded.names(export)) == sorted(part.name for part in file.parts)
        assert await recorded.content(export)
    lab.clock.pass_by(3_600)
    with pytest.raises(Gone):  # whether or not somebody has put it away by now
        await recorded.content(kinds[0])
    assert (await recorded.get(kinds[0])).status == "succeeded"
    assert await tidy_exports(lab.services, lambda: False) == 3
    for export in kinds:
        assert (await recorded.get(export)).status == "expired"
        assert await recorded.names(export) == []
        with pytest.raises(Gone):
            await recorded.content(export)
        assert await ask_parts(lab, export) == []
    assert await tidy_exports(lab.services, lambda: False) == 0


async def ask_parts(lab: Laboratory, export: Export) -> list[Any]:
    async with lab.units.begin(SYSTEM, read_only=True) as uow:
        return list(await uow.exports.parts(export.id))


async def test_too_many_readings_are_refused(lab: Laboratory):
    recorded = await Recorded.make(lab, readings=5)
    lab.services = evolve(lab.services, export_policy=ExportPolicy(readings=19))
    asked = await recorded.request()
    await recorded.work_off()
    lost = await recorded.get(asked)
    assert (lost.status, lost.error) == ("failed", "The scope has more than 19 readings: narrow it.")


async def test_lists_are_of_projects_that_one_may_read(lab: Laboratory):
    recorded = await Recorded.make(lab)
    elsewhere = await Laboratory.open(lab.units)
    asked = [await recorded.request() for _ in range(3)]
    page = await lab.ask(lambda work: work.exports.page(limit=2), by=lab.viewer)
    assert [export.id for export in page.items] == [asked[2].id, asked[1].id]
    rest = await lab.ask(lambda work: work.exports.page(limit=2, after=page.next), by=lab.viewer)
    assert ([export.id for export in rest.items], rest.next) == ([asked[0].id], None)
    assert rest.items[0] == asked[0]
    for by in (lab.outsider, elsewhere.owner):
        assert list((await lab.ask(lambda work: work.exports.page([lab.project.id]), by=by)).items) == []
