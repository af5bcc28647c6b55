"""Rows of test data, invented by chance and alike in each repetition."""

import hashlib
import json
import random
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any
from uuid import UUID

from attrs import frozen

from experiment_adapters.postgres.filters import lexemes
from experiment_adapters.postgres.seed.words import WORDS

RUNS_PER_EXPERIMENT = 10_000
SPREAD = timedelta(days=730)
"""How long ago the first run was made."""

_STATUSES = {"finished": 70, "failed": 12, "archived": 8, "draft": 6, "running": 4}
_TAGS = {
    "baseline": 40,
    "nightly": 30,
    "calibration": 12,
    "leak-test": 6,
    "vibration": 8,
    "to-review": 3,
    "customer-demo": 1,
}
_RIGS = {
    "water-loop-1": ("pump-a", ("water", "glycol")),
    "water-loop-2": ("pump-b", ("water", "glycol")),
    "furnace-1": ("burner", ("argon",)),
    "shaker-3": ("mounting", ("oil",)),
}
"""What only the runs on one rig are tagged with, and which fluids there are: not everything occurs with everything."""
_PEOPLE: Sequence[str] = ("amara", "bo", "chidi", "dilnoza", "eero", "fatima", "goran", "hana", "ines", "jun")
_GUESTS = tuple(f"guest-{number:02d}" for number in range(40))
_SENSOR_TYPES = (
    ("thermocouple", "mV", "°C"),
    ("pressure", "V", "bar"),
    ("flow", "mA", "l/min"),
    ("strain", "mV", "µm/m"),
)
_SENSORS = 300
_MOST_SENSORS = 3
_AT_A_TIME = 10_000
_NOTES = (
    "Pressure drifted after the first minutes, otherwise as expected.",
    "Repeated after the seal was replaced.",
    "Valve closed too early; see the photographs.",
    "Reference for the following series.",
)


@frozen
class _Sensor:
    """A sensor that was made, and its profiles, oldest first."""

    id: UUID
    profile_ids: Sequence[UUID]


class Choice:
    """Chooses by weight, from many."""

    def __init__(self, chance: random.Random, weights: Iterable[float]) -> None:
        self._chance = chance
        self._sums = list(accumulate(weights))

    def place(self) -> int:
        return min(bisect(self._sums, self._chance.random() * self._sums[-1]), len(self._sums) - 1)


class Maker:
    """Invents rows, and has them kept a good many at a time."""

    def __init__(
        self,
        chance: random.Random,
        now: datetime,
        owner: str,
        keep: Callable[[Mapping[str, Iterable[Sequence[Any]]]], None],
    ) -> None:
        self._chance = chance
        self._now = now
        self._begin = now - SPREAD
        self._owner = owner
        self._keep = keep
        self._rows: defaultdict[str, list[Sequence[Any]]] = defaultdict(list)

    def project(self, name: str, runs: int) -> tuple[UUID, Sequence[UUID]]:
        """A project with its runs, in the order of their making, evenly over the time and over the experiments."""
        project_id = self._id(self._begin)
        _, *facts = self._facts(project_id, project_id, self._begin)
        self._rows["projects"].append((*facts, name, ["editor", "owner"], False, 300.0))
        self._rows["project_members"].append((self._owner, project_id, "owner", self._begin))
        parts = max(1, -(-runs // RUNS_PER_EXPERIMENT))
        experiments = [self._experiment(project_id, number) for number in range(1, parts + 1)]
        sensors = [self._sensor(project_id, number) for number in range(1, _SENSORS + 1)]
        # The first ones hang on every fifth run, the last ones on very few.
        of_sensors = Choice(self._chance, (1 / number for number in range(1, _SENSORS + 1)))
        commits = self._commits(runs)
        step = SPREAD / max(runs, 1)
        for number in range(runs):
            created = self._begin + step * (number + self._chance.random())
            bound = [sensors[place] for place in {of_sensors.place() for _ in range(_MOST_SENSORS)}]
            self._run(project_id, experiments[number % parts], number, created, self._commit(commits, number), bound)
            if number % _AT_A_TIME == _AT_A_TIME - 1:
                self._flush()
        self._flush()
        return project_id, experiments

    def _flush(self) -> None:
        self._keep(self._rows)
        self._rows.clear()

    def _commits(self, runs: int) -> Sequence[str]:
        """Commits in the order they were made, some of which begin alike."""
        beginnings = [self._hexadecimal(7) for _ in range(max(1, runs // 60))]
        return [self._chance.choice(beginnings) + self._hexadecimal(33) for _ in range(max(1, runs // 20))]

    def _commit(self, commits: Sequence[str], number: int) -> str | None:
        """The release, or what was new at the time; not everybody says."""
        sort = self._chance.random()
        if sort < 0.4:
            return None
        return commits[0] if sort < 0.45 else commits[min(number // 20, len(commits) - 1)]

    def _experiment(self, project_id: UUID, number: int) -> UUID:
        at = self._begin + timedelta(minutes=number)
        experiment_id = self._id(at)
        name, description = f"Endurance {number}", "Seeded for tests."
        rig = tuple(_RIGS)[number % len(_RIGS)]
        self._rows["experiments"].append(
            (
                *self._facts(experiment_id, project_id, at, version=2),
                name,
                description,
                "endurance",
                ["seed"],
                json.dumps({"rig": rig}),
                "running",
                at,
                lexemes(name, description),
            )
        )
        self._history("experiment", experiment_id, project_id, ("draft", "running"), (at,))
        return experiment_id

    def _sensor(self, project_id: UUID, number: int) -> _Sensor:
        """A sensor with a published profile, and, of every third, a retired one."""
        at = self._begin + timedelta(minutes=number)
        sensor_id = self._id(at)
        kind, given, shown = _SENSOR_TYPES[number % len(_SENSOR_TYPES)]
        name = f"{kind} {number}"
        self._rows["sensors"].append(
            (
                *self._facts(sensor_id, project_id, at, version=2),
                name,
                kind,
                given,
                shown,
                ["value"],
                "{}",
                "active",
                # Of a token that nobody has.
                hashlib.sha256(sensor_id.bytes).digest(),
                lexemes(name),
            )
        )
        self._history("sensor", sensor_id, project_id, ("registered", "active"), (at,))
        statuses = ("retired", "published") if number % 3 == 0 else ("published",)
        profile_ids: list[UUID] = []
        for version, status in enumerate(statuses, start=1):
            profile_ids.append(self._id(at))
            parameters = json.dumps(
                {"a": round(self._chance.uniform(0.5, 3), 3), "b": round(self._chance.gauss(0, 1), 3)}
            )
            self._rows["conversion_profiles"].append(
                (
                    *self._facts(profile_ids[-1], project_id, at, version=2),
                    sensor_id,
                    version,
                    "linear",
                    parameters,
                    given,
                    shown,
                    status,
                    at,
                )
            )
        return _Sensor(sensor_id, profile_ids)

    def _run(
        self,
        project_id: UUID,
        experiment_id: UUID,
        number: int,
        created: datetime,
        commit: str | None,
        bound: Sequence[_Sensor],
    ) -> None:
        chance = self._chance
        run_id = self._id(created)
        status = chance.choices(tuple(_STATUSES), tuple(_STATUSES.values()))[0]
        # The past is over: only what is recent can still be running.
        if status == "running" and self._now - created > timedelta(days=30):
            status = "finished"
        way, times = ["draft"], list[datetime]()
        started = finished = None
        if status != "draft":
            started = min(self._now, created + timedelta(seconds=chance.uniform(5, 600)))
            way.append("running")
            times.append(started)
        if status not in ("draft", "running"):
            finished = min(self._now, created + timedelta(seconds=700 + chance.expovariate(1 / 3_600)))
            way.append("failed" if status == "failed" else "finished")
            times.append(finished)
        if status == "archived":
            way.append("archived")
            times.append(min(self._now, created + timedelta(days=20)))
        name = f"run {number:06d}"
        rig = chance.choice(tuple(_RIGS))
        tag, fluids = _RIGS[rig]
        tags = chance.choices(tuple(_TAGS), tuple(_TAGS.values()), k=chance.randint(0, 4))
        if chance.random() < 0.8:
            tags.append(tag)
        if chance.random() < 0.01:
            tags.append(f"ticket-{number // 500}")
        participants = chance.sample(_PEOPLE, k=chance.randint(1, 3))
        if chance.random() < 0.05:
            participants.append(chance.choice(_GUESTS))
        params: dict[str, Any] = {
            "rpm": chance.randrange(600, 3_000, 50),
            "temperature": round(chance.gauss(60, 12), 1),
            "valve": f"v{chance.randint(1, 4)}",
            "fluid": chance.choice(fluids),
        }
        if chance.random() < 0.01:
            params["seal"] = f"S-{number // 500}"
        notes = self._notes(number)
        self._rows["runs"].append(
            (
                *self._facts(run_id, project_id, created, version=len(way), by=participants[0], updated=times[-1:]),
                experiment_id,
                name,
                json.dumps(params),
                list(dict.fromkeys(tags)),
                json.dumps({"rig": rig}),
                commit,
                json.dumps({"host": f"bench-{chance.randint(1, 6)}"}),
                notes,
                participants,
                status,
                started,
                finished,
                lexemes(name, notes),
            )
        )
        self._history("run", run_id, project_id, way, times)
        self._rows["run_sensors"].extend((run_id, sensor.id, created, participants[0]) for sensor in bound)
        if started is not None and chance.random() < 0.3:
            self._session(project_id, run_id, status, started, finished, bound)

    def _session(
        self,
        project_id: UUID,
        run_id: UUID,
        status: str,
        started: datetime,
        stopped: datetime | None,
        bound: Sequence[_Sensor],
    ) -> None:
        session_id = self._id(started)
        # A session keeps how it went, also in a run that is archived.
        over = {"running": "running", "failed": "failed"}.get(status, "succeeded")
        way = ("draft", "running") if stopped is None else ("draft", "running", over)
        times = (started,) if stopped is None else (started, stopped)
        if status == "archived":
            way, times = (*way, "archived"), (*times, min(self._now, started + timedelta(days=20)))
        facts = self._facts(session_id, project_id, started, version=len(way), updated=times[-1:])
        self._rows["capture_sessions"].append((*facts, run_id, 1, way[-1], started, stopped))
        self._history("capture_session", session_id, project_id, way, times)
        for place, sensor in enumerate(bound):
            version = self._chance.randint(1, len(sensor.profile_ids))
            profile_id = sensor.profile_ids[version - 1]
            self._rows["capture_session_pins"].append((session_id, sensor.id, place, profile_id, version))

    def _notes(self, number: int) -> str | None:
        chance = self._chance.random()
        if chance < 0.2:
            return None
        if chance < 0.4:
            return self._chance.choice(_NOTES)
        words = self._chance.choices(WORDS, k=self._chance.randint(4, 12))
        # Now and then something that was hardly ever seen.
        return " ".join([*words, f"report {number // 500}-{number % 7}"] if chance < 0.42 else words)

    def _history(
        self, kind: str, entity_id: UUID, project_id: UUID, way: Sequence[str], times: Sequence[datetime]
    ) -> None:
        """How something came to its status."""
        for source, target, at in zip(way, way[1:], times, strict=False):
            row = (kind, entity_id, project_id, source, target, at, self._owner, "owner")
            self._rows["status_history"].append(row)

    def _facts(
        self,
        entity_id: UUID,
        project_id: UUID,
        at: datetime,
        *,
        version: int = 1,
        by: str | None = None,
        updated: Sequence[datetime] = (),
    ) -> tuple[Any, ...]:
        return entity_id, project_id, version, at, updated[0] if updated else at, by or self._owner

    def _hexadecimal(self, digits: int) -> str:
        return f"{self._chance.getrandbits(4 * digits):0{digits}x}"

    def _id(self, at: datetime) -> UUID:
        """A UUIDv7 of the past."""
        milliseconds = int(at.timestamp() * 1_000)
        chance = self._chance.getrandbits(74)
        return UUID(
            int=milliseconds << 80 | 0x7 << 76 | (chance >> 62) << 64 | 0b10 << 62 | chance & 0x3FFF_FFFF_FFFF_FFFF
        )
