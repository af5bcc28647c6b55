"""What admission found of sensors whose batches were accepted of late: the next one most often finds the same."""

from collections import OrderedDict
from datetime import datetime
from uuid import UUID

from attrs import evolve

from experiment_domain.telemetry.store import Admission

MOST = 10_000
"""The most admissions that are remembered, one for each token and session."""
FEW_SIGNALS = 256
"""Of a sensor with more signals in a session none is remembered: the room is for many sensors."""


class Admissions:
    """Admissions of batches that were accepted, as they were found: each is to be asked whether it still holds."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._found: OrderedDict[tuple[bytes, UUID], Admission] = OrderedDict()

    def note(self, token_hash: bytes, session_id: UUID, admission: Admission, at: datetime) -> None:
        """A batch under this token was accepted for a session `at` a moment, as its sensor's sign of life if due.

        A token that has been rotated is of no further use.
        """
        sensor = admission.sensor
        is_small = all(len(destination.signals) <= FEW_SIGNALS for destination in admission.destinations)
        if sensor.token_hash != token_hash or not is_small:
            return
        seen_at = at if sensor.is_due_for_a_sign(at) else sensor.last_seen_at
        # What no batch is judged by may take much room.
        sensor = evolve(sensor, last_seen_at=seen_at, metadata={})
        self._found[token_hash, session_id] = evolve(admission, sensor=sensor, repeated={})
        self._found.move_to_end((token_hash, session_id))
        if len(self._found) > self._most:
            self._found.popitem(last=False)

    def find(self, token_hash: bytes, session_id: UUID) -> Admission | None:
        """What was found of the sender of an earlier batch, if it is remembered."""
        return self._found.get((token_hash, session_id))
