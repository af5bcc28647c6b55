"""Sensors: sources of readings, each with a token of its own."""

import hashlib
import secrets
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.events import SensorRegistered, SensorRetired, SensorTokenRotated
from experiment_domain.kernel.entity import (
    Change,
    Entity,
    Lock,
    Page,
    Position,
    Repository,
    changed,
    created,
    removed,
    unchanged,
)
from experiment_domain.kernel.errors import Conflict, Invalid
from experiment_domain.kernel.events import Event, EventData
from experiment_domain.kernel.lifecycle import Lifecycle
from experiment_domain.kernel.values import checked_json, checked_name, checked_names, checked_text

TOKEN_PREFIX = "xps_"  # noqa: S105 - what tokens begin with, not one of them
SIGNALS = 64
UNIT_LENGTH = 50
LONGEST_GRACE = 7 * 86_400.0
MINUTE = timedelta(minutes=1)
SIGN_OF_LIFE_EVERY = timedelta(seconds=5)
"""How often batches renew a sensor's `last_seen_at` at most; each heartbeat does."""
ONLINE_FOR = timedelta(seconds=30)
"""How long after its last sign of life a sensor is online."""
DELAYED_FOR = timedelta(minutes=5)
"""How long after its last sign of life a sensor is delayed at most; then it is offline."""
SIGNS_KEPT_FOR = timedelta(days=7)
LONGEST_BUCKET = int(SIGNS_KEPT_FOR.total_seconds())
MOST_BUCKETS = 1_500
USUAL_WINDOW = timedelta(hours=1)
_MICROSECOND = timedelta(microseconds=1)
_FIRST, _LAST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
"""What a window's edges lie between, so that neither widening nor another time zone leads out of the calendar."""


class SensorStatus(StrEnum):
    """The statuses of a sensor."""

    REGISTERED = "registered"
    ACTIVE = "active"
    INACTIVE = "inactive"
    RETIRED = "retired"


class OutOfService(Conflict):
    """The sensor is switched off or retired."""


SENSOR = Lifecycle(
    "sensor",
    SensorStatus.REGISTERED,
    {
        SensorStatus.REGISTERED: (SensorStatus.ACTIVE, SensorStatus.RETIRED),
        SensorStatus.ACTIVE: (SensorStatus.INACTIVE, SensorStatus.RETIRED),
        SensorStatus.INACTIVE: (SensorStatus.ACTIVE, SensorStatus.RETIRED),
    },
)


class Connection(StrEnum):
    """What the last sign of life tells of a sensor, whatever its status."""

    ONLINE = "online"
    DELAYED = "delayed"
    OFFLINE = "offline"


def connection(last_seen_at: datetime | None, now: datetime) -> Connection:
    """Online, delayed or offline: never seen is offline. Signs of other processes may lie a little in the future."""
    if last_seen_at is None or now - last_seen_at >= DELAYED_FOR:
        return Connection.OFFLINE
    return Connection.DELAYED if now - last_seen_at >= ONLINE_FOR else Connection.ONLINE


@frozen(kw_only=True)
class StatusSummary:
    """How many sensors are online, delayed and offline."""

    online: int = 0
    delayed: int = 0
    offline: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.online + self.delayed + self.offline


def minute_of(at: datetime) -> datetime:
    """The beginning of the minute that a moment lies in, in UTC."""
    return at.astimezone(UTC).replace(second=0, microsecond=0)


@frozen(kw_only=True)
class SignsOfLife:
    """How many signs of life a sensor gave at `timestamp` or later, and before `end`."""

    timestamp: datetime
    end: datetime
    count: int


@frozen(kw_only=True)
class SignsWindow:
    """A stretch of whole minutes, cut into buckets from its start on, the last of which may be shorter."""

    start: datetime
    end: datetime
    bucket: timedelta

    @classmethod
    def of(cls, *, start: datetime | None, end: datetime | None, bucket: int, now: datetime) -> "SignsWindow":
        """The window, widened to whole minutes. What is not given makes it the last hour, this minute included.

        `bucket` is in seconds. Raises `Invalid`.
        """
        if not 0 < bucket <= LONGEST_BUCKET or bucket % 60:
            raise Invalid.at("bucket", f"must be a multiple of 60, and at most {LONGEST_BUCKET:,} seconds")
        for name, edge in (("start", start), ("end", end)):
            if edge is not None and not _FIRST <= edge <= _LAST:
                raise Invalid.at(name, f"must lie between {_FIRST:%Y-%m-%d} and {_LAST:%Y-%m-%d}")
        until = minute_of(now) + MINUTE if end is None else minute_of(end + MINUTE - _MICROSECOND)
        since = until - USUAL_WINDOW if start is None else minute_of(start)
        if (start or since) >= (end or until):
            raise Invalid.at("start", "must be earlier than `end`")
        window = cls(start=since, end=until, bucket=timedelta(seconds=bucket))
        if window.buckets > MOST_BUCKETS:
            raise Invalid.at("bucket", f"cuts this window into {window.buckets:,} buckets, of at most {MOST_BUCKETS:,}")
        return window

    @property
    def buckets(self) -> int:
        """How many there are."""
        return -((self.start - self.end) // self.bucket)

    def filled(self, counts: Mapping[int, int]) -> Sequence[SignsOfLife]:
        """Every bucket, oldest first, given the counts of those that have any by their place."""
        edges = [self.start + place * self.bucket for place in range(self.buckets)]
        return [
            SignsOfLife(timestamp=since, end=until, count=counts.get(place, 0))
            for place, (since, until) in enumerate(zip(edges, [*edges[1:], self.end], strict=True))
        ]


def new_token() -> str:
    """A token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> bytes:
    """What is kept of a token. It is random throughout, so a fast hash is as good as a slow one."""
    return hashlib.sha256(token.encode()).digest()


def checked_fields(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a person writes, checked; only those that are given."""
    fields = dict(values)
    for name in ("name", "sensor_type"):
        if name in fields:
            checked_name(name, fields[name])
    for name in ("input_unit", "display_unit"):
        if name in fields:
            checked_text(name, fields[name], longest=UNIT_LENGTH, lines=False)
    if "signals" in fields:
        fields["signals"] = checked_names("signals", fields["signals"], most=SIGNALS)
    if "metadata" in fields:
        fields["metadata"] = checked_json("metadata", fields["metadata"])
    return fields


@frozen(kw_only=True)
class Sensor(Entity):
    """A source of readings. `signals` are the channels it delivers; where none are named, any are accepted.

    `input_unit` is the unit of its raw values, `display_unit` the one that people read. Of its token only the
    hash is kept; after a rotation the old one may live on until `previous_token_dies_at`.
    """

    name: str
    sensor_type: str
    input_unit: str
    display_unit: str
    signals: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(factory=dict[str, Any])
    status: SensorStatus = SensorStatus.REGISTERED
    last_seen_at: datetime | None = None
    token_hash: bytes = field(metadata={"secret": True}, repr=False)
    previous_token_hash: bytes | None = field(default=None, metadata={"secret": True}, repr=False)
    previous_token_dies_at: datetime | None = None

    @classmethod
    def register(
        cls, *, sensor_id: UUID, project_id: UUID, token_hash: bytes, at: datetime, by: str, **values: Any
    ) -> Change["Sensor"]:
        """A new sensor."""
        sensor = cls(
            id=sensor_id,
            project_id=project_id,
            created_at=at,
            updated_at=at,
            created_by=by,
            token_hash=token_hash,
            **checked_fields(values),
        )
        return created(sensor, sensor.event(SensorRegistered(name=sensor.name), at))

    def event(self, said: EventData, at: datetime) -> Event:
        """An event of this sensor."""
        return Event.of(said, project_id=self.project_id, about=self.id, at=at)

    def edit(self, *, at: datetime, **values: Any) -> Change["Sensor"]:
        """Change what a person wrote. Retired sensors refuse."""
        self.check_not_retired()
        return changed(self, at, checked_fields(values))

    def check_not_retired(self) -> None:
        """Refuse where the sensor is retired."""
        if self.status is SensorStatus.RETIRED:
            raise OutOfService("sensor_retired", "This sensor is retired.")

    def check_delivers(self) -> None:
        """Refuse readings and heartbeats of a sensor that is switched off or retired."""
        self.check_not_retired()
        if self.status is SensorStatus.INACTIVE:
            raise OutOfService("sensor_inactive", "This sensor is inactive: activate it before it sends.")

    def check_not_in_use(self, active_sessions: Collection[UUID]) -> None:
        """Refuse while the sensor takes part in an active session."""
        if active_sessions:
            # Which ones is not said: they may be of a project that the caller may not know of.
            raise Conflict("sensor_in_use", "This sensor takes part in an active capture session.")

    def seen(self, *, at: datetime) -> Change["Sensor"]:
        """An accepted reading or heartbeat: the first one makes it active. A later one is only a sign of life."""
        if SENSOR.moves(self.status, SensorStatus.ACTIVE):
            return changed(self, at, {"status": SensorStatus.ACTIVE, "last_seen_at": at})
        return unchanged(self)

    def is_due_for_a_sign(self, at: datetime) -> bool:
        """Whether `last_seen_at` is old enough to be renewed: not each batch is worth a write."""
        return self.last_seen_at is None or at - self.last_seen_at >= SIGN_OF_LIFE_EVERY

    def activate(self, *, at: datetime) -> Change["Sensor"]:
        """→ active."""
        return self._move(SensorStatus.ACTIVE, at)

    def deactivate(self, *, at: datetime) -> Change["Sensor"]:
        """active → inactive."""
        return self._move(SensorStatus.INACTIVE, at)

    def retire(self, *, active_sessions: Collection[UUID], at: datetime) -> Change["Sensor"]:
        """→ retired; refused while it takes part in an active session."""
        if SENSOR.moves(self.status, SensorStatus.RETIRED):
            self.check_not_in_use(active_sessions)
        return self._move(SensorStatus.RETIRED, at, self.event(SensorRetired(), at))

    def rotate_token(self, *, token_hash: bytes, grace: float, at: datetime) -> Change["Sensor"]:
        """A new token; the old one dies after `grace` seconds."""
        self.check_not_retired()
        if not 0 <= grace <= LONGEST_GRACE:
            raise Invalid.at("grace", f"must be 0 to {LONGEST_GRACE:,.0f} seconds")
        values = {
            "token_hash": token_hash,
            "previous_token_hash": self.token_hash if grace else None,
            "previous_token_dies_at": at + timedelta(seconds=grace) if grace else None,
        }
        return changed(self, at, values, self.event(SensorTokenRotated(grace=grace), at))

    def remove(
        self, *, active_sessions: Collection[UUID], has_recorded: bool, is_bound_for_good: bool = False
    ) -> Change["Sensor"]:
        """Delete: only where it took part in no session and no run that is over has it; otherwise it is retired."""
        self.check_not_in_use(active_sessions)
        if has_recorded:
            raise Conflict("sensor_has_recorded", "This sensor took part in capture sessions: retire it instead.")
        if is_bound_for_good:
            raise Conflict(
                "sensor_bound",
                "This sensor is bound to a run that is over, whose sensors stay as they were: retire it instead.",
            )
        return removed(self)

    def _move(self, target: SensorStatus, at: datetime, *events: Event) -> Change["Sensor"]:
        if not SENSOR.moves(self.status, target):
            return unchanged(self)
        return changed(self, at, {"status": target}, *events)


@frozen(kw_only=True)
class SensorFilter:
    """Which sensors: those that belong to one of the projects or are shared with one."""

    project_ids: Collection[UUID]
    statuses: Collection[SensorStatus] = ()
    sensor_types: Collection[str] = ()
    connections: Collection[Connection] = ()
    as_of: datetime | None = None
    """The moment of the question, by which connections are told; the use case sets it."""
    words: str | None = None

    @property
    def moment(self) -> datetime:
        """`as_of`, where connections are asked for."""
        assert self.as_of is not None  # noqa: S101 - the use case has set it
        return self.as_of


class SensorRepository(Repository[Sensor], Protocol):
    """Keeps sensors, and with which projects they are shared."""

    @abstractmethod
    async def by_token(self, token_hash: bytes, at: datetime, lock: Lock = Lock.NONE) -> Sensor | None:
        """The sensor whose token, or whose previous token that is still alive, has this hash."""

    @abstractmethod
    def remove(self, sensor: Sensor) -> None:
        """Remove a sensor, its bindings, its shares and its profiles."""

    @abstractmethod
    def renew_sign_of_life(self, sensor_id: UUID, at: datetime, *, unless_since: datetime | None = None) -> None:
        """Set `last_seen_at` and count the sign in its minute; with `unless_since`, unless there was one after it.

        Without a new version: nothing that a person edits has changed.
        """

    @abstractmethod
    async def signs_of_life(self, sensor_id: UUID, window: SignsWindow) -> Sequence[SignsOfLife]:
        """The counts of every bucket of a window, oldest first."""

    @abstractmethod
    async def forget_signs_of_life(self, before: datetime, *, most: int) -> int:
        """Forget at most so many minutes of signs that began before a moment, and tell how many."""

    @abstractmethod
    async def page(self, which: SensorFilter, *, limit: int, after: Position | None) -> Page[Sensor]:
        """A part of the list, newest first."""

    @abstractmethod
    async def status_summary(self, project_ids: Collection[UUID], now: datetime) -> StatusSummary:
        """Of the sensors that belong to one of the projects or are shared with one; retired ones do not count."""

    @abstractmethod
    async def projects_of(self, sensor_id: UUID) -> Sequence[UUID]:
        """The projects that may bind the sensor: its own, then those it is shared with."""

    @abstractmethod
    def share(self, sensor_id: UUID, project_id: UUID, at: datetime, by: str) -> None:
        """Let another project bind the sensor."""

    @abstractmethod
    def unshare(self, sensor_id: UUID, project_id: UUID) -> None:
        """Take it back."""
