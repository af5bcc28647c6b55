"""Fill a database with what was invented."""

import random
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
from attrs import frozen
from psycopg.sql import SQL, Identifier

from experiment_adapters.postgres.seed.inventing import Maker

NEIGHBOURS = 20
"""The smaller project has one run where the other has so many."""

_ENTITY_COLUMNS = ("id", "project_id", "version", "created_at", "updated_at", "created_by")
_COLUMNS = {
    "projects": ("id", *_ENTITY_COLUMNS[2:], "name", "raw_readers", "physical_only", "future_tolerance"),
    "project_members": ("user_id", "project_id", "role", "added_at"),
    "experiments": (
        *_ENTITY_COLUMNS, "name", "description", "experiment_type", "tags", "metadata", "status", "started_at", "words",
    ),
    "sensors": (
        *_ENTITY_COLUMNS, "name", "sensor_type", "input_unit", "display_unit", "signals", "metadata", "status",
        "token_hash", "words",
    ),
    "conversion_profiles": (
        *_ENTITY_COLUMNS, "sensor_id", "profile_version", "kind", "parameters", "input_unit", "output_unit", "status",
        "published_at",
    ),
    "runs": (
        *_ENTITY_COLUMNS, "experiment_id", "name", "params", "tags", "metadata", "git_sha", "env", "notes",
        "participants", "status", "started_at", "finished_at", "words",
    ),
    "run_sensors": ("run_id", "sensor_id", "bound_at", "bound_by"),
    "capture_sessions": (*_ENTITY_COLUMNS, "run_id", "ordinal", "status", "started_at", "stopped_at"),
    "capture_session_pins": ("capture_session_id", "sensor_id", "place", "profile_id", "profile_version"),
    "status_history": ("entity_type", "entity_id", "project_id", "source", "target", "at", "actor", "role"),
}  # fmt: skip
"""What is written to each table, in this order."""


@frozen
class Seeded:
    """What `seed_runs` made: the project with all the runs that were asked for, and the smaller one."""

    project_id: UUID
    experiment_ids: Sequence[UUID]
    other_project_id: UUID


def seed_runs(url: str, runs: int, *, owner: str, now: datetime | None = None) -> Seeded:
    """Make a project `Seed` that `owner` owns, with `runs` runs of all statuses; the same for the same arguments.

    They have sensors, and some of them capture sessions without readings. Statuses come with their history, as if
    people had set them; there are no audit records and no events. `Seed, next door` has a twentieth as many runs.
    """
    with _connect(url) as connection, connection.cursor() as cursor:

        def keep(rows: Mapping[str, Iterable[Sequence[Any]]]) -> None:
            for table in filter(rows.get, _COLUMNS):
                _copy(cursor, table, rows[table])

        maker = Maker(random.Random(runs), now or datetime.now(UTC), owner, keep)  # noqa: S311 - test data
        project_id, experiment_ids = maker.project("Seed", runs)
        other_id, _ = maker.project("Seed, next door", -(-runs // NEIGHBOURS))
    with _connect(url, autocommit=True) as connection:
        # Otherwise the first queries are planned for empty tables, and GIN indexes are read entry by entry at first.
        connection.execute(SQL("VACUUM (ANALYZE) {}").format(SQL(", ").join(map(Identifier, _COLUMNS))))
    return Seeded(project_id, experiment_ids, other_id)


def _connect(url: str, *, autocommit: bool = False) -> psycopg.Connection[Any]:
    # Of several hosts, the one that takes writes.
    return psycopg.connect(url, connect_timeout=10, target_session_attrs="read-write", autocommit=autocommit)


def _copy(cursor: psycopg.Cursor[Any], table: str, rows: Iterable[Sequence[Any]]) -> None:
    columns = SQL(", ").join(map(Identifier, _COLUMNS[table]))
    with cursor.copy(SQL("COPY {} ({}) FROM STDIN").format(Identifier(table), columns)) as copy:
        for row in rows:
            copy.write_row(row)
