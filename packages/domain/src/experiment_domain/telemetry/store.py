"""The port of telemetry storage, and what goes through it."""

from abc import abstractmethod
from array import array
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from attrs import field, frozen

from experiment_domain.captures import CaptureStatus, readings_are_late
from experiment_domain.conversions.profiles import ConversionProfile
from experiment_domain.kernel.errors import Invalid
from experiment_domain.sensors import Sensor
from experiment_domain.telemetry.batches import Batch, Column, micros
from experiment_domain.telemetry.statistics import Statistics

BUCKETS = 10_000
"""The most buckets of one answer, those of all series together."""


class Layer(StrEnum):
    """What of a series is read."""

    PHYSICAL = "physical"
    RAW = "raw"


@frozen(kw_only=True)
class Receipt:
    """What was answered to a batch, kept so that the same batch gets the same answer again."""

    capture_session_id: UUID
    sensor_id: UUID
    key: str
    digest: bytes
    accepted: int
    late: int
    received_at: datetime
    starts_at: datetime | None = None
    """The earliest timestamp of its readings, which is told of a batch on its way in."""


@frozen(kw_only=True)
class Destination:
    """A session that a sensor takes part in, as far as a batch needs to know it."""

    capture_session_id: UUID
    project_id: UUID
    run_id: UUID
    status: CaptureStatus
    stopped_at: datetime | None = None
    profile: ConversionProfile | None
    """That of the current layer: the pinned version, or the one of the latest backfill; None: raw values only."""
    others: Sequence[ConversionProfile] = ()
    """Those of the sensor's other whole layers in the session, which stay whole."""
    signals: frozenset[str] = frozenset()
    """Those that the sensor has delivered there."""
    takes_part: bool = True
    """False where the session exists in a project of the sensor's, which was not bound when it started."""
    run_is_due_for_a_sign: bool = True
    """Whether the run was warned about, or its last sign of life is old enough to be renewed."""

    def is_late(self, received_at: datetime | None) -> bool:
        """Whether readings come late that were received now, or at a moment; refused where none may come any more."""
        is_over = readings_are_late(self.status)
        return is_over and (received_at is None or self.stopped_at is None or received_at >= self.stopped_at)


@frozen(kw_only=True)
class Ran:
    """A session that was started, and when it ran."""

    capture_session_id: UUID
    started_at: datetime
    stopped_at: datetime | None

    def ran_at(self, moment: datetime) -> bool:
        """Whether it ran at a moment."""
        return self.started_at <= moment and (self.stopped_at is None or moment < self.stopped_at)


@frozen(kw_only=True)
class Admission:
    """All that decides on batches, read in one go and held until the unit of work ends.

    `destinations` is the session that the batches name, if the sensor may know of it, or else the sensor's
    running sessions. `future_tolerance` is in seconds, that of the sensor's project. `repeated` are the receipts of
    those that were accepted before, by their keys.
    """

    sensor: Sensor
    destinations: Sequence[Destination]
    future_tolerance: float
    repeated: Mapping[str, Receipt] = field(factory=dict[str, Receipt])
    marks_until: float | None = None
    """The latest beginning, in microseconds, of a batch of which only a mark is kept: see `TelemetryStore.marked`."""

    def may_have_marked(self, begins: int | None) -> bool:
        """Whether a mark may be all that is left of a batch that begins at a moment, in microseconds."""
        return self.marks_until is not None and begins is not None and begins <= self.marks_until


@frozen(kw_only=True, eq=False)
class Offer:
    """A batch for the session that it names, and the hash of the token of the sensor that sent it."""

    token_hash: bytes
    batch: Batch

    @property
    def capture_session_id(self) -> UUID:
        """The session."""
        session_id = self.batch.capture_session_id
        assert session_id is not None  # noqa: S101 - checked where it is made
        return session_id


@frozen(kw_only=True, eq=False)
class Chunk:
    """Readings of one series with strictly rising timestamps. In `physical`, NaN stands for no value.

    `others` are the values of further layers that are whole, by their profiles.
    """

    column: Column
    physical: "array[float] | None"
    others: Mapping[UUID, "array[float]"] = field(factory=dict[UUID, "array[float]"])


@frozen(kw_only=True, eq=False)
class Intake:
    """An accepted batch, converted and ready to be kept. Chunks are in the order of their reception."""

    receipt: Receipt
    project_id: UUID
    profile_id: UUID | None
    is_late: bool
    chunks: Sequence[Chunk]


@frozen(kw_only=True, eq=False)
class Presumed:
    """An intake that was judged by what admission found of its `sensor` before, which may have changed since.

    `future_tolerance` is that of the sensor's project, in seconds.
    """

    sensor: Sensor
    future_tolerance: float
    intake: Intake

    def holds_by(self, found: Admission | None) -> bool:
        """Whether by an admission of now it is kept as it is, and is nobody's sign of life."""
        if found is None or len(found.destinations) != 1:
            return False
        (destination,), receipt = found.destinations, self.intake.receipt
        profile_id = None if destination.profile is None else destination.profile.id
        return (
            # Of two changes one of which was undone, both may have made the same version.
            (found.sensor.version, found.sensor.updated_at) == (self.sensor.version, self.sensor.updated_at)
            and found.future_tolerance == self.future_tolerance
            and destination.status is CaptureStatus.RUNNING
            and destination.takes_part
            and profile_id == self.intake.profile_id
            and receipt.key not in found.repeated
            and not found.may_have_marked(None if receipt.starts_at is None else micros(receipt.starts_at))
            and not found.sensor.is_due_for_a_sign(receipt.received_at)
            and not destination.run_is_due_for_a_sign
        )


@frozen(kw_only=True)
class Series:
    """What one sensor recorded of one signal in one session: one reading counts per timestamp.

    `profile_id` is the profile version whose physical layer is current, None where there is only the raw one.
    """

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    count: int
    late: int
    out_of_range: int
    first_timestamp: datetime | None
    last_timestamp: datetime | None
    profile_id: UUID | None


@frozen(kw_only=True)
class Metrics:
    """The statistics of one sensor's signal over a run or a bucket of time, of one layer.

    `statistics` is None of no values; `duration` is from the first reading to the last, in seconds; `timestamp` is
    where the bucket begins.
    """

    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None
    late: int
    out_of_range: int
    duration: float
    statistics: Statistics | None
    timestamp: datetime | None = None


def check_buckets(count: int) -> None:
    """Refuse what has more than `BUCKETS`."""
    if count > BUCKETS:
        raise Invalid.at("bucket", f"makes more than {BUCKETS:,} buckets: take longer ones, or fewer signals")


@frozen(kw_only=True)
class ReadingQuery:
    """Which readings: `start` inclusive, `end` exclusive, in microseconds; `after` is where a page ended."""

    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None = None
    start: int | None = None
    end: int | None = None
    after: int | None = None
    limit: int


@frozen(kw_only=True, eq=False)
class Readings:
    """A part of a series by time, one reading per timestamp. In `values`, NaN stands for no physical value."""

    timestamps: "array[int]"
    values: "array[float]"
    more: bool


class TelemetryStore(Protocol):
    """Keeps readings: raw values, and one physical layer per profile version that was applied."""

    @abstractmethod
    async def admit(
        self, token_hash: bytes, capture_session_id: UUID | None, keys: Sequence[str], at: datetime
    ) -> Admission | None:
        """What decides on batches of the sensor with this token, which go to one session; None where no sensor has it.

        Holds off every other batch with one of these keys until the unit of work ends, and any change of the
        destination's status.
        """

    @abstractmethod
    async def ran_between(self, token_hash: bytes, since: datetime, until: datetime, at: datetime) -> Sequence[Ran]:
        """The sessions that ran between two moments with the sensor that has this token `at` another one."""

    @abstractmethod
    async def marked(self, sensor_id: UUID, batch: Batch) -> Receipt | None:
        """What was answered to a batch whose receipt has been put away, told from its mark and what it holds."""

    @abstractmethod
    def append(self, *intakes: Intake) -> None:
        """Keep accepted batches, in the order of their reception. Once in a unit of work, after their admission."""

    @abstractmethod
    async def append_presumed(self, presumed: Sequence[Presumed]) -> Sequence[bool]:
        """Keep batches, of different sensors or with different keys, without their admission: which of them are kept.

        Those are of which what was presumed holds, and for which nobody has to be waited for. Their series exist
        already. It is the last that a unit of work does, and may commit it.
        """

    @abstractmethod
    async def series(self, capture_session_id: UUID) -> Sequence[Series]:
        """Every series of a session, by sensor and signal."""

    @abstractmethod
    async def names(self, capture_session_id: UUID) -> Sequence[tuple[UUID, str]]:
        """The sensor and signal of every series of a session, in this order; nothing of it is summed up."""

    @abstractmethod
    async def layer_of(self, capture_session_id: UUID, sensor_id: UUID, signal: str) -> tuple[bool, UUID | None]:
        """Whether a series exists, and the profile of its current physical layer."""

    @abstractmethod
    async def has_layer(self, capture_session_id: UUID, sensor_id: UUID, signal: str, profile_id: UUID) -> bool:
        """Whether a series has a whole physical layer under a profile version."""

    @abstractmethod
    async def read(self, query: ReadingQuery) -> Readings:
        """Readings in the order of their timestamps; of one timestamp the reading received last."""

    @abstractmethod
    async def metrics(
        self, run_id: UUID, *, layer: Layer | None, signals: Collection[str] = (), bucket: int | None = None
    ) -> Sequence[Metrics]:
        """The statistics of every sensor's signals over a run's sessions, by sensor and signal.

        The physical layer is each series' current one; series of different profile versions are kept apart. Without
        a `layer`, the raw one counts of those series that have no physical one. With `bucket`, in microseconds, each
        series' readings by buckets of that width, aligned to the Unix epoch: those that hold any, in the order of
        time. Raises `Invalid` where there are more than `BUCKETS`.
        """

    @abstractmethod
    async def metrics_of_runs(
        self, layers: Mapping[UUID, Layer | None], *, signals: Collection[str] = ()
    ) -> Mapping[UUID, Sequence[Metrics]]:
        """What `metrics` says of each run, in the `layer` that is named for it; nothing of runs without readings."""
