"""The formats of exports: no live formula, every number as it was, and parts that make one file."""

import csv
import io
import json
import math
import random
import struct
from array import array
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from entities import fresh
from experiment_adapters.exports.formats import BEGINS_FORMULA, FORMATS, ParquetFormat
from experiment_domain.exports.files import COLUMNS, Stretch
from experiment_domain.exports.jobs import FileFormat
from experiment_domain.telemetry.batches import EARLIEST, LATEST, moment
from experiment_domain.telemetry.stamps import text, texts
from experiment_domain.telemetry.store import Layer

NUMBERS = (
    0.0, -0.0, 1.0, -1.0, -273.15, 0.1, 1 / 3, 1e16, 1e22, -1e22, 1e308, -1.7976931348623157e308, 5e-324, -5e-324,
    2.2250738585072014e-308, 1e-7, 123456789.123456789, 9007199254740993.0,
)  # fmt: skip
NAUGHTY = (
    '=HYPERLINK("http://evil.example","x")', "=1+1", "+1+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", "\t=1", "\r=1",
    "\n=1", " =1", "  -1", "＝1+1", "＠x", '"=1', "a,=1", 'a","=1', "a\n=1", "%0A-1", "'=1", "", " ", "NaN", "Infinity",
    "null", "undefined", "1E5", "0x10", "1/2", "田中さんにあげて下さい", "🍣", "Ω≈ç√", "\u202etest", "\ufeff=1",
    "\u0085", "\u2028", "x;=1+1;", "x; @SUM(A1)",
    "<script>alert(1)</script>", "'; DROP TABLE runs", "$(touch x)", "\\", '"', "''", '""', "m/s²", "°C", "%", "-",
)  # fmt: skip
SEPARATE = frozenset('",\n\r')


def a_stretch(
    stamps: Sequence[int], values: Sequence[float], signal: str = "value", unit: str = "°C", **more: Any
) -> Stretch:
    fields = {"run_id": fresh(), "capture_session_id": fresh(), "sensor_id": fresh(), "profile_id": fresh(), **more}
    return Stretch(
        signal=signal,
        layer=Layer.PHYSICAL if fields["profile_id"] else Layer.RAW,
        unit=unit,
        timestamps=array("q", stamps),
        values=array("d", values),
        **fields,
    )


def whole(kind: FileFormat, *parts: Sequence[Stretch]) -> bytes:
    """The file of these parts, each written by itself."""
    written = FORMATS[kind]
    data, notes = written.begun(), list[bytes]()
    for stretches in parts:
        part = written.part(stretches, len(data))
        data += part.data
        if part.note is not None:
            notes.append(part.note)
    return data + written.ended(notes)


Row = dict[str, Any]


def read_csv(data: bytes) -> list[Row]:
    rows: list[Row] = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    return [
        {**row, "value": float(row["value"]) if row["value"] else None, "profile_id": row["profile_id"] or None}
        for row in rows
    ]


def read_json(data: bytes) -> list[Row]:
    return [json.loads(line, parse_constant=_no_json) for line in data.decode().split("\n") if line]


def _no_json(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def read_parquet(data: bytes) -> list[Row]:
    rows = parquet.read_table(pa.BufferReader(data)).to_pylist()
    return [{**row, "timestamp": text(row["timestamp"])} for row in rows]


READ = {FileFormat.CSV: read_csv, FileFormat.JSON: read_json, FileFormat.PARQUET: read_parquet}


def expected(*stretches: Stretch) -> list[Row]:
    return [
        {
            "run_id": str(stretch.run_id),
            "capture_session_id": str(stretch.capture_session_id),
            "sensor_id": str(stretch.sensor_id),
            "signal": stretch.signal,
            "timestamp": text(moment(stamp)),
            "value": None if math.isnan(value) else value,
            "unit": stretch.unit,
            "layer": str(stretch.layer),
            "profile_id": None if stretch.profile_id is None else str(stretch.profile_id),
        }
        for stretch in stretches
        for stamp, value in zip(stretch.timestamps, stretch.values, strict=True)
    ]


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


@pytest.mark.parametrize("kind", FileFormat)
def test_numbers_come_back_bit_for_bit(kind: FileFormat) -> None:
    chance = random.Random(7)
    drawn = [struct.unpack("<d", chance.randbytes(8))[0] for _ in range(5_000)]
    values = [*NUMBERS, *(value for value in drawn if math.isfinite(value)), math.nan]
    stretch = a_stretch(range(len(values)), values)
    rows = READ[kind](whole(kind, [stretch]))
    assert [bits(row["value"]) for row in rows] == [*map(bits, values[:-1]), None]


@pytest.mark.parametrize("kind", FileFormat)
def test_parts_make_one_file(kind: FileFormat) -> None:
    chance = random.Random(11)
    parts: list[list[Stretch]] = []
    for number in range(6):
        stretches = [
            a_stretch(
                [chance.randrange(-(10**15), 10**16) for _ in range(count)],
                [chance.choice([chance.random(), math.nan]) for _ in range(count)],
                signal=f"signal {number}",
                profile_id=fresh() if number % 2 else None,
            )
            for count in (1, 7, 300)
        ]
        parts.append(stretches)
    data = whole(kind, *parts)
    everything = [stretch for stretches in parts for stretch in stretches]
    found = READ[kind](data)
    assert found == expected(*everything)
    assert [list(row) for row in found] == [list(COLUMNS)] * len(found)
    if kind is FileFormat.PARQUET:
        assert parquet.ParquetFile(pa.BufferReader(data)).metadata.num_row_groups == 6


@pytest.mark.parametrize("kind", FileFormat)
def test_a_file_without_readings_can_be_read(kind: FileFormat) -> None:
    data = whole(kind)
    assert READ[kind](data) == []
    if kind is FileFormat.CSV:
        assert data.decode() == ",".join(COLUMNS) + "\n"
    if kind is FileFormat.PARQUET:
        schema = parquet.read_schema(pa.BufferReader(data))
        assert schema.names == list(COLUMNS)
        assert schema.field("timestamp").type == pa.timestamp("us", tz="UTC")
        assert schema.field("value").type == pa.float64()


def _parts(cell: str) -> list[str]:
    """What a spreadsheet that parts cells at semicolons shows of one, but for the mark of text before each."""
    return [part.removeprefix("'") for part in cell.split(";")]


def check_no_formula(data: bytes, wanted: Stretch) -> None:
    """Whatever a spreadsheet makes of it: no cell begins a formula but numbers, and all text is there."""
    header, *rows = csv.reader(io.StringIO(data.decode(), newline=""))
    assert len(rows) == len(wanted.values)
    for row, value in zip(rows, wanted.values, strict=True):
        cells = dict(zip(header, row, strict=True))
        assert float(cells["value"]) == value
        assert not cells["value"].startswith("'")
        for name in ("signal", "unit"):
            for cell in cells[name].split(";"):
                assert cell.lstrip(" ")[:1] not in BEGINS_FORMULA
            assert _parts(cells[name]) == _parts(getattr(wanted, name))
    # Nor where it does not know of quotes, or parts cells elsewhere: what is in quotes is never left open.
    assert data.decode().count('"') % 2 == 0


@pytest.mark.parametrize("naughty", NAUGHTY)
def test_no_text_becomes_a_formula(naughty: str) -> None:
    stretch = a_stretch([0, 1], [-1.5, 2.0], signal=naughty, unit=naughty)
    check_no_formula(whole(FileFormat.CSV, [stretch]), stretch)
    for kind in (FileFormat.JSON, FileFormat.PARQUET):
        assert READ[kind](whole(kind, [stretch])) == expected(stretch)


@given(st.text(max_size=20), st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False))
def test_no_text_at_all_becomes_a_formula(signal: str, unit: str, value: float) -> None:
    stretch = a_stretch([0], [value], signal=signal, unit=unit)
    check_no_formula(whole(FileFormat.CSV, [stretch]), stretch)
    assert read_json(whole(FileFormat.JSON, [stretch])) == expected(stretch)


def test_negative_numbers_stay_numbers() -> None:
    stretch = a_stretch([0], [-273.15])
    assert b",-273.15," in whole(FileFormat.CSV, [stretch])
    assert b'"value":-273.15,' in whole(FileFormat.JSON, [stretch])


def test_a_row_group_names_places_far_into_its_file() -> None:
    written, stretch = ParquetFormat(), a_stretch([0], [1.0], run_id=UUID(int=1))
    offset = 3 * 10**12  # three terabytes, of which there is nothing on any disk
    part = written.part([stretch], offset)
    assert part.note is not None
    column = parquet.read_metadata(pa.BufferReader(part.note)).row_group(0).column(0)
    assert offset <= (column.dictionary_page_offset or 0) < column.data_page_offset < offset + len(part.data)


@given(st.lists(st.integers(EARLIEST, LATEST)), st.integers(EARLIEST, LATEST - 10**9), st.integers(1, 10**8))
def test_many_times_are_written_as_each_by_itself(anywhere: list[int], first: int, step: int) -> None:
    stamps = [*anywhere, *range(first, first + 9 * step, step)]
    assert texts(stamps) == [text(moment(stamp)) for stamp in stamps]
