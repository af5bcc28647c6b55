"""The walk of an export through its sessions, series by series, which can be gone on with anywhere."""

from collections.abc import Callable, Sequence
from uuid import UUID

from attrs import frozen

from experiment_domain.captures import CaptureSession, CaptureStatus
from experiment_domain.exports.files import Stretch
from experiment_domain.exports.jobs import SESSIONS, Export, ExportPlace
from experiment_domain.kernel.entity import Position
from experiment_domain.kernel.errors import Invalid, Unavailable
from experiment_domain.telemetry.store import Layer, ReadingQuery
from experiment_domain.unit_of_work import UnitOfWork

_RUNS = 500


@frozen(kw_only=True, eq=False)
class Reading:
    """What was read of an export in one go, and how far it has come by that."""

    stretches: Sequence[Stretch]
    sessions_done: int
    place: ExportPlace | None

    @property
    def count(self) -> int:
        """How many readings."""
        return sum(len(stretch.timestamps) for stretch in self.stretches)


async def sessions_of(uow: UnitOfWork, export: Export) -> Sequence[UUID]:
    """The sessions of an export's scope that were started: those of newer runs first, of a run in their order.

    Raises `Invalid` where they are more than `SESSIONS`.
    """
    scope, run_ids = export.scope, export.scope.run_ids
    named = frozenset(scope.capture_session_ids)
    if named:
        sessions = [await uow.captures.get(session_id) for session_id in scope.capture_session_ids]
        of_named = {session.run_id for session in sessions if session is not None}
        run_ids = tuple(of_named.intersection(run_ids) if run_ids else of_named)
        if not run_ids:
            return ()
    which = scope.runs(export.project_id, run_ids)
    found: list[UUID] = []
    after: Position | None = None
    while True:
        page = await uow.runs.page(which, sort="-created_at", limit=_RUNS, after=after)
        order = {run.id: place for place, run in enumerate(page.items)}
        started = [
            session
            for session in await uow.captures.of_runs(order)
            if session.status is not CaptureStatus.DRAFT and (not named or session.id in named)
        ]
        found += [session.id for session in sorted(started, key=lambda one: (order[one.run_id], one.ordinal))]
        if len(found) > SESSIONS:
            raise Invalid(f"The scope has more than {SESSIONS:,} capture sessions: narrow it.", code="too_much")
        after = page.next
        if after is None:
            return found


class ExportWalk:
    """A walk from where an export has come to. Series are in the order of sensor and signal."""

    def __init__(self, uow: UnitOfWork, export: Export) -> None:
        self._uow = uow
        self._export = export
        self._sessions = export.sessions or ()
        self._done = export.sessions_done
        self._place = export.place
        self._session: CaptureSession | None = None
        self._series: Sequence[tuple[UUID, str]] = ()
        self._stretches: list[Stretch] = []

    async def read(self, readings: int, is_over: Callable[[], bool]) -> Reading:
        """Read on, at least one step, until there are so many readings, or it is over."""
        missing = readings
        while missing and self._done < len(self._sessions):
            missing -= await self._step(missing)
            if is_over():
                break
        return Reading(stretches=self._stretches, sessions_done=self._done, place=self._place)

    async def _step(self, limit: int) -> int:
        """Read on in a series, or go on to the next one, or to the next session; how many readings there were."""
        session = self._session or await self._entered()
        series = None if session is None else self._next_series()
        if session is None or series is None:
            self._done, self._place, self._session = self._done + 1, None, None
            return 0
        return await self._read(session, *series, limit)

    async def _entered(self) -> CaptureSession | None:
        """The session that is read next; None where it has been deleted meanwhile."""
        session = await self._uow.captures.get(self._sessions[self._done], deleted=True)
        if session is None:
            # It was there when the sessions were decided on, and one that was started is never removed.
            raise Unavailable("A replica is behind: a capture session is not there yet.")
        if session.deleted_at is not None:
            return None
        names = await self._uow.telemetry.names(session.id)
        self._session = session
        # Databases have orders of their own for text: this one is the same in all of them.
        self._series = sorted(name for name in names if self._export.scope.takes(*name))
        return session

    def _next_series(self) -> tuple[UUID, str] | None:
        """The series that is read next, which may be the one that was; None where the session has been read."""
        place = self._place
        if place is None:
            return next(iter(self._series), None)
        if place.after is not None:
            return place.series
        return next((series for series in self._series if series > place.series), None)

    async def _read(self, session: CaptureSession, sensor_id: UUID, signal: str, limit: int) -> int:
        layer, place = self._export.layer, self._place
        profile_id, after = None, None
        if place is not None and place.after is not None:
            profile_id, after = place.profile_id, place.after
        elif layer is Layer.PHYSICAL:
            _, profile_id = await self._uow.telemetry.layer_of(session.id, sensor_id, signal)
        query = ReadingQuery(
            capture_session_id=session.id,
            sensor_id=sensor_id,
            signal=signal,
            layer=layer,
            profile_id=profile_id,
            after=after,
            limit=limit,
        )
        found = await self._uow.telemetry.read(query)
        stamps = found.timestamps
        last = stamps[-1] if found.more else None
        self._place = ExportPlace(sensor_id=sensor_id, signal=signal, after=last, profile_id=profile_id)
        if stamps:
            self._stretches.append(
                Stretch(
                    run_id=session.run_id,
                    capture_session_id=session.id,
                    sensor_id=sensor_id,
                    signal=signal,
                    layer=layer,
                    profile_id=profile_id,
                    unit=await self._unit(sensor_id, profile_id),
                    timestamps=stamps,
                    values=found.values,
                )
            )
        return len(stamps)

    async def _unit(self, sensor_id: UUID, profile_id: UUID | None) -> str:
        if profile_id is not None:
            profile = await self._uow.conversion_profiles.get(profile_id)
            return "" if profile is None else profile.output_unit
        sensor = await self._uow.sensors.get(sensor_id)
        return "" if sensor is None else sensor.input_unit
