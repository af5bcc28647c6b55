"""Batches as they are sent: messages in JSON or MessagePack, decoded straight into columns."""

import re
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar
from uuid import UUID

import msgspec
from attrs import frozen
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from experiment_domain.kernel.errors import Invalid, Refusal
from experiment_domain.telemetry.batches import (
    BATCH_ID_LENGTH,
    DEFAULT_SIGNAL,
    EARLIEST,
    LATEST,
    READINGS,
    REPORTED,
    SIGNAL_LENGTH,
    SIGNALS,
    BadReadings,
    Batch,
    Column,
    micros,
)
from experiment_http.bodies import Buffer
from experiment_http.columns import SentColumn
from experiment_http.problems import TooLarge
from experiment_http.strict_json import malformed
from experiment_http.structs import invalid
from experiment_http.times import Moment
from experiment_http.v1.number_columns import number_columns

LARGEST = 16 << 20
"""The most bytes of a message, unpacked."""
SAFE_INTEGER = 2**53 - 1
_ESCAPE = re.compile(rb"\\.", re.DOTALL)
_PLACE = re.compile(r" - at `\$\.(timestamp|value)s?(?:\[(\d+)\])?`$")
_TOO_LONG = f"of length <= {READINGS}"
_NOT_A_TIME = "the timestamp is neither a whole number of microseconds nor an RFC 3339 time with a zone"
_NOT_A_NUMBER = "the value is not a number"

S = TypeVar("S", bound=Struct)
Time = Annotated[int, Meta(description="Microseconds since the Unix epoch.")] | Moment
SignalName = Annotated[str, Meta(description="`value` where it is left out.")]
BatchId = Annotated[str, Meta(max_length=BATCH_ID_LENGTH)]
Seq = Annotated[int, Meta(ge=0, le=SAFE_INTEGER)]


class Reading(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One reading."""

    timestamp: Time
    value: float
    signal: SignalName | UnsetType = UNSET


class Readings(Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """Readings of one signal, timestamps and values side by side."""

    timestamps: list[Time]
    values: list[float]
    signal: SignalName | UnsetType = UNSET


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A batch in one of two shapes: `readings`, one by one, or `columns`, one per signal.

    Without `capture_session_id` it goes to the sensor's only running session. With `batch_id`, or else by its
    content, the same batch is known again.
    """

    example: ClassVar[Mapping[str, Any]] = {
        "capture_session_id": "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c",
        "batch_id": "rig4-000017",
        "columns": [
            {
                "signal": "temperature",
                "timestamps": [1773051273000000, 1773051274000000],
                "values": [26.0199, 26.0258],
            }
        ],
    }

    capture_session_id: UUID | UnsetType | None = UNSET
    batch_id: BatchId | UnsetType | None = UNSET
    readings: list[Reading] | UnsetType = UNSET
    columns: list[Readings] | UnsetType = UNSET


class FrameMessage(Message, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A message in a frame of a socket: its answer carries the same number."""

    seq: Seq


class PackedMessage(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A message in MessagePack, its parts still packed: only so can be seen how many names each of them has."""

    seq: Seq | UnsetType = UNSET
    capture_session_id: UUID | UnsetType | None = UNSET
    batch_id: BatchId | UnsetType | None = UNSET
    readings: Annotated[list[Raw], Meta(max_length=READINGS)] | UnsetType = UNSET
    columns: Annotated[list[Raw], Meta(max_length=SIGNALS)] | UnsetType = UNSET


class Numbered(Struct, frozen=True):
    """What of a refused frame is still of interest."""

    seq: Seq


@frozen
class Frame:
    """What a frame of a socket says: a batch, or why it is none; without a `seq`, its answer cannot be told by it."""

    seq: int | None
    batch: Batch | Refusal


_MESSAGE = msgspec.json.Decoder(Message)
_FRAME = msgspec.json.Decoder(FrameMessage)
_PACKED = msgspec.msgpack.Decoder(PackedMessage)
_PACKED_READING = msgspec.msgpack.Decoder(Reading)
_PACKED_READINGS = msgspec.msgpack.Decoder(Readings)


def batch_from(body: Buffer) -> Batch:
    """The batch that a body in JSON is. Raises `Malformed`, `Invalid`, `BadReadings` or `TooLarge`."""
    return _from_json(body, _MESSAGE)[1]


def batch_from_packed(body: Buffer) -> Batch:
    """The batch that a body in MessagePack is. Raises `Malformed`, `Invalid`, `BadReadings` or `TooLarge`."""
    seq, batch = _from_packed(body)
    if seq is not None:
        raise Invalid.at("seq", "is unknown")
    return batch


def frame_from(data: str | bytes) -> Frame:
    """What a frame says: one of text is JSON, one of bytes is MessagePack."""
    is_text = isinstance(data, str)
    body = data.encode() if is_text else data
    try:
        if len(body) > LARGEST:
            return Frame(None, TooLarge.than(LARGEST))
        seq, batch = _from_json(body, _FRAME) if is_text else _from_packed(body)
    except Refusal as refusal:
        return Frame(_seq_of(body, msgspec.json.decode if is_text else msgspec.msgpack.decode), refusal)
    if seq is None:
        return Frame(None, Invalid.at("seq", "is required"))
    return Frame(seq, batch)


def _seq_of(body: Buffer, decode: Callable[..., Any]) -> int | None:
    try:
        return decode(body, type=Numbered).seq
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _from_json(body: Buffer, decoder: "msgspec.json.Decoder[Any]") -> tuple[int | None, Batch]:
    plain = number_columns(body, decoder.type)
    if plain is not None:
        message, columns = plain
        return getattr(message, "seq", None), _batch(message, columns)
    return _from_any_json(body, decoder)


def _from_any_json(body: Buffer, decoder: "msgspec.json.Decoder[Any]") -> tuple[int | None, Batch]:
    try:
        message = decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _explained(body, error) from None
    except UnicodeDecodeError as error:
        raise malformed(f"The body is not UTF-8: {error.reason}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(f"The body is not JSON: {error}.") from None
    _check_shape(message)
    if message.columns is not UNSET:
        columns, strings = _from_columns(message.columns)
    else:
        columns, strings = _from_rows(message.readings)
    seq = getattr(message, "seq", None)
    _check_names(body, strings + _strings_beside(message) + (seq is not None))
    return seq, _batch(message, columns)


def _from_packed(body: Buffer) -> tuple[int | None, Batch]:
    try:
        message: Any = _unpacked(body, _PACKED)
        _check_shape(message)
        if message.columns is not UNSET:
            columns, _ = _from_columns(_parts(message.columns, _PACKED_READINGS))
        else:
            columns, _ = _from_rows(_parts(message.readings, _PACKED_READING))  # pyright: ignore[reportArgumentType]
    except msgspec.ValidationError as error:
        if _TOO_LONG in str(error):
            raise TooLarge("too_many_readings", f"A batch has at most {READINGS:,} readings.") from None
        raise invalid(error) from None
    except UnicodeDecodeError as error:
        raise malformed(f"A text in the body is not UTF-8: {error.reason}.") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise malformed(f"The body is not MessagePack: {error}.") from None
    return None if message.seq is UNSET else message.seq, _batch(message, columns)


def _check_shape(message: Any) -> None:
    if (message.readings is UNSET) is (message.columns is UNSET):
        raise Invalid.at("readings", "either readings or columns must be given, and not both")


def _batch(message: Any, columns: Sequence[Column]) -> Batch:
    return Batch(
        columns=columns,
        capture_session_id=message.capture_session_id or None,
        batch_id=None if message.batch_id is UNSET else message.batch_id,
    )


def _parts(packed: Sequence[Raw], decoder: "msgspec.msgpack.Decoder[S]") -> list[S]:
    """The rows or columns of a packed message. Raises `BadReadings`, which names the first bad ones."""
    parts: list[S] = []
    bad: list[dict[str, Any]] = []
    for number, raw in enumerate(packed):
        try:
            parts.append(_unpacked(raw, decoder))
        except msgspec.ValidationError as error:
            found = _PLACE.search(str(error))
            if found is None:
                raise
            message = _NOT_A_TIME if found[1] == "timestamp" else _NOT_A_NUMBER
            bad.append({"index": int(found[2] or number), "signal": _signal_of(raw), "message": message})
            if len(bad) == REPORTED:
                break
    if bad:
        raise BadReadings(bad)
    return parts


def _signal_of(raw: Raw) -> str:
    class Named(Struct):
        signal: str = DEFAULT_SIGNAL

    try:
        return msgspec.msgpack.decode(raw, type=Named).signal[:SIGNAL_LENGTH]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DEFAULT_SIGNAL


def _unpacked(packed: Buffer | Raw, decoder: "msgspec.msgpack.Decoder[S]") -> S:
    """A struct; the map that it was must have as many names as the struct has been given, or one occurred twice."""
    struct = decoder.decode(packed)
    head = bytes(memoryview(packed)[:5])
    names = head[0] & 0x0F if head[0] < 0xA0 else int.from_bytes(head[1 : 3 if head[0] == 0xDE else 5])
    if names != sum(getattr(struct, name) is not UNSET for name in struct.__struct_fields__):
        raise malformed("A name occurs twice in one map.")
    return struct


def _check_names(body: Buffer, strings: int) -> None:
    """Refuse objects in which a name occurs twice: the body then has more strings than were decoded from it."""
    quotes = (_ESCAPE.sub(b"", body) if b"\\" in body else body).count(b'"')
    if quotes != 2 * strings:
        raise malformed("A name occurs twice in one object.")


def _strings_beside(message: Message) -> int:
    strings = 1  # the name of readings or columns
    for value in (message.capture_session_id, message.batch_id):
        if value is not UNSET:
            strings += 1 if value is None else 2
    return strings


def _from_columns(sent: Sequence[Readings]) -> tuple[list[Column], int]:
    """Columns as columns, and how many strings they were made of."""
    _check_count(sum(len(column.timestamps) for column in sent))
    columns: dict[str, Column] = {}
    strings = 0
    for place, column in enumerate(sent):
        signal = DEFAULT_SIGNAL if column.signal is UNSET else column.signal
        strings += 2 if column.signal is UNSET else 4
        if len(column.timestamps) != len(column.values):
            raise Invalid.at(
                f"columns[{place}]",
                f"must have as many values as timestamps: {len(column.values):,} and {len(column.timestamps):,}",
            )
        if signal in columns:
            raise Invalid.at(f"columns[{place}].signal", "must not be that of another column")
        timestamps: Any = column.timestamps
        try:
            stamps = _packed("q", timestamps)
        except struct.error:  # some are text, or too large
            whole = [time if time.__class__ is int else micros(time) for time in timestamps]
            strings += sum(time.__class__ is not int for time in timestamps)
            stamps = _stamps(whole, signal, None)
        columns[signal] = SentColumn(signal, stamps, _packed("d", column.values))
    return list(columns.values()), strings


def _packed(kind: str, items: Sequence[Any]) -> "array[Any]":
    """An array of these; made of a list directly, it would take twice as long. Raises `struct.error`."""
    packed = array(kind)
    packed.frombytes(struct.pack(f"{len(items)}{kind}", *items))
    return packed


def _from_rows(rows: Sequence[Reading]) -> tuple[list[Column], int]:
    """Rows as columns, one per signal, and how many strings they were made of."""
    _check_count(len(rows))
    grouped: dict[str, tuple[list[int], list[float], list[int]]] = {}
    strings = 2 * len(rows)
    for index, row in enumerate(rows):
        signal: Any = row.signal
        if signal is UNSET:
            signal = DEFAULT_SIGNAL
        else:
            strings += 2
        time: Any = row.timestamp
        if time.__class__ is not int:
            time = micros(time)
            strings += 1
        group = grouped.get(signal)
        if group is None:
            group = grouped[signal] = ([], [], [])
        group[0].append(time)
        group[1].append(row.value)
        group[2].append(index)
    alone = len(grouped) == 1
    return [
        SentColumn(signal, _stamps(times, signal, indexes), array("d", values), None if alone else indexes)
        for signal, (times, values, indexes) in grouped.items()
    ], strings


def _stamps(times: list[int], signal: str, indexes: Sequence[int] | None) -> "array[int]":
    try:
        return array("q", times)
    except OverflowError:
        message = "the timestamp is outside the years 1 to 9999"
        wrong = [place for place, time in enumerate(times) if not EARLIEST <= time <= LATEST][:REPORTED]
        places = wrong if indexes is None else [indexes[place] for place in wrong]
        raise BadReadings([{"index": place, "signal": signal, "message": message} for place in places]) from None


def _check_count(count: int) -> None:
    if count > READINGS:
        raise TooLarge("too_many_readings", f"A batch has at most {READINGS:,} readings; this one has {count:,}.")


def _explained(body: Buffer, error: msgspec.ValidationError) -> Refusal:
    """The refusal of a message that does not fit: which readings are bad, if it is them, and why."""
    if "out of range" in str(error):
        return malformed("The body holds a number that is too large for a float64.")
    try:
        message = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as worse:
        return malformed(f"The body is not JSON: {worse}.")
    bad = [problem for _, problem in zip(range(REPORTED), _bad_readings(message), strict=False)]
    return BadReadings(bad) if bad else invalid(error)


def _bad_readings(message: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(message, dict):
        return
    for index, reading in _objects(message.get("readings")):
        if "timestamp" in reading and "value" in reading:
            yield from _problem(index, reading, reading["timestamp"], reading["value"])
    for _, column in _objects(message.get("columns")):
        times, values = column.get("timestamps"), column.get("values")
        if isinstance(times, list) and isinstance(values, list):
            for index, (time, value) in enumerate(zip(times, values, strict=False)):
                yield from _problem(index, column, time, value)


def _objects(value: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    for index, item in enumerate(value if isinstance(value, list) else ()):
        if isinstance(item, dict):
            yield index, item


def _problem(index: int, owner: Mapping[str, Any], time: Any, value: Any) -> Iterator[dict[str, Any]]:
    signal = owner.get("signal", DEFAULT_SIGNAL)
    name = signal[:SIGNAL_LENGTH] if isinstance(signal, str) else DEFAULT_SIGNAL
    if not _is_time(time):
        yield {"index": index, "signal": name, "message": _NOT_A_TIME}
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        yield {"index": index, "signal": name, "message": _NOT_A_NUMBER}


def _is_time(time: Any) -> bool:
    if isinstance(time, str):
        try:
            msgspec.convert(time, Moment)
        except msgspec.ValidationError:
            return False
        return True
    return isinstance(time, int) and not isinstance(time, bool)
