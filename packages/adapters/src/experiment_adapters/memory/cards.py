"""Run cards in memory."""

from collections import Counter
from uuid import UUID

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.artifacts import ArtifactStatus
from experiment_domain.cards import (
    SHOWN_ARTIFACTS,
    SHOWN_CHANGES,
    SHOWN_SENSORS,
    SHOWN_SESSIONS,
    BoundSensor,
    RunCard,
    RunCards,
)


class MemoryRunCards(RunCards):
    """Puts cards together from everything that is kept."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def of(self, run_id: UUID) -> RunCard | None:
        self._transaction.settle()
        store = self._store
        run = store.runs.get(run_id)
        if run is None:
            return None
        bound = sorted(
            (binding for binding in store.run_sensors.values() if binding.run_id == run_id),
            key=lambda binding: (binding.bound_at, binding.sensor_id),
        )
        sessions = sorted(
            (found for found in store.captures.values() if found.run_id == run_id and found.deleted_at is None),
            key=lambda session: -session.ordinal,
        )
        shown = sessions[:SHOWN_SESSIONS]
        artifacts = sorted(
            (artifact for artifact in store.artifacts.values() if artifact.run_id == run_id),
            key=lambda artifact: (artifact.created_at, artifact.id),
            reverse=True,
        )
        subjects = {run_id, *(session.id for session in shown)}
        changes = [change for change in reversed(store.history) if change.entity_id in subjects]
        ids = {session.id for session in sessions}
        intakes = [intake for (_, session_id, _), intake in store.intakes.items() if session_id in ids]
        return RunCard(
            project=store.projects[run.project_id],
            experiment=store.experiments[run.experiment_id],
            run=run,
            sensors=[
                BoundSensor(sensor=store.sensors[binding.sensor_id], bound_at=binding.bound_at)
                for binding in bound[:SHOWN_SENSORS]
            ],
            sensor_count=len(bound),
            sessions=shown,
            session_counts=Counter(session.status for session in sessions),
            artifacts=[found for found in artifacts if found.status is ArtifactStatus.APPROVED][:SHOWN_ARTIFACTS],
            artifact_counts=Counter(artifact.status for artifact in artifacts),
            changes=changes[:SHOWN_CHANGES],
            readings=f"{len(ids)}/{len(intakes)}",
        )
