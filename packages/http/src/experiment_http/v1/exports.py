"""Exports: the readings of many sessions as one file."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from experiment_domain.exports.jobs import Export, ExportStatus, FileFormat
from experiment_domain.exports.scopes import CHOICES, ExportScope
from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.runs import RunStatus
from experiment_domain.telemetry.store import Layer
from experiment_domain.usecases import Work
from experiment_domain.usecases.exports import ExportFile, ExportUseCases
from experiment_http.answers import EntityView, Items, One, Paged, one, shown
from experiment_http.downloads import PARQUET, FileForm, FileStream
from experiment_http.operations import Call, Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Moment, Timestamp
from experiment_http.v1.runs import GitSha
from experiment_http.v1.values import ENTITY, Json, Request, StatusChangeView, Transition, Words

_Ids = UUID | Annotated[list[UUID], Meta(max_length=CHOICES)]
_Texts = str | Annotated[list[str], Meta(max_length=CHOICES)]


class Scope(Request, frozen=True):
    """Which readings: those of the runs that a list with these filters has. Every field narrows.

    Several values of one field are alternatives, but a run has all of `tag`. `sensor_id` and `signal` narrow what is
    taken of each session, too; an empty scope is everything in the project.
    """

    run_id: _Ids | UnsetType = UNSET
    capture_session_id: _Ids | UnsetType = UNSET
    experiment_id: _Ids | UnsetType = UNSET
    sensor_id: _Ids | UnsetType = UNSET
    profile_id: _Ids | UnsetType = UNSET
    signal: _Texts | UnsetType = UNSET
    tag: _Texts | UnsetType = UNSET
    any_tag: _Texts | UnsetType = UNSET
    participant: _Texts | UnsetType = UNSET
    status: RunStatus | list[RunStatus] | UnsetType = UNSET
    git_sha: GitSha | list[GitSha] | UnsetType = UNSET
    param: dict[str, _Texts] | UnsetType = UNSET
    created_after: Moment | UnsetType = UNSET
    created_before: Moment | UnsetType = UNSET
    started_after: Moment | UnsetType = UNSET
    started_before: Moment | UnsetType = UNSET
    q: Words | UnsetType = UNSET

    def meant(self) -> ExportScope:
        """The same in the words of the domain."""
        sent = msgspec.to_builtins(self)
        return ExportScope.of({name: value if name in _SINGLE else _listed(value) for name, value in sent.items()})


_SINGLE = frozenset({"created_after", "created_before", "started_after", "started_before", "q"})


def _listed(value: Any) -> Any:
    """A value, or several, as several."""
    if isinstance(value, dict):
        return {key: _listed(texts) for key, texts in value.items()}
    return [value] if isinstance(value, str) else value


class NewExport(Request, frozen=True):
    """What is to be exported, and how."""

    example: ClassVar[Mapping[str, Any]] = {
        "project_id": ENTITY["project_id"],
        "scope": {"tag": ["nightly"], "status": "finished"},
        "format": "csv",
        "layer": "physical",
    }

    project_id: UUID
    scope: Scope
    format: FileFormat
    layer: Layer


class ExportView(EntityView, frozen=True):
    """An export and how far it has come.

    Progress (`sessions_done` of `sessions_total`, `readings_written`, `bytes_written`) does not count as a change of
    `version`. The file can be downloaded once it has succeeded, until `expires_at`.
    """

    location: ClassVar[str] = "/exports"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        **NewExport.example,
        "scope": {"tag": ["nightly"], "status": ["finished"]},
        "status": "running",
        "sessions_total": 12,
        "sessions_done": 5,
        "readings_written": 1200000,
        "bytes_written": 252000000,
        "attempts": 0,
        "error": None,
        "queued_at": "2026-03-09T10:14:33.000000Z",
        "started_at": "2026-03-09T10:14:34.000000Z",
        "finished_at": None,
        "expires_at": None,
    }

    scope: Json
    format: FileFormat
    layer: Layer
    status: ExportStatus
    sessions_total: int
    sessions_done: int
    readings_written: int
    bytes_written: int
    attempts: int
    error: str | None
    queued_at: Timestamp
    started_at: Timestamp | None
    finished_at: Timestamp | None
    expires_at: Timestamp | None

    @classmethod
    def of(cls, thing: Export) -> Self:
        """The view of an export, its scope under the names of filters."""
        values = {name: shown(getattr(thing, name)) for name in cls.__struct_fields__}
        return cls(**{**values, "scope": thing.scope.facts()})


class ExportQuery(PageQuery, frozen=True):
    """Which exports."""

    project_id: tuple[UUID, ...] = ()
    status: tuple[ExportStatus, ...] = ()


operations = Operations("exports", "Readings of many capture sessions as files.")


@operations.post(
    "/exports",
    ExportUseCases.request,
    One(view=ExportView, status=202, has_etag=True, has_location=True),
    refuses=(404,),
)
async def request_export(work: Work, body: NewExport) -> Export:
    """Have the readings of a scope written into a file.

    A worker writes it; it is read with the rights that the caller has then, and fails where they lose access. `csv` has
    a line for each reading, `json` is JSON lines, `parquet` a row for each. `layer=raw` takes a policy of the project
    that lets the caller read raw values (`raw_not_allowed`). A user may have only some under way in a project
    (`too_many_exports`).
    """
    return await work.exports.request(
        project_id=body.project_id, scope=body.scope.meant(), format=body.format, layer=body.layer
    )


@operations.get("/exports", ExportUseCases.page, Paged(view=ExportView))
async def list_exports(work: Work, query: ExportQuery, after: Position | None = None) -> Page[Export]:
    """List the exports of all projects that the caller may read, newest first."""
    return await work.exports.page(query.project_id, statuses=query.status, limit=query.limit, after=after)


@operations.get("/exports/{export_id:uuid}", ExportUseCases.get, one(ExportView, revalidates=False))
async def get_export(work: Work, export_id: UUID) -> Export:
    """Show an export and its progress."""
    return await work.exports.get(export_id)


@operations.get(
    "/exports/{export_id:uuid}/download",
    ExportUseCases.download,
    FileForm(media_types=("text/csv", "application/jsonl", PARQUET)),
    refuses=(409, 410),
)
async def download_export(call: Call, export_id: UUID) -> FileStream:
    """Download the file of an export.

    The columns are `run_id`, `capture_session_id`, `sensor_id`, `signal`, `timestamp`, `value` (absent where a raw
    value has no physical one), `unit`, `layer` and `profile_id`. In CSV, text that a spreadsheet would take for a
    formula begins with an apostrophe. Refused where the file is not whole yet (`export_not_ready`, with `Retry-After`),
    never will be (`export_has_no_file`), or is not kept any more (`export_expired`); and where the caller may not read
    raw values now.
    """
    async with call.api.services.read(call.caller) as work:
        file = await work.exports.download(export_id)
    written = call.api.services.export_formats[file.export.format]
    pieces = _pieces(call, file)
    # What stands against it is answered as a problem, as long as nothing has been sent.
    first = await anext(pieces, b"")
    return FileStream(
        name=f"export-{file.export.id}.{written.suffix}",
        media_type=written.media_type,
        size=file.export.bytes_written,
        first=first,
        rest=pieces,
    )


@operations.post("/exports/{export_id:uuid}/cancel", ExportUseCases.cancel, one(ExportView))
async def cancel_export(work: Work, export_id: UUID, if_version: int | None, body: Transition | None = None) -> Export:
    """Cancel an export: queued or running → cancelled.

    By whoever asked for it, or by an editor.
    """
    return await work.exports.cancel(export_id, if_version=if_version, **given(body or Transition()))


@operations.get("/exports/{export_id:uuid}/history", ExportUseCases.history, Items(view=StatusChangeView))
async def export_history(work: Work, export_id: UUID) -> Sequence[StatusChange]:
    """List an export's transitions, oldest first."""
    return await work.exports.history(export_id)


async def _pieces(call: Call, file: ExportFile) -> AsyncGenerator[bytes]:
    """The file piece by piece; whether the caller may have it, and their token counts, is asked before each part."""
    for part in file.parts:
        if part.number:
            async with call.api.services.read(await call.caller_now()) as work:
                await work.exports.check_download(file.export.id)
        async with aclosing(call.api.services.export_files.chunks(part.name)) as pieces:
            async for piece in pieces:
                yield piece
