"""Run cards in PostgreSQL: one statement, so that a card is of one moment."""

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from experiment_adapters.postgres.artifacts import ARTIFACTS
from experiment_adapters.postgres.captures import CAPTURE_SESSIONS, PINS
from experiment_adapters.postgres.experiments import EXPERIMENTS
from experiment_adapters.postgres.projects import PROJECTS
from experiment_adapters.postgres.records import TRANSITION, transition
from experiment_adapters.postgres.runs import RUNS
from experiment_adapters.postgres.sensors import SENSORS
from experiment_adapters.postgres.statements import Statements
from experiment_domain.artifacts import ArtifactStatus
from experiment_domain.captures import CaptureStatus
from experiment_domain.cards import (
    SHOWN_ARTIFACTS,
    SHOWN_CHANGES,
    SHOWN_SENSORS,
    SHOWN_SESSIONS,
    BoundSensor,
    RunCard,
    RunCards,
)

# Positions alone do not tell that there are other readings: a batch may be committed after one of a higher position.
_CARD = f"""
WITH session AS MATERIALIZED (
    SELECT * FROM capture_sessions WHERE run_id = %s AND deleted_at IS NULL ORDER BY ordinal DESC
), shown AS MATERIALIZED (
    SELECT * FROM session ORDER BY ordinal DESC LIMIT {SHOWN_SESSIONS}
)
SELECT ROW({PROJECTS.columns}), ROW({EXPERIMENTS.columns}), ROW({RUNS.columns}),
    ARRAY(
        SELECT ROW(bound_at, {SENSORS.columns}) FROM run_sensors JOIN sensors ON sensors.id = run_sensors.sensor_id
        WHERE run_sensors.run_id = runs.id ORDER BY bound_at, sensors.id LIMIT {SHOWN_SENSORS}
    ),
    (SELECT count(*) FROM run_sensors WHERE run_sensors.run_id = runs.id),
    ARRAY(SELECT ROW({CAPTURE_SESSIONS.columns}{PINS}) FROM shown AS capture_sessions ORDER BY ordinal DESC),
    ARRAY(SELECT ROW(session.status, count(*)) FROM session GROUP BY session.status),
    ARRAY(
        SELECT ROW({ARTIFACTS.columns}) FROM artifacts
        WHERE artifacts.run_id = runs.id AND artifacts.status = 'approved'
        ORDER BY artifacts.created_at DESC, artifacts.id DESC LIMIT {SHOWN_ARTIFACTS}
    ),
    ARRAY(
        SELECT ROW(artifacts.status, count(*)) FROM artifacts WHERE artifacts.run_id = runs.id GROUP BY artifacts.status
    ),
    ARRAY(
        SELECT ROW({TRANSITION}) FROM status_history
        WHERE entity_id = ANY(ARRAY(SELECT runs.id UNION ALL SELECT shown.id FROM shown))
        ORDER BY position DESC LIMIT {SHOWN_CHANGES}
    ),
    concat_ws('/',
        (
            SELECT md5(string_agg(series.id || ':' || coalesce(series.profile_id::text, ''), ',' ORDER BY series.id))
            FROM telemetry_series AS series JOIN session ON session.id = series.capture_session_id
        ),
        (
            SELECT count(*) || '/' || coalesce(max(position), 0)
            FROM telemetry_chunks AS chunk JOIN session ON session.id = chunk.capture_session_id
        )
    )
FROM runs
JOIN experiments ON experiments.id = runs.experiment_id
JOIN projects ON projects.id = runs.project_id
WHERE runs.id = %s
"""


class PostgresRunCards(RunCards):
    """Puts cards together from the tables of their nouns."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def of(self, run_id: UUID) -> RunCard | None:
        row = await self._statements.ask(_CARD, [run_id, run_id]).row()
        if row is None:
            return None
        (
            project,
            experiment,
            run,
            sensors,
            sensor_count,
            sessions,
            by_status,
            artifacts,
            by_approval,
            changes,
            readings,
        ) = row
        return RunCard(
            project=PROJECTS.entity(project),
            experiment=EXPERIMENTS.entity(experiment),
            run=RUNS.entity(run),
            sensors=[BoundSensor(sensor=SENSORS.entity(bound[1:]), bound_at=bound[0]) for bound in sensors],
            sensor_count=sensor_count,
            sessions=[CAPTURE_SESSIONS.entity(session) for session in sessions],
            session_counts=_counts(by_status, CaptureStatus),
            artifacts=[ARTIFACTS.entity(artifact) for artifact in artifacts],
            artifact_counts=_counts(by_approval, ArtifactStatus),
            changes=[transition(change) for change in changes],
            readings=readings,
        )


def _counts(rows: list[tuple[str, int]], kind: Any) -> Mapping[Any, int]:
    return {kind(status): count for status, count in rows}
