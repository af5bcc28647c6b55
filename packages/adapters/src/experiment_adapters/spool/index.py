"""What one process knows of the batches that wait, whichever process took them in."""

import hashlib
from uuid import UUID

from attrs import define, field, frozen

from experiment_domain.idempotency import IdempotencyKey
from experiment_domain.spool import Promise, WaitingBatch

FORGETTING = 100_000
"""With so many promises, those that are kept by now are looked for and forgotten."""


@frozen
class _Promised:
    place: int
    promise: Promise


@define
class Index:
    """The last place of each sensor and token, and the promises by their keys. Places before `taken` wait no longer."""

    _sensors: dict[UUID, int] = field(factory=dict[UUID, int])
    _tokens: dict[bytes, tuple[UUID, int]] = field(factory=dict[bytes, tuple[UUID, int]])
    _promises: dict[bytes, _Promised] = field(factory=dict[bytes, _Promised])

    def add(self, waiting: WaitingBatch, taken: int) -> None:
        """A batch waits at the place `waiting.number`."""
        place = waiting.number
        self._sensors[waiting.sensor_id] = place
        self._tokens[waiting.token_hash] = (waiting.sensor_id, place)
        if waiting.promise is not None:
            if len(self._promises) >= FORGETTING:
                self._promises = {key: found for key, found in self._promises.items() if found.place >= taken}
            self._promises[_name(waiting.promise.key)] = _Promised(place, waiting.promise)

    def clear(self) -> None:
        """Nothing waits."""
        for known in (self._sensors, self._tokens, self._promises):
            known.clear()

    def holds(self, sensor_id: UUID, taken: int) -> bool:
        """Whether batches of a sensor wait."""
        return self._sensors.get(sensor_id, -1) >= taken

    def sensor_of(self, token_hash: bytes, taken: int) -> UUID | None:
        """The sensor that waits under a token."""
        sensor_id, place = self._tokens.get(token_hash, (None, -1))
        return sensor_id if place >= taken else None

    def promise(self, key: IdempotencyKey, taken: int) -> Promise | None:
        """The promise that waits under a key."""
        found = self._promises.get(_name(key))
        return found.promise if found is not None and found.place >= taken else None


def _name(key: IdempotencyKey) -> bytes:
    principal = key.principal.encode()
    return hashlib.blake2b(len(principal).to_bytes(4) + principal + key.key.encode(), digest_size=16).digest()
