"""Columns of numbers are read without an object of each: what comes of a body is what comes of it the other way."""

import json
import time
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_domain.kernel.errors import Refusal
from experiment_domain.telemetry.batches import READINGS
from experiment_http.bodies import ORDINARY, Buffer
from experiment_http.v1 import batches
from experiment_http.v1.batches import FrameMessage, Message
from experiment_http.v1.number_columns import LONG, number_columns

SESSION = "0195798b-02a4-7f6e-8d1c-4b3a2f1e0d9c"
STAMPS = list(range(1_773_051_273_000_000, 1_773_051_273_000_000 + 100_000, 1_000))
VALUES = [place / 7 - 3 for place in range(100)]


def body_of(*columns: Any, **beside: Any) -> bytes:
    return json.dumps({**beside, "columns": columns}).encode()


def told(seq: int | None, batch: Any) -> Any:
    columns = [(column.signal, column.timestamps.tolist(), column.values.tobytes()) for column in batch.columns]
    return seq, batch.capture_session_id, batch.batch_id, columns


def whole(body: Buffer, decoder: Any) -> Any:
    """What is decoded with an object of each number."""
    try:
        return told(*batches._from_any_json(body, decoder))  # pyright: ignore[reportPrivateUsage]
    except Refusal as refusal:
        return refusal.code


def by_numbers(body: Buffer, decoder: Any) -> Any:
    found = number_columns(body, decoder.type)
    if found is None:
        return None
    message, columns = found
    return told(getattr(message, "seq", None), batches._batch(message, columns))  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_columns_of_numbers_are_read_so(kind: type[bytes | bytearray]) -> None:
    column = {"timestamps": STAMPS, "values": VALUES}
    for columns in ([column], [{**column, "signal": "a"}, {"signal": "b", **column}], [{**column, "values": STAMPS}]):
        for beside in ({}, {"capture_session_id": SESSION}, {"capture_session_id": None, "batch_id": "rig4-17"}):
            body = kind(body_of(*columns, **beside))
            assert by_numbers(body, batches._MESSAGE) == whole(body, batches._MESSAGE)  # pyright: ignore[reportPrivateUsage]
    body = kind(body_of(column, seq=7, capture_session_id=SESSION))
    message, _ = number_columns(body, FrameMessage) or (None, [])
    assert isinstance(message, FrameMessage)
    assert (message.seq, message.capture_session_id) == (7, UUID(SESSION))


OTHERS: dict[str, bytes] = {
    "rows": json.dumps({"readings": [{"timestamp": 1, "value": 1.0}] * 100}).encode(),
    "short columns": body_of({"timestamps": STAMPS[:3], "values": VALUES[:3]}),
    "no columns": body_of(batch_id="x" * 2 * LONG),
    "no object": json.dumps([STAMPS, STAMPS, VALUES]).encode(),
    "text among the timestamps": body_of({"timestamps": ["2026-03-09T10:14:33Z", *STAMPS], "values": [1, *VALUES]}),
    "text among the values": body_of({"timestamps": STAMPS, "values": [*VALUES[1:], "1"]}),
    "null among the values": body_of({"timestamps": STAMPS, "values": [*VALUES[1:], None]}),
    "true among the values": body_of({"timestamps": STAMPS, "values": [*VALUES[1:], True]}),
    "a fraction among the timestamps": body_of({"timestamps": [*STAMPS[1:], 1.0], "values": VALUES}),
    "a timestamp of more than 64 bits": body_of({"timestamps": [*STAMPS[1:], 1 << 63], "values": VALUES}),
    "a value of more than 64 bits": body_of({"timestamps": STAMPS, "values": [*VALUES[1:], 1 << 64]}),
    "a value too large": body_of({"timestamps": STAMPS, "values": VALUES}).replace(b"-3.0", b"1e400"),
    "an array among the values": body_of({"timestamps": STAMPS, "values": [VALUES[0], VALUES[1:]]}),
    "an array around the values": body_of({"timestamps": STAMPS, "values": [VALUES]}),
    "fewer values": body_of({"timestamps": STAMPS, "values": VALUES[1:]}),
    "no values": body_of({"timestamps": STAMPS * 2}),
    "values that are none": body_of({"timestamps": STAMPS * 2, "values": "1"}),
    "another name": body_of({"timestamps": STAMPS, "values": VALUES, "unit": "V"}),
    "another name beside": body_of({"timestamps": STAMPS, "values": VALUES}, run_id=SESSION),
    "a signal twice": body_of(*[{"timestamps": STAMPS, "values": VALUES}] * 2),
    "a signal that is a number": body_of({"timestamps": STAMPS, "values": VALUES, "signal": 1}),
    "a name twice": body_of({"timestamps": STAMPS, "values": VALUES}).replace(
        b"{", b'{"batch_id": "a", "batch_id": "b", ', 1
    ),
    "columns twice": body_of({"timestamps": STAMPS, "values": VALUES}).replace(b"{", b'{"columns": [], ', 1),
    "values twice": body_of({"timestamps": STAMPS, "values": VALUES}).replace(b'"values"', b'"values": [], "values"'),
    "a session that is none": body_of({"timestamps": STAMPS, "values": VALUES}, capture_session_id="here"),
    "a name that is too long": body_of({"timestamps": STAMPS, "values": VALUES}, batch_id="x" * 201),
    "an escape": body_of({"timestamps": STAMPS, "values": VALUES}, batch_id="\N{DEGREE SIGN}"),
    "a mark of the order of bytes": b"\xef\xbb\xbf" + body_of({"timestamps": STAMPS, "values": VALUES}),
    "something behind it": body_of({"timestamps": STAMPS, "values": VALUES}) + b"{}",
    "an end too early": body_of({"timestamps": STAMPS, "values": VALUES})[:-1],
    "NaN": body_of({"timestamps": STAMPS, "values": [float("nan"), *VALUES[1:]]}),
    "no UTF-8": body_of({"timestamps": STAMPS, "values": VALUES}, batch_id="x").replace(b'"x"', b'"\xff"'),
    "too many": body_of({"timestamps": [1] * (READINGS + 1), "values": [1] * (READINGS + 1)}),
    "more than an ordinary body": body_of({"timestamps": STAMPS, "values": VALUES}) + b" " * ORDINARY,
    "depth": body_of({"timestamps": STAMPS, "values": VALUES}).replace(
        b"{", b'{"batch_id":' + b'{"a":' * 3_000 + b"1" + b"}" * 3_000 + b",", 1
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_anything_else_is_left_to_who_can_say_what_it_is(name: str) -> None:
    assert number_columns(OTHERS[name], Message) is None


def test_many_names_take_no_longer_than_they_are_many() -> None:
    """An object finds a name by looking through all before it: of 60,000, that would take many seconds."""
    names = {f"{number:x}": 1 for number in range(60_000)}
    body = body_of({"timestamps": STAMPS, "values": VALUES}, **names)
    begun = time.process_time()
    assert number_columns(body, Message) is None
    assert time.process_time() - begun < 2


_INTEGERS = st.one_of(st.integers(), st.integers(-(1 << 64), 1 << 64), st.sampled_from([0, 1 << 53, (1 << 53) + 1]))
_NUMBERS = st.one_of(_INTEGERS.map(str), st.floats(allow_nan=False, allow_infinity=False).map(repr)) | st.sampled_from(
    ["-0", "-0.0", "1e3", "1E-400", "5e-324", "2.2250738585072011e-308", "0.1e1", "123456789012345678901234567890.5"]
)
_ODD = st.sampled_from(
    ["null", "true", '"1"', "[1]", "[]", "{}", "01", "1.", "+1", "", "1e999", "NaN", "\t1 ", '"\\u0031"']
)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    """Bodies that are large enough, and good for the most part."""

    def array(numbers: st.SearchStrategy[str]) -> list[str]:
        odd = [draw(_ODD)] if draw(st.integers(0, 9)) == 0 else []
        return [*draw(st.lists(numbers, max_size=4)), *odd, *["777"] * 600]

    places = count()
    columns: list[str] = []
    for _ in range(draw(st.integers(1, 2))):
        parts = {"timestamps": array(st.integers(-(1 << 63), (1 << 63) - 1).map(str)), "values": array(_NUMBERS)}
        length = 600 if draw(st.integers(0, 9)) else 700
        pairs = [f'"{name}":[{",".join(part[:length])}]' for name, part in parts.items()]
        signals = [f'"signal":"s{next(places)}"'] * 9 + ['"signal":1', '"signal":"s0"', '"unit":"V"']
        pairs += draw(st.lists(st.sampled_from(signals), max_size=1))
        columns.append("{" + ",".join(draw(st.permutations(pairs))) + "}")
    beside = st.sampled_from(
        ['"seq":1', '"seq":1.0', '"seq":-1', f'"capture_session_id":"{SESSION}"', '"capture_session_id":null',
         '"batch_id":"a"', '"batch_id":"b"', '"batch_id":[]', '"batch_id":""', '"columns":[]', '"x":{"y":"z"}']
    )  # fmt: skip
    pairs = [f'"columns":[{",".join(columns)}]', *draw(st.lists(beside, max_size=2))]
    return ("{" + ", ".join(draw(st.permutations(pairs))) + "}").encode()


@given(body=_bodies(), is_frame=st.booleans())
def test_what_is_read_so_is_what_is_decoded(body: bytes, is_frame: bool) -> None:
    decoder = batches._FRAME if is_frame else batches._MESSAGE  # pyright: ignore[reportPrivateUsage]
    try:
        found = by_numbers(body, decoder)
    except Refusal as refusal:
        found = refusal.code
    if found is not None:
        assert found == whole(body, decoder)
