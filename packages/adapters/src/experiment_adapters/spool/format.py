"""The form of the spool's files: segments of records, each of which can be told from anything else.

A segment holds record after record: a header of 16 bytes, and the payload. Places are counted in bytes through all
segments, and a segment is named by the place at which it begins. The checksum of a record's header covers its place, so
that nothing but a record that was written there is taken for one; that of the payload, its content.
"""

import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from uuid import UUID

import msgspec
from attrs import frozen
from msgspec import Struct

from experiment_domain.idempotency import IdempotencyKey, RememberedAnswer
from experiment_domain.kernel.errors import Refusal
from experiment_domain.spool import Promise, WaitingBatch
from experiment_domain.telemetry.batches import Batch, Column, micros, moment

_MAGIC = b"XSr1"  # the last one is the version
_RECORD = struct.Struct("<4sIII")  # magic, length and checksum of the payload, checksum of this at its place
_PLACE = struct.Struct("<Q")
RECORD_HEADER = _RECORD.size


@frozen
class Record:
    """What was written at a place, up to the next one."""

    place: int
    next: int
    payload: bytes


@frozen
class Unreadable:
    """What stands at a place, up to the next readable one, and is no record."""

    place: int
    next: int


def record_at(place: int, payload: bytes) -> bytes:
    """A payload as the record at a place."""
    header = _RECORD.pack(_MAGIC, len(payload), zlib.crc32(payload), 0)
    return header[:12] + _header_checksum(place, header) + payload


def read_segment(descriptor: int, start: int, place: int, end: int) -> Iterator[Record | Unreadable]:
    """What stands in a segment from `place` on, and before `end`; it begins at the place `start`."""
    while place < end:
        payload = _payload_at(descriptor, start, place, end)
        if payload is None:
            following = _next_readable(descriptor, start, place + 1, end)
            yield Unreadable(place, following)
            place = following
        else:
            following = place + RECORD_HEADER + len(payload)
            yield Record(place, following, payload)
            place = following


def _payload_at(descriptor: int, start: int, place: int, end: int) -> bytes | None:
    header = os.pread(descriptor, RECORD_HEADER, place - start)
    length = _length(header, place)
    if length is None or place + RECORD_HEADER + length > end:
        return None
    payload = os.pread(descriptor, length, place - start + RECORD_HEADER)
    if len(payload) != length or zlib.crc32(payload) != int.from_bytes(header[8:12], "little"):
        return None
    return payload


def _next_readable(descriptor: int, start: int, place: int, end: int) -> int:
    """The place of the next record, `end` where there is none."""
    rest = os.pread(descriptor, end - place, place - start)
    found = rest.find(_MAGIC)
    while found >= 0:
        if _payload_at(descriptor, start, place + found, end) is not None:
            return place + found
        found = rest.find(_MAGIC, found + 1)
    return end


def _length(header: bytes, place: int) -> int | None:
    if len(header) < RECORD_HEADER or not header.startswith(_MAGIC) or header[12:] != _header_checksum(place, header):
        return None
    return int.from_bytes(header[4:8], "little")


def _header_checksum(place: int, header: bytes) -> bytes:
    return zlib.crc32(_PLACE.pack(place) + header[:12]).to_bytes(4, "little")


class _Promise(Struct, array_like=True, frozen=True):
    principal: str
    key: str
    fingerprint: bytes
    content: bytes
    answered_at: int


class _Waiting(Struct, array_like=True, frozen=True):
    token_hash: bytes
    sensor_id: bytes
    received_at: int
    request_id: str | None
    address: str | None
    promise: _Promise | None
    capture_session_id: bytes | None
    batch_id: str | None
    columns: list[tuple[str, bytes, bytes]]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(_Waiting)


def payload_of(waiting: WaitingBatch) -> bytes:
    """A batch as it lies on the disk: numbers are of eight bytes, in the order of this machine."""
    batch, promise = waiting.batch, waiting.promise
    session_id = batch.capture_session_id
    return _ENCODER.encode(
        _Waiting(
            token_hash=waiting.token_hash,
            sensor_id=waiting.sensor_id.bytes,
            received_at=micros(waiting.received_at),
            request_id=waiting.request_id,
            address=waiting.address,
            promise=None
            if promise is None
            else _Promise(
                principal=promise.key.principal,
                key=promise.key.key,
                fingerprint=promise.answer.fingerprint,
                content=promise.answer.content,
                answered_at=micros(promise.answer.answered_at),
            ),
            capture_session_id=None if session_id is None else session_id.bytes,
            batch_id=batch.batch_id,
            columns=[(column.signal, column.timestamps.tobytes(), column.values.tobytes()) for column in batch.columns],
        )
    )


def waiting_of(record: Record | Unreadable) -> WaitingBatch | None:
    """The batch that a record holds; None where it is none, or one of another version that is not understood."""
    if isinstance(record, Unreadable):
        return None
    try:
        return _waiting(record)
    except (msgspec.DecodeError, ValueError, OverflowError, Refusal):
        return None


def _waiting(record: Record) -> WaitingBatch:
    found = _DECODER.decode(record.payload)
    promise, session_id = found.promise, found.capture_session_id
    return WaitingBatch(
        batch=Batch(
            columns=[
                Column(signal, array("q", timestamps), array("d", values))
                for signal, timestamps, values in found.columns
            ],
            capture_session_id=None if session_id is None else UUID(bytes=session_id),
            batch_id=found.batch_id,
        ),
        token_hash=found.token_hash,
        sensor_id=UUID(bytes=found.sensor_id),
        received_at=moment(found.received_at),
        request_id=found.request_id,
        address=found.address,
        promise=None
        if promise is None
        else Promise(
            key=IdempotencyKey(principal=promise.principal, key=promise.key),
            answer=RememberedAnswer(
                fingerprint=promise.fingerprint, content=promise.content, answered_at=moment(promise.answered_at)
            ),
        ),
        number=record.place,
    )
