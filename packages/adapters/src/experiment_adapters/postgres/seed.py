"""Test data in bulk: a project with as many runs as wanted, through COPY."""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
from attrs import frozen
from psycopg.sql import SQL, Identifier

RUNS_PER_EXPERIMENT = 10_000
SPREAD = timedelta(days=730)
"""How long ago the first run was made."""

_STATUSES = {"finished": 70, "failed": 12, "archived": 8, "draft": 6, "running": 4}
_TAGS = {
    "baseline": 40,
    "nightly": 30,
    "calibration": 12,
    "pump-a": 20,
    "pump-b": 10,
    "leak-test": 6,
    "vibration": 8,
    "to-review": 3,
    "customer-demo": 1,
}
_PEOPLE = ("amara", "bo", "chidi", "dilnoza", "eero", "fatima", "goran", "hana", "ines", "jun")
_RIGS = ("water-loop-1", "water-loop-2", "furnace-1", "shaker-3")
_FLUIDS = ("water", "glycol", "oil")
_NOTES = (
    "Pressure drifted after the first minutes, otherwise as expected.",
    "Repeated after the seal was replaced.",
    "Valve closed too early; see the photographs.",
    "Reference for the following series.",
)
_RUN_COLUMNS = (
    "id", "project_id", "version", "created_at", "updated_at", "created_by", "experiment_id", "name", "params", "tags",
    "metadata", "git_sha", "env", "notes", "participants", "auto_close_after", "status", "started_at", "finished_at",
)  # fmt: skip
_HISTORY_COLUMNS = ("entity_type", "entity_id", "project_id", "source", "target", "at", "actor", "role", "reason")


@frozen
class Seeded:
    """What `seed_runs` made."""

    project_id: UUID
    experiment_ids: Sequence[UUID]


def seed_runs(url: str, runs: int, *, owner: str, now: datetime | None = None) -> Seeded:
    """Make a project `Seed` that `owner` owns, with `runs` runs of all statuses; the same for the same arguments.

    Statuses come with their history, as if people had set them; there are no audit records and no events.
    """
    maker = _Maker(random.Random(runs), now or datetime.now(UTC), owner)  # noqa: S311 - test data
    rows = list(maker.runs(runs))
    with _connect(url) as connection, connection.cursor() as cursor:
        _copy(cursor, "projects", maker.project())
        _copy(cursor, "project_members", maker.membership())
        for experiment in maker.experiments:
            _copy(cursor, "experiments", experiment)
        _copy_all(cursor, "runs", _RUN_COLUMNS, rows)
        _copy_all(cursor, "status_history", _HISTORY_COLUMNS, maker.history(rows))
    with _connect(url, autocommit=True) as connection:
        # Otherwise the first queries are planned for empty tables.
        connection.execute("ANALYZE projects, experiments, runs, status_history")
    return Seeded(maker.project_id, [experiment["id"] for experiment in maker.experiments])


def _connect(url: str, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    # Of several hosts, the one that takes writes.
    return psycopg.connect(url, connect_timeout=10, target_session_attrs="read-write", autocommit=autocommit)


def _copy(cursor: psycopg.Cursor[Any], table: str, row: Mapping[str, Any]) -> None:
    _copy_all(cursor, table, tuple(row), [tuple(row.values())])


def _copy_all(cursor: psycopg.Cursor[Any], table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    command = SQL("COPY {} ({}) FROM STDIN").format(Identifier(table), SQL(", ").join(map(Identifier, columns)))
    with cursor.copy(command) as copy:
        for row in rows:
            copy.write_row(row)


class _Maker:
    """Invents rows."""

    def __init__(self, chance: random.Random, now: datetime, owner: str) -> None:
        self._chance = chance
        self._now = now
        self._begin = now - SPREAD
        self._owner = owner
        self.project_id = self._id(self._begin)
        self.experiments: list[dict[str, Any]] = []

    def project(self) -> dict[str, Any]:
        return {
            **self._entity(self.project_id, self._begin),
            "name": "Seed",
            "raw_readers": ["editor", "owner"],
            "physical_only": False,
            "future_tolerance": 300.0,
        }

    def membership(self) -> dict[str, Any]:
        return {
            "user_id": self._owner,
            "project_id": self.project_id,
            "role": "owner",
            "added_at": self._begin,
        }

    def runs(self, count: int) -> Iterator[tuple[Any, ...]]:
        """Runs in the order of their making, evenly over the time and over the experiments."""
        parts = max(1, -(-count // RUNS_PER_EXPERIMENT))
        self.experiments = [self._experiment(number) for number in range(1, parts + 1)]
        step = SPREAD / max(count, 1)
        for number in range(count):
            created = self._begin + step * (number + self._chance.random())
            yield self._run(number, created, self.experiments[number % parts]["id"])

    def history(self, runs: Iterable[Sequence[Any]]) -> Iterator[tuple[Any, ...]]:
        """How each run came to its status."""
        for experiment in self.experiments:
            yield self._transition("experiment", experiment["id"], "draft", "running", experiment["started_at"])
        for run in runs:
            run_id, updated, status, started, finished = run[0], run[4], run[16], run[17], run[18]
            before = "draft"
            if started is not None:
                yield self._transition("run", run_id, before, "running", started)
                before = "running"
            if finished is not None:
                over = "failed" if status == "failed" else "finished"
                yield self._transition("run", run_id, before, over, finished)
                before = over
            if status == "archived":
                yield self._transition("run", run_id, before, "archived", updated)

    def _experiment(self, number: int) -> dict[str, Any]:
        at = self._begin + timedelta(minutes=number)
        return {
            **self._entity(self._id(at), at),
            "version": 2,
            "project_id": self.project_id,
            "name": f"Endurance {number}",
            "description": "Seeded for tests.",
            "experiment_type": "endurance",
            "tags": ["seed"],
            "metadata": json.dumps({"rig": _RIGS[number % len(_RIGS)]}),
            "status": "running",
            "started_at": at,
        }

    def _run(self, number: int, created: datetime, experiment_id: UUID) -> tuple[Any, ...]:
        chance = self._chance
        status = chance.choices(tuple(_STATUSES), tuple(_STATUSES.values()))[0]
        # The past is over: only what is recent can still be running.
        if status == "running" and self._now - created > timedelta(days=30):
            status = "finished"
        started = finished = None
        updated = created
        version = 1
        if status != "draft":
            started = updated = min(self._now, created + timedelta(seconds=chance.uniform(5, 600)))
            version += 1
        if status not in ("draft", "running"):
            finished = updated = min(self._now, created + timedelta(seconds=700 + chance.expovariate(1 / 3_600)))
            version += 1
        if status == "archived":
            updated = min(self._now, created + timedelta(days=20))
            version += 1
        tags = dict.fromkeys(chance.choices(tuple(_TAGS), tuple(_TAGS.values()), k=chance.randint(0, 4)))
        participants = chance.sample(_PEOPLE, k=chance.randint(1, 3))
        params = {
            "rpm": chance.randrange(600, 3_000, 50),
            "temperature": round(chance.gauss(60, 12), 1),
            "valve": f"v{chance.randint(1, 4)}",
            "fluid": chance.choice(_FLUIDS),
        }
        return (
            self._id(created),
            self.project_id,
            version,
            created,
            updated,
            participants[0],
            experiment_id,
            f"run {number:06d}",
            json.dumps(params),
            list(tags),
            json.dumps({"rig": chance.choice(_RIGS)}),
            f"{chance.getrandbits(160):040x}" if chance.random() < 0.6 else None,
            json.dumps({"host": f"bench-{chance.randint(1, 6)}"}),
            chance.choice(_NOTES) if chance.random() < 0.3 else None,
            participants,
            None,
            status,
            started,
            finished,
        )

    def _transition(self, kind: str, entity_id: UUID, source: str, target: str, at: datetime) -> tuple[Any, ...]:
        return kind, entity_id, self.project_id, source, target, at, self._owner, "owner", None

    def _entity(self, entity_id: UUID, at: datetime) -> dict[str, Any]:
        return {"id": entity_id, "version": 1, "created_at": at, "updated_at": at, "created_by": self._owner}

    def _id(self, at: datetime) -> UUID:
        """A UUIDv7 of the past."""
        milliseconds = int(at.timestamp() * 1_000)
        chance = self._chance.getrandbits(74)
        return UUID(
            int=milliseconds << 80 | 0x7 << 76 | (chance >> 62) << 64 | 0b10 << 62 | chance & 0x3FFF_FFFF_FFFF_FFFF
        )
