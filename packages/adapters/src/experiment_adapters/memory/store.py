"""The one store, and the transaction through which everything is written to it and can be undone."""

from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from attrs import field, frozen

from experiment_adapters.memory.series import SeriesKey, StoredSeries
from experiment_domain.artifacts import Artifact
from experiment_domain.audit import AuditRecord, ChainHead
from experiment_domain.backfills import Backfill
from experiment_domain.captures import CaptureSession
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.experiments import Experiment
from experiment_domain.exports.jobs import Export, ExportPart
from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.entity import Entity, StatusChange
from experiment_domain.kernel.errors import Conflict, Refusal, VersionMismatch
from experiment_domain.kernel.events import RecordedEvent
from experiment_domain.projects import Member, Project
from experiment_domain.runs import Run, RunSensor
from experiment_domain.scalars import Scalar
from experiment_domain.sensors import Sensor
from experiment_domain.telemetry.layers import LayerName
from experiment_domain.telemetry.store import Intake
from experiment_domain.webhooks.deliveries import WebhookAttempt, WebhookDelivery
from experiment_domain.webhooks.subscriptions import WebhookSubscription

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
E = TypeVar("E", bound=Entity)


@frozen(kw_only=True)
class LinkedRecord:
    """An audit record, its place in its project's chain, and the hash over it and the one before."""

    record: AuditRecord
    sequence: int
    hash: bytes


@frozen(kw_only=True)
class StoredClaim:
    """Which worker works on a piece of work until when; without one, from when on it can be claimed."""

    worker: UUID | None
    until: datetime


@frozen(kw_only=True)
class StoredChore:
    """When a chore is due, and what became of the last tries."""

    due_at: datetime
    attempts: int = 0
    error: str | None = None
    done_at: datetime | None = None
    claimed_by: UUID | None = None


@frozen(kw_only=True)
class StoredVigil:
    """When a run gave its last sign of life, and when it was warned about since."""

    alive_at: datetime
    warned_at: datetime | None = None


@frozen(kw_only=True)
class StoredSensorVigil:
    """When a sensor is looked at, and whether the last that was told of it is that it is offline."""

    look_at: datetime | None
    is_told_offline: bool = False


@frozen
class Store:
    """Everything that is kept. Rows are immutable; a row that changes is another object under the same key."""

    projects: dict[UUID, Project] = field(factory=dict, init=False)
    members: dict[tuple[UUID, str], Member] = field(factory=dict, init=False)
    experiments: dict[UUID, Experiment] = field(factory=dict, init=False)
    runs: dict[UUID, Run] = field(factory=dict, init=False)
    run_sensors: dict[tuple[UUID, UUID], RunSensor] = field(factory=dict, init=False)
    captures: dict[UUID, CaptureSession] = field(factory=dict, init=False)
    artifacts: dict[UUID, Artifact] = field(factory=dict, init=False)
    sensors: dict[UUID, Sensor] = field(factory=dict, init=False)
    shares: dict[tuple[UUID, UUID], datetime] = field(factory=dict, init=False)  # (sensor, project) → since when
    signs_of_life: dict[tuple[UUID, datetime], int] = field(factory=dict, init=False)  # (sensor, minute) → how many
    profiles: dict[UUID, ConversionProfile] = field(factory=dict, init=False)
    intakes: dict[tuple[UUID, UUID, str], Intake] = field(factory=dict, init=False)  # (sensor, session, key) →
    series: dict[SeriesKey, StoredSeries] = field(factory=dict, init=False)
    backfills: dict[UUID, Backfill] = field(factory=dict, init=False)
    exports: dict[UUID, Export] = field(factory=dict, init=False)
    export_parts: dict[UUID, tuple[ExportPart, ...]] = field(factory=dict, init=False)
    claims: dict[UUID, StoredClaim] = field(factory=dict, init=False)  # backfill, export or delivery →
    layers: dict[LayerName, bool] = field(factory=dict, init=False)  # those that backfills made whole → is current
    converted: dict[tuple[LayerName, int], None] = field(factory=dict, init=False)  # by backfills: layer, position
    scalars: dict[UUID, tuple[Scalar, ...]] = field(factory=dict, init=False)  # run → in the order of arrival
    webhook_subscriptions: dict[UUID, WebhookSubscription] = field(factory=dict, init=False)
    webhook_deliveries: dict[UUID, WebhookDelivery] = field(factory=dict, init=False)
    webhook_cursor: dict[str, str] = field(factory=dict, init=False)  # the one place up to which there are deliveries
    webhook_attempts: list[WebhookAttempt] = field(factory=list, init=False)
    history: list[StatusChange] = field(factory=list, init=False)
    audit: list[LinkedRecord] = field(factory=list, init=False)
    audit_heads: dict[UUID, ChainHead] = field(factory=dict, init=False)
    events: list[RecordedEvent] = field(factory=list, init=False)
    answers: dict[IdempotencyKey, RememberedAnswer] = field(factory=dict, init=False)
    chores: dict[str, StoredChore] = field(factory=dict, init=False)
    relays: dict[str, str] = field(factory=dict, init=False)  # sink → place
    vigils: dict[UUID, StoredVigil] = field(factory=dict, init=False)  # run →
    sensor_vigils: dict[UUID, StoredSensorVigil] = field(factory=dict, init=False)  # sensor →


class Transaction:
    """The writes of one unit of work: each applies at once and leaves behind how to undo it.

    A write that is refused is raised by the next read or by the commit, as a database does to which writes
    are sent ahead; until then further writes are ignored.
    """

    def __init__(self, *, read_only: bool) -> None:
        self._read_only = read_only
        self._undo: list[Callable[[], object]] = []
        self._refusal: Refusal | None = None

    def settle(self) -> None:
        """Raise what was refused. Every read begins with it."""
        if self._refusal is not None:
            raise self._refusal

    def commit(self) -> bool:
        """Make the writes so far final; whether there were any."""
        self.settle()
        has_written = bool(self._undo)
        self._undo.clear()
        return has_written

    def roll_back(self) -> None:
        """Undo every write since the last commit, the latest first."""
        while self._undo:
            self._undo.pop()()

    def refuse(self, refusal: Refusal) -> None:
        """Note that a write is refused; the first one counts."""
        self._refusal = self._refusal or refusal

    def check(self, holds: bool, refusal: Refusal) -> None:
        """Refuse unless a constraint holds."""
        if not holds:
            self.refuse(refusal)

    def refers(self, rows: dict[K, Any], key: K, noun: str) -> None:
        """Refuse unless there is a row under `key`: a foreign key."""
        self.check(key in rows, _reference_missing(f"There is no such {noun}."))

    def refers_not(self, referring: Iterable[object], noun: str) -> None:
        """Refuse where anything refers to what is removed: a foreign key from its other end."""
        self.check(not any(True for _ in referring), _reference_missing(f"Something refers to this {noun}."))

    def insert(self, rows: dict[K, V], key: K, row: V, noun: str) -> None:
        """Keep a new row under a key that nothing else has."""
        self.check(key not in rows, Conflict("already_exists", f"This {noun} exists already."))
        self.put(rows, key, row)

    def put(self, rows: dict[K, V], key: K, row: V) -> None:
        """Keep a row, in the place of another or not."""
        if not self._writes():
            return
        if key in rows:
            before = rows[key]
            self._undo.append(lambda: rows.__setitem__(key, before))
        else:
            self._undo.append(lambda: rows.__delitem__(key))
        rows[key] = row

    def put_all(self, rows: dict[K, V], new: Mapping[K, V]) -> None:
        """Keep many rows at once, in the place of others or not."""
        if not self._writes():
            return
        before = {key: rows[key] for key in new.keys() & rows.keys()}

        def undo() -> None:
            for key in new:
                del rows[key]
            rows.update(before)

        self._undo.append(undo)
        rows.update(new)

    def save(self, rows: dict[UUID, E], entity: E, noun: str) -> None:
        """Keep a changed entity, whose version is one above the kept one."""
        kept = rows.get(entity.id)
        current = None if kept is None else kept.version
        self.check(current == entity.version - 1, VersionMismatch(noun, current))
        self.put(rows, entity.id, entity)

    def drop(self, rows: dict[K, V], key: K) -> None:
        """Remove a row, if it is there."""
        if key in rows and self._writes():
            before = rows.pop(key)
            self._undo.append(lambda: rows.__setitem__(key, before))

    def remove(self, rows: dict[UUID, E], entity: E, noun: str) -> None:
        """Remove an entity that is there."""
        self.check(entity.id in rows, VersionMismatch(noun))
        self.drop(rows, entity.id)

    def append(self, rows: list[V], row: V) -> None:
        """Add a row at the end of a log."""
        if self._writes():
            rows.append(row)
            self._undo.append(rows.pop)

    def _writes(self) -> bool:
        if self._read_only:
            raise RuntimeError("This unit of work was begun to read only.")
        return self._refusal is None


def _reference_missing(detail: str) -> Conflict:
    return Conflict("reference_missing", detail)
