"""Sensors, their tokens, and the projects they are shared with."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from experiment_domain.kernel.entity import Page, Position, StatusChange
from experiment_domain.sensors import (
    LONGEST_BUCKET,
    LONGEST_GRACE,
    SIGNALS,
    UNIT_LENGTH,
    Connection,
    Sensor,
    SensorFilter,
    SensorStatus,
    SignsOfLife,
    StatusSummary,
)
from experiment_domain.usecases import Work
from experiment_domain.usecases.sensors import SensorUseCases, SensorWithToken
from experiment_http.answers import EntityView, Items, Nothing, Paged, View, created, one, shown
from experiment_http.operations import Operations
from experiment_http.pagination import PageQuery
from experiment_http.structs import given
from experiment_http.times import Moment, Timestamp
from experiment_http.v1.values import (
    ENTITY,
    Empty,
    Json,
    Name,
    Request,
    StatusChangeView,
    Transition,
    Words,
)

Unit = Annotated[str, Meta(max_length=UNIT_LENGTH)]
Signals = Annotated[
    list[Annotated[str, Meta(min_length=1, max_length=100)]],
    Meta(max_length=SIGNALS, description="The signals it delivers; where none are named, any are accepted."),
]
_WRITTEN: Mapping[str, Any] = {
    "name": "Thermocouple 7",
    "sensor_type": "thermocouple_k",
    "input_unit": "mV",
    "display_unit": "°C",
    "signals": ["temperature"],
    "metadata": {"position": "blade 3"},
}


class NewSensor(Request, frozen=True):
    """A sensor to be registered."""

    example: ClassVar[Mapping[str, Any]] = {"project_id": ENTITY["project_id"], **_WRITTEN}

    project_id: UUID
    name: Name
    sensor_type: Name
    input_unit: Unit
    display_unit: Unit
    signals: Signals | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET


class SensorEdit(Request, frozen=True):
    """What is to change."""

    example: ClassVar[Mapping[str, Any]] = {"name": "Thermocouple 7b"}

    name: Name | UnsetType = UNSET
    sensor_type: Name | UnsetType = UNSET
    input_unit: Unit | UnsetType = UNSET
    display_unit: Unit | UnsetType = UNSET
    signals: Signals | UnsetType = UNSET
    metadata: Json | UnsetType = UNSET


class Rotation(Request, frozen=True):
    """How many seconds the old token lives on."""

    example: ClassVar[Mapping[str, Any]] = {"grace": 60}

    grace: Annotated[float, Meta(ge=0, le=LONGEST_GRACE)] | UnsetType = UNSET


class SensorView(EntityView, frozen=True):
    """A source of readings. After a rotation the old token may live on until `previous_token_dies_at`."""

    location: ClassVar[str] = "/sensors"
    example: ClassVar[Mapping[str, Any]] = {
        **ENTITY,
        **_WRITTEN,
        "status": "active",
        "last_seen_at": "2026-03-09T10:14:33.000000Z",
        "previous_token_dies_at": None,
    }

    name: str
    sensor_type: str
    input_unit: str
    display_unit: str
    signals: list[str]
    metadata: Json
    status: SensorStatus
    last_seen_at: Timestamp | None
    previous_token_dies_at: Timestamp | None


class SensorWithTokenView(SensorView, frozen=True):
    """A sensor and its token, which is shown this once and kept nowhere."""

    example: ClassVar[Mapping[str, Any]] = {
        **SensorView.example,
        "token": "xps_bm90LWEtcmVhbC10b2tlbi1qdXN0LWFuLWV4YW1wbGU",
    }

    token: str

    @classmethod
    def of(cls, thing: SensorWithToken) -> Self:
        """The view of a sensor, and its token beside."""
        values = {name: shown(getattr(thing.sensor, name)) for name in SensorView.__struct_fields__}
        return cls(**values, token=thing.token)


class SensorProjectView(View, frozen=True):
    """A project that may bind the sensor."""

    example: ClassVar[Mapping[str, Any]] = {"project_id": ENTITY["project_id"]}

    project_id: UUID


class StatusSummaryView(View, frozen=True):
    """How many sensors are online, delayed and offline, by their last sign of life."""

    example: ClassVar[Mapping[str, Any]] = {"online": 11, "delayed": 1, "offline": 2, "total": 14}

    online: int
    delayed: int
    offline: int
    total: int


class SignsOfLifeView(View, frozen=True):
    """How many signs of life a sensor gave at `timestamp` or later, and before `end`."""

    example: ClassVar[Mapping[str, Any]] = {
        "timestamp": "2026-03-09T10:14:00.000000Z",
        "end": "2026-03-09T10:15:00.000000Z",
        "count": 6,
    }

    timestamp: Timestamp
    end: Timestamp
    count: int


class SensorQuery(PageQuery, frozen=True):
    """Which sensors: those that belong to one of the projects or are shared with one."""

    project_id: tuple[UUID, ...] = ()
    status: tuple[SensorStatus, ...] = ()
    sensor_type: tuple[str, ...] = ()
    connection: Annotated[
        tuple[Connection, ...], Meta(description="By their last sign of life, at the moment of the question.")
    ] = ()
    q: Words | None = None

    def filter(self) -> SensorFilter:
        """The same in the words of the domain."""
        return SensorFilter(
            project_ids=self.project_id,
            statuses=self.status,
            sensor_types=self.sensor_type,
            connections=self.connection,
            words=self.q,
        )


class StatusSummaryQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Of which projects; without any, of all that the caller may read."""

    project_id: tuple[UUID, ...] = ()


class HeartbeatQuery(Struct, frozen=True, forbid_unknown_fields=True):
    """Which stretch of time, and how it is cut."""

    start: Annotated[Moment, Meta(description="Inclusive; without it, an hour before `end`.")] | None = None
    end: Annotated[Moment, Meta(description="Exclusive; without it, the end of this minute.")] | None = None
    bucket: Annotated[
        int, Meta(ge=60, le=LONGEST_BUCKET, multiple_of=60, description="Seconds of a bucket: whole minutes.")
    ] = 60


operations = Operations("sensors", "Sources of readings, each with a token of its own.")
ONE = one(SensorView, revalidates=False)
"""A sign of life renews `last_seen_at` without a new version: with the same ETag there may be something to tell."""


@operations.post("/sensors", SensorUseCases.register, created(SensorWithTokenView, secret=True), refuses=(404,))
async def register_sensor(work: Work, body: NewSensor) -> SensorWithToken:
    """Register a sensor.

    The answer holds its token, which is shown this once.
    """
    return await work.sensors.register(**given(body))


@operations.get("/sensors", SensorUseCases.page, Paged(view=SensorView))
async def list_sensors(work: Work, query: SensorQuery, after: Position | None = None) -> Page[Sensor]:
    """List the sensors of all projects that the caller may read, and those shared with them, newest first."""
    return await work.sensors.page(query.filter(), limit=query.limit, after=after)


@operations.get("/sensors/status-summary", SensorUseCases.status_summary, one(StatusSummaryView))
async def sensor_status_summary(work: Work, query: StatusSummaryQuery) -> StatusSummary:
    """Count the sensors that are online, delayed and offline.

    Online is who gave a sign of life within 30 seconds, delayed who did within 5 minutes, and offline who did not, or
    never. They are the sensors of the projects that the caller may read and those shared with them, each counted once;
    retired ones are not.
    """
    return await work.sensors.status_summary(query.project_id)


@operations.get("/sensors/{sensor_id:uuid}", SensorUseCases.get, ONE)
async def get_sensor(work: Work, sensor_id: UUID) -> Sensor:
    """Show a sensor.

    Its `ETag` is for `If-Match`. Signs of life renew `last_seen_at` without a new version, so that it is always sent.
    """
    return await work.sensors.get(sensor_id)


@operations.patch("/sensors/{sensor_id:uuid}", SensorUseCases.edit, ONE)
async def edit_sensor(work: Work, sensor_id: UUID, body: SensorEdit, if_version: int | None) -> Sensor:
    """Change a sensor."""
    return await work.sensors.edit(sensor_id, if_version=if_version, **given(body))


@operations.delete("/sensors/{sensor_id:uuid}", SensorUseCases.delete, Nothing())
async def delete_sensor(work: Work, sensor_id: UUID, if_version: int | None) -> None:
    """Delete a sensor that never took part in a capture session.

    Any other is retired instead (`sensor_has_recorded`, `sensor_in_use`), and so is one that is bound to a run that is
    over (`sensor_bound`). Other runs that have bound it lose it.
    """
    await work.sensors.delete(sensor_id, if_version=if_version)


@operations.post(
    "/sensors/{sensor_id:uuid}/rotate-token", SensorUseCases.rotate_token, one(SensorWithTokenView, secret=True)
)
async def rotate_sensor_token(
    work: Work, sensor_id: UUID, if_version: int | None, body: Rotation | None = None
) -> SensorWithToken:
    """Give a sensor a new token, which is shown this once.

    The old one dies at once, or after a grace period.
    """
    return await work.sensors.rotate_token(sensor_id, if_version=if_version, **given(body or Rotation()))


@operations.post("/sensors/{sensor_id:uuid}/activate", SensorUseCases.activate, ONE)
async def activate_sensor(
    work: Work, sensor_id: UUID, if_version: int | None, body: Transition | None = None
) -> Sensor:
    """Activate a sensor: registered or inactive → active."""
    return await work.sensors.activate(sensor_id, if_version=if_version, **given(body or Transition()))


@operations.post("/sensors/{sensor_id:uuid}/deactivate", SensorUseCases.deactivate, ONE)
async def deactivate_sensor(
    work: Work, sensor_id: UUID, if_version: int | None, body: Transition | None = None
) -> Sensor:
    """Deactivate a sensor: active → inactive. Its readings are refused (`sensor_inactive`)."""
    return await work.sensors.deactivate(sensor_id, if_version=if_version, **given(body or Transition()))


@operations.post("/sensors/{sensor_id:uuid}/retire", SensorUseCases.retire, ONE)
async def retire_sensor(work: Work, sensor_id: UUID, if_version: int | None, body: Transition | None = None) -> Sensor:
    """Retire a sensor, for good.

    Refused while it takes part in an active capture session (`sensor_in_use`).
    """
    return await work.sensors.retire(sensor_id, if_version=if_version, **given(body or Transition()))


@operations.post("/sensors/{sensor_id:uuid}/heartbeat", SensorUseCases.heartbeat, ONE)
async def sensor_heartbeat(
    work: Work,
    sensor_id: UUID,
    body: Empty | None = None,  # noqa: ARG001 - an object without fields is as good as nothing
) -> Sensor:
    """Send a sign of life, with the sensor's own token. The first one makes it active."""
    return await work.sensors.heartbeat(sensor_id)


@operations.get("/sensors/{sensor_id:uuid}/heartbeats", SensorUseCases.heartbeats, Items(view=SignsOfLifeView))
async def sensor_heartbeats(work: Work, sensor_id: UUID, query: HeartbeatQuery) -> Sequence[SignsOfLife]:
    """Count a sensor's signs of life by time, oldest first.

    Every bucket of the window is there, also where nothing came, so that they can be drawn as they are. Edges within a
    minute are moved outwards to whole minutes, and the last bucket ends with the window. Each heartbeat counts, and of
    batches one each 5 seconds. Counts are kept for 7 days.
    """
    return await work.sensors.heartbeats(sensor_id, start=query.start, end=query.end, bucket=query.bucket)


@operations.get("/sensors/{sensor_id:uuid}/history", SensorUseCases.history, Items(view=StatusChangeView))
async def sensor_history(work: Work, sensor_id: UUID) -> Sequence[StatusChange]:
    """List a sensor's transitions, oldest first, for those who may read its own project."""
    return await work.sensors.history(sensor_id)


def _project(project_id: UUID) -> SensorProjectView:
    return SensorProjectView(project_id)


@operations.get(
    "/sensors/{sensor_id:uuid}/projects", SensorUseCases.projects, Items(view=SensorProjectView, of=_project)
)
async def list_sensor_projects(work: Work, sensor_id: UUID) -> Sequence[UUID]:
    """List the projects that may bind a sensor: its own first, then those it is shared with."""
    return await work.sensors.projects(sensor_id)


@operations.put(
    "/sensors/{sensor_id:uuid}/projects/{project_id:uuid}",
    SensorUseCases.share,
    one(SensorProjectView, of=_project),
)
async def share_sensor(work: Work, sensor_id: UUID, project_id: UUID) -> UUID:
    """Let another project bind a sensor.

    The caller owns the sensor's project and may edit the other one.
    """
    await work.sensors.share(sensor_id, project_id)
    return project_id


@operations.delete("/sensors/{sensor_id:uuid}/projects/{project_id:uuid}", SensorUseCases.unshare, Nothing())
async def unshare_sensor(work: Work, sensor_id: UUID, project_id: UUID) -> None:
    """Take a sensor back from another project. Runs that have bound it keep it."""
    await work.sensors.unshare(sensor_id, project_id)
