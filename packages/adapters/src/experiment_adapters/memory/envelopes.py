"""Envelopes in memory: reading by reading, as plain as can be."""

import math

from experiment_adapters.memory.store import Store, Transaction
from experiment_domain.telemetry.envelopes import Envelope, EnvelopeQuery, Envelopes, Pixels
from experiment_domain.telemetry.statistics import Statistics


class MemoryEnvelopes(Envelopes):
    """Makes envelopes of all readings of a series."""

    def __init__(self, store: Store, transaction: Transaction) -> None:
        self._store = store
        self._transaction = transaction

    async def read(self, query: EnvelopeQuery) -> Envelope:
        self._transaction.settle()
        series = self._store.series.get((query.capture_session_id, query.sensor_id, query.signal))
        readings = list(series.values(query.layer, query.profile_id)) if series else []
        pixels = Pixels.of(query, readings[0][0], readings[-1][0]) if readings else None
        envelope = Envelope.empty()
        if pixels is None:
            return envelope
        parts: dict[int, list[float]] = {}
        for stamp, value in readings:
            if pixels.low <= stamp < pixels.high:
                parts.setdefault(pixels.number(stamp), []).append(value)
        for number, values in parts.items():
            start, end = pixels.span(number, query)
            found = Statistics.of(values)
            envelope.starts.append(start)
            envelope.ends.append(end)
            envelope.counts.append(found.count if found else 0)
            for column, value in (
                (envelope.minimums, found and found.minimum),
                (envelope.maximums, found and found.maximum),
                (envelope.firsts, found and found.first),
                (envelope.lasts, found and found.last),
                (envelope.means, found and found.mean),
            ):
                column.append(math.nan if value is None else value)
        return envelope
