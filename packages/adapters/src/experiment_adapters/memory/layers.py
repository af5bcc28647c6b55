"""Physical layers in memory."""

from collections.abc import Sequence
from uuid import UUID

from experiment_adapters.memory.series import layers_of
from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.backfills import Place
from experiment_domain.telemetry.layers import LayerName, PhysicalChunk, PhysicalLayers, Portion, RawChunk, Sweep
from experiment_domain.telemetry.store import Chunk, Intake

_ONE_SERIES = 0
"""Chunks are numbered over all series of a sensor in a session, in the order of their reception."""


class MemoryLayers(PhysicalLayers):
    """Which layers there are, and the values of those that backfills make."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def chunks(self, capture_session_id: UUID, sensor_id: UUID) -> int:
        self._transaction.settle()
        return len(self._chunks(capture_session_id, sensor_id))

    async def current(self, capture_session_id: UUID, sensor_id: UUID) -> UUID | None:
        self._transaction.settle()
        return next(iter(self.whole(capture_session_id, sensor_id)), None)

    async def sweep(self, layer: LayerName, portion: Portion, after: Place | None) -> Sweep:
        self._transaction.settle()
        first = 0 if after is None else after[1] + 1
        chunks = self._chunks(layer.capture_session_id, layer.sensor_id)
        return self._part(layer, portion, list(enumerate(chunks))[first:])

    async def missing(self, layer: LayerName, portion: Portion) -> Sweep:
        self._transaction.settle()
        chunks = enumerate(self._chunks(layer.capture_session_id, layer.sensor_id))
        return self._part(
            layer, portion, [(place, found) for place, found in chunks if self._lacks(layer, place, found)]
        )

    def add(self, layer: LayerName, chunks: Sequence[PhysicalChunk]) -> None:
        kept = self._chunks(layer.capture_session_id, layer.sensor_id)
        for converted in chunks:
            _, chunk = kept[converted.place[1]]
            series = self._store.series[layer.capture_session_id, layer.sensor_id, chunk.column.signal]
            values = series.converted(chunk, layer.profile_id, converted.values)
            self._transaction.put_all(series.readings, values)
            self._transaction.insert(self._store.converted, (layer, converted.place[1]), None, "physical chunk")

    def make_current(self, layer: LayerName) -> None:
        session_id, sensor_id = layer.capture_session_id, layer.sensor_id
        for profile_id in self.whole(session_id, sensor_id):
            name = LayerName(capture_session_id=session_id, sensor_id=sensor_id, profile_id=profile_id)
            self._transaction.put(self._store.layers, name, False)
        self._transaction.put(self._store.layers, layer, True)
        for key, series in list(self._store.series.items()):
            if key[:2] == (session_id, sensor_id):
                self._transaction.put(self._store.series, key, series.switched(layer.profile_id))

    def whole(self, capture_session_id: UUID, sensor_id: UUID) -> list[UUID]:
        """The profiles of the layers that are whole, the current one first. The pinned one's is so by itself."""
        made = {
            name.profile_id: is_current
            for name, is_current in self._store.layers.items()
            if (name.capture_session_id, name.sensor_id) == (capture_session_id, sensor_id)
        }
        if made:
            return sorted(made, key=lambda profile_id: (not made[profile_id], profile_id))
        session = self._store.captures.get(capture_session_id)
        pin = None if session is None else session.pin_of(sensor_id)
        return [] if pin is None or pin.profile_id is None else [pin.profile_id]

    def _chunks(self, capture_session_id: UUID, sensor_id: UUID) -> list[tuple[Intake, Chunk]]:
        return [
            (intake, chunk)
            for (sender, session_id, _), intake in self._store.intakes.items()
            if (session_id, sender) == (capture_session_id, sensor_id)
            for chunk in intake.chunks
        ]

    def _lacks(self, layer: LayerName, place: int, found: tuple[Intake, Chunk]) -> bool:
        intake, chunk = found
        came_with = layers_of(chunk, intake.profile_id)
        return layer.profile_id not in came_with and (layer, place) not in self._store.converted

    def _part(self, layer: LayerName, portion: Portion, chunks: Sequence[tuple[int, tuple[Intake, Chunk]]]) -> Sweep:
        seen = portion.fitting(len(chunk.column) for _, (_, chunk) in chunks)
        return Sweep(
            seen=seen,
            missing=[
                RawChunk(place=(_ONE_SERIES, place), values=found[1].column.values)
                for place, found in chunks[:seen]
                if self._lacks(layer, place, found)
            ],
            next=None if seen == len(chunks) else (_ONE_SERIES, chunks[seen - 1][0]),
        )
