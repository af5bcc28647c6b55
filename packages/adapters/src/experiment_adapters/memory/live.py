"""Readings as they come in, in memory: the chunks of a session in the order of their reception."""

from array import array
from collections.abc import Iterator
from uuid import UUID

from experiment_adapters.memory.series import layers_of
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.telemetry.live import LiveChunk, LivePart, LiveReadings
from experiment_domain.telemetry.store import Chunk, Intake, Layer


class MemoryLive(LiveReadings):
    """A place is how many chunks of the session are before it."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def latest(self, capture_session_id: UUID) -> str:
        self._transaction.settle()
        return str(sum(1 for _ in self._received(capture_session_id)))

    async def since(
        self,
        capture_session_id: UUID,
        place: str,
        *,
        layer: Layer | None,
        chunks: int,
        readings: int,
        until: str | None = None,
    ) -> LivePart:
        last = until or await self.latest(capture_session_id)
        found: list[LiveChunk] = []
        at = int(place)
        for number, (intake, chunk) in enumerate(self._received(capture_session_id), 1):
            if not at < number <= int(last):
                continue
            if len(found) == chunks or sum(len(one.timestamps) for one in found) >= readings:
                return LivePart(chunks=found, place=str(at), more=True)
            at = number
            live = self._live(intake, chunk, number, layer)
            if live is not None:
                found.append(live)
        return LivePart(chunks=found, place=str(max(at, int(last))), more=False)

    def _received(self, capture_session_id: UUID) -> Iterator[tuple[Intake, Chunk]]:
        for (_, session_id, _), intake in self._store.intakes.items():
            if session_id == capture_session_id:
                for chunk in intake.chunks:
                    yield intake, chunk

    def _live(self, intake: Intake, chunk: Chunk, number: int, layer: Layer | None) -> LiveChunk | None:
        column, receipt = chunk.column, intake.receipt
        series = self._store.series[receipt.capture_session_id, receipt.sensor_id, column.signal]
        profile_id = None if layer is Layer.RAW else series.profile_id
        if profile_id is None and layer is Layer.PHYSICAL:
            return None
        values: array[float] = column.values
        if profile_id is not None:
            # What a backfill has converted lies with the readings, one for each timestamp.
            values = layers_of(chunk, intake.profile_id).get(profile_id) or array(
                "d", [series.readings[stamp].physical[profile_id] for stamp in column.timestamps]
            )
        return LiveChunk(
            position=number,
            place=str(number),
            sensor_id=receipt.sensor_id,
            signal=column.signal,
            layer=Layer.RAW if profile_id is None else Layer.PHYSICAL,
            profile_id=profile_id,
            is_late=intake.is_late,
            timestamps=column.timestamps,
            values=values,
        )
