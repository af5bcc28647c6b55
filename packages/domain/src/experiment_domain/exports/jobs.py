"""Exports as pieces of work: what is asked for, how far it has come, and where its parts are."""

from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import evolve, field, frozen

from experiment_domain.exports.scopes import ExportScope
from experiment_domain.kernel.access import Role, User
from experiment_domain.kernel.entity import Change, Entity, Page, Position, Repository, changed, created, unchanged
from experiment_domain.kernel.errors import Conflict, Gone, NotYet
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.telemetry.store import Layer

ATTEMPTS = 8
"""How many errors in a row, without any progress between them, make an export fail."""
LOSSES = 10
"""How many workers in a row may vanish over an export, without any progress between them, before it fails."""
CLAIM_LASTS = timedelta(seconds=20)
"""How long a claim holds that is not renewed: then its worker is taken for dead. Each part renews it."""
FIRST_PAUSE = timedelta(seconds=2)
"""The pause after the first error; each further one doubles it."""
ERROR_LENGTH = 500
SESSIONS = 10_000
"""How many capture sessions one export has at most."""
SETTLES_AFTER = timedelta(minutes=1)
"""How long after its end what is left of an export is removed: by then no worker that lost its claim writes for it."""


class ExportStatus(StrEnum):
    """The statuses of an export."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


EXPORT = Lifecycle(
    "export",
    ExportStatus.QUEUED,
    {
        ExportStatus.QUEUED: (ExportStatus.RUNNING, ExportStatus.CANCELLED),
        ExportStatus.RUNNING: (
            ExportStatus.SUCCEEDED,
            ExportStatus.FAILED,
            ExportStatus.CANCELLED,
            ExportStatus.QUEUED,
        ),
        ExportStatus.SUCCEEDED: (ExportStatus.EXPIRED,),
    },
)
ACTIVE = (ExportStatus.QUEUED, ExportStatus.RUNNING)
PROGRESS = (
    "sessions_total",
    "sessions_done",
    "readings_written",
    "bytes_written",
    "parts_written",
    "attempts",
    "place",
)
"""What changes with each part, and leaves `version` as it is."""


class FileFormat(StrEnum):
    """The formats of files."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


@frozen(kw_only=True)
class ExportPlace:
    """How far a session has been read: the series, and the last timestamp of it, in microseconds; None: all of it.

    `profile_id` is the profile version of the physical layer that is being read: it stays the same to the end of the
    series, whichever becomes current meanwhile.
    """

    sensor_id: UUID
    signal: str
    after: int | None = None
    profile_id: UUID | None = None

    @property
    def series(self) -> tuple[UUID, str]:
        """Sensor and signal, by which the series of a session are ordered."""
        return self.sensor_id, self.signal


@frozen(kw_only=True)
class ExportPart:
    """A part of a file: where it is, how long it is, and what the end of the file has to know of it."""

    number: int
    name: str
    size: int
    note: bytes | None = field(default=None, repr=False)


@frozen(kw_only=True)
class Export(Entity):
    """The readings of a scope in one layer, as one file that is written part by part, and kept until it expires.

    It is read with the rights that `created_by` has when it is read; `claimed_role` is the one that their token claimed
    when they asked for it, beside which their membership counts. `attempts` counts the tries in a row that came to
    nothing; progress sets it back to 0. Progress itself does not change `version`.
    """

    scope: ExportScope = field(metadata={"facts": ExportScope.facts})
    format: FileFormat
    layer: Layer
    claimed_role: Role | None = field(default=None, metadata={"secret": True})
    status: ExportStatus = ExportStatus.QUEUED
    sessions_total: int = 0
    sessions_done: int = 0
    readings_written: int = 0
    bytes_written: int = 0
    parts_written: int = field(default=0, metadata={"secret": True})
    attempts: int = 0
    error: str | None = None
    queued_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    sessions: tuple[UUID, ...] | None = field(default=None, metadata={"secret": True}, repr=False)
    """What is read, in this order; None: not decided yet."""
    place: ExportPlace | None = field(default=None, metadata={"secret": True})
    is_tidy: bool = field(default=False, metadata={"secret": True})
    """Whether nothing is left of it that is not part of its file."""

    @classmethod
    def request(
        cls,
        *,
        export_id: UUID,
        project_id: UUID,
        scope: ExportScope,
        format: FileFormat,  # noqa: A002 - that is what it is
        layer: Layer,
        reader: User,
        at: datetime,
    ) -> Change["Export"]:
        """A new export, queued, to be read with the rights of `reader`."""
        export = cls(
            id=export_id,
            project_id=project_id,
            scope=scope,
            format=format,
            layer=layer,
            claimed_role=reader.projects.get(project_id),
            queued_at=at,
            created_at=at,
            updated_at=at,
            created_by=reader.id,
        )
        return created(export)

    @property
    def reader(self) -> User:
        """Whose rights count where it is read."""
        claimed = {} if self.claimed_role is None else {self.project_id: self.claimed_role}
        return User(id=self.created_by, projects=claimed)

    @property
    def is_active(self) -> bool:
        """Whether it is still to be done."""
        return self.status in ACTIVE

    @property
    def is_running(self) -> bool:
        """Whether a worker is at it, or was when it ended without a word."""
        return self.status is ExportStatus.RUNNING

    @property
    def is_read(self) -> bool:
        """Whether all of its sessions have been read."""
        return self.sessions is not None and self.sessions_done >= len(self.sessions)

    @property
    def folder(self) -> str:
        """The folder of its parts."""
        return str(self.id)

    def take_up(self, *, at: datetime) -> Change["Export"]:
        """queued → running, by a worker that has just claimed it."""
        return self._move(ExportStatus.RUNNING, at, {"started_at": self.started_at or at})

    def take_over(self, *, at: datetime) -> Change["Export"]:
        """Go on with what a worker left that vanished; running → failed where too many did so at the same place."""
        attempts = self.attempts + 1
        if attempts < LOSSES:
            return changed(self, at, {"attempts": attempts})
        return self.fail(f"{attempts} workers in a row ended without a word while they worked on it.", at=at)

    def plan(self, sessions: Sequence[UUID]) -> "Export":
        """Its sessions are decided."""
        return evolve(self, sessions=tuple(sessions), sessions_total=len(sessions), attempts=0)

    def advance(self, *, sessions_done: int, place: ExportPlace | None, readings: int, size: int) -> "Export":
        """Further by what was read; `size` bytes were written of it, 0 where there was nothing to write."""
        return evolve(
            self,
            sessions_done=sessions_done,
            place=place,
            readings_written=self.readings_written + readings,
            bytes_written=self.bytes_written + size,
            parts_written=self.parts_written + (size > 0),
            attempts=0,
        )

    def succeed(self, *, kept_for: timedelta, at: datetime) -> Change["Export"]:
        """running → succeeded: the file is whole, and kept for a while."""
        values = {"attempts": 0, "error": None, "finished_at": at, "expires_at": at + kept_for}
        return self._move(ExportStatus.SUCCEEDED, at, values)

    def fail(self, error: str, *, at: datetime) -> Change["Export"]:
        """running → failed, for good."""
        return self._move(ExportStatus.FAILED, at, {"error": error[:ERROR_LENGTH], "finished_at": at})

    def stumble(self, error: str, *, at: datetime) -> Change["Export"]:
        """running → queued after an error, to be tried again; running → failed after too many in a row."""
        attempts = self.attempts + 1
        values: dict[str, Any] = {"attempts": attempts, "error": error[:ERROR_LENGTH]}
        if attempts < ATTEMPTS:
            return self._move(ExportStatus.QUEUED, at, values)
        return self._move(ExportStatus.FAILED, at, {**values, "finished_at": at})

    @property
    def pause(self) -> timedelta:
        """How long to wait before it is tried again."""
        return FIRST_PAUSE * 2 ** max(0, self.attempts - 1) if self.attempts else timedelta()

    def cancel(self, *, at: datetime) -> Change["Export"]:
        """queued or running → cancelled, for good. What was written is removed."""
        return self._move(ExportStatus.CANCELLED, at, {"finished_at": at})

    def expire(self, *, at: datetime) -> Change["Export"]:
        """succeeded → expired: the file is no longer kept."""
        return self._move(ExportStatus.EXPIRED, at, {"is_tidy": False})

    def check_downloadable(self, at: datetime) -> None:
        """Refuse with `NotYet` what is under way, with `Gone` what is not kept any more, and what never was whole."""
        if self.is_active:
            raise NotYet("export_not_ready", f"This export is {self.status}: its file is not whole yet.")
        if self.status is ExportStatus.EXPIRED or (self.expires_at is not None and self.expires_at <= at):
            raise Gone("export_expired", "The file of this export is not kept any more: ask for another export.")
        if self.status is not ExportStatus.SUCCEEDED:
            raise Conflict("export_has_no_file", f"This export is {self.status}, and has no file.")

    def _move(self, target: ExportStatus, at: datetime, values: Mapping[str, Any]) -> Change["Export"]:
        if not EXPORT.moves(self.status, target):
            return unchanged(self)
        return changed(self, at, {"status": target, **values})


@frozen(kw_only=True)
class ExportClaim:
    """An export that its worker alone may work on for a while; `was_lost`: the one before it vanished over it."""

    export: Export
    was_lost: bool


class ExportRepository(Repository[Export], Protocol):
    """Keeps exports and their parts, and which worker works on which.

    Times of claims are those of the database's own clock.
    """

    @abstractmethod
    async def page(
        self,
        project_ids: Collection[UUID],
        *,
        statuses: Collection[ExportStatus] = (),
        limit: int,
        after: Position | None,
    ) -> Page[Export]:
        """The exports of projects, newest first."""

    @abstractmethod
    async def under_way(self, project_id: UUID, user_id: str) -> int:
        """How many exports of a project that a user asked for are queued or running."""

    @abstractmethod
    async def claim(self, worker: UUID, lasting: timedelta) -> ExportClaim | None:
        """The export that waits longest and that no other worker has claimed, claimed; None where there is none.

        It waits since it was queued, or since it was released: those that are given back by turns all come on.
        """

    @abstractmethod
    async def claimed(self, export_id: UUID, worker: UUID) -> Export | None:
        """The export, held until the unit of work ends; None unless it runs and is still claimed by `worker`."""

    @abstractmethod
    def plan(self, export: Export) -> None:
        """Keep the sessions of a claimed export."""

    @abstractmethod
    def renew(self, export: Export, worker: UUID, lasting: timedelta) -> None:
        """Keep the progress of a claimed export, and the claim for longer."""

    @abstractmethod
    def add_part(self, export_id: UUID, part: ExportPart) -> None:
        """Keep where the next part is."""

    @abstractmethod
    def release(self, export_id: UUID, pause: timedelta = timedelta()) -> None:
        """End a claim; it can be claimed again after a `pause`."""

    @abstractmethod
    async def parts(self, export_id: UUID) -> Sequence[ExportPart]:
        """The parts of its file in order, without their notes."""

    @abstractmethod
    async def notes(self, export_id: UUID) -> Sequence[bytes]:
        """The notes of its parts, in order, of those that have one."""

    @abstractmethod
    async def outdated(self, at: datetime, *, most: int) -> Sequence[Export]:
        """Exports whose files were kept until then, held until the unit of work ends; not those that others hold."""

    @abstractmethod
    async def untidy(self, ended_before: datetime, *, most: int) -> Sequence[Export]:
        """Exports that ended before then, of which something may be left that is no part of a file."""

    @abstractmethod
    def tidied(self, export: Export) -> None:
        """Note that nothing is left of it but the parts of its file, and of one without a file not even these."""
