"""The formats of exports. Each writes parts that make a whole file one after the other."""

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

from experiment_domain.exports.files import COLUMNS, ExportFormat, Stretch, Written
from experiment_domain.exports.jobs import FileFormat
from experiment_domain.telemetry.stamps import texts

if TYPE_CHECKING:
    import pyarrow as pa

BEGINS_FORMULA = frozenset("=+-@\t\r\n＝＋－＠")
"""What begins a cell that a spreadsheet takes for a formula (OWASP, "CSV Injection")."""
# In much of Europe, spreadsheets part cells at semicolons, and do not heed quotes within such a cell.
_FORMULA = re.compile(f"(^|;)(?= *[{re.escape(''.join(sorted(BEGINS_FORMULA)))}])")


class CsvFormat(ExportFormat):
    """RFC 4180 but for its line ends, which are plain. No value is an empty cell.

    Text that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay numbers, negative ones
    too.
    """

    readings = 50_000
    media_type = "text/csv"
    suffix = "csv"

    def begun(self) -> bytes:
        return (",".join(COLUMNS) + "\n").encode()

    def part(self, stretches: Sequence[Stretch], offset: int) -> Written:  # noqa: ARG002
        lines: list[str] = []
        for stretch in stretches:
            before = f"{stretch.run_id},{stretch.capture_session_id},{stretch.sensor_id},{_cell(stretch.signal)},"
            after = f",{_cell(stretch.unit)},{stretch.layer},{stretch.profile_id or ''}\n"
            # `repr` gives the shortest text that reads back as the same number; NaN stands for no value.
            lines += [
                f"{before}{time},{'' if value != value else repr(value)}{after}"  # noqa: PLR0124
                for time, value in zip(texts(stretch.timestamps.tolist()), stretch.values, strict=True)
            ]
        return Written(data="".join(lines).encode())

    def ended(self, notes: Sequence[bytes]) -> bytes:  # noqa: ARG002
        return b""


class JsonFormat(ExportFormat):
    """JSON lines: an object for each reading, null for no value."""

    readings = 50_000
    media_type = "application/jsonl"
    suffix = "jsonl"

    def begun(self) -> bytes:
        return b""

    def part(self, stretches: Sequence[Stretch], offset: int) -> Written:  # noqa: ARG002
        lines: list[str] = []
        for stretch in stretches:
            before = (
                f'{{"run_id":"{stretch.run_id}","capture_session_id":"{stretch.capture_session_id}",'
                f'"sensor_id":"{stretch.sensor_id}","signal":{_json(stretch.signal)},"timestamp":"'
            )
            profile = "null" if stretch.profile_id is None else f'"{stretch.profile_id}"'
            after = f',"unit":{_json(stretch.unit)},"layer":"{stretch.layer}","profile_id":{profile}}}\n'
            lines += [
                f'{before}{time}","value":{"null" if value != value else repr(value)}{after}'  # noqa: PLR0124
                for time, value in zip(texts(stretch.timestamps.tolist()), stretch.values, strict=True)
            ]
        return Written(data="".join(lines).encode())

    def ended(self, notes: Sequence[bytes]) -> bytes:  # noqa: ARG002
        return b""


class ParquetFormat(ExportFormat):
    """Parquet: each part is a row group, and the end of the file says where all of them are.

    A row group names places in its whole file. It is written where it is to lie, into a file of which nothing else is
    there; its own footer is the note of the part, and all of them together make that of the whole.
    """

    readings = 200_000
    media_type = "application/vnd.apache.parquet"
    suffix = "parquet"
    magic = b"PAR1"
    room = 1 << 28
    """Bytes behind the offset that a part may take, far more than it does; on no disk are there more than it takes."""

    def begun(self) -> bytes:
        return self.magic

    def part(self, stretches: Sequence[Stretch], offset: int) -> Written:
        import pyarrow as pa  # noqa: PLC0415 - only who writes Parquet needs it

        table = _table(stretches)
        with NamedTemporaryFile() as file, pa.create_memory_map(file.name, offset + self.room) as sink:
            writer = _parquet_writer(sink)  # which begins the file
            sink.seek(offset)
            writer.write_table(table, row_group_size=len(table))
            size = sink.tell() - offset
            writer.close()
            footer = sink.tell() - offset - size
            return Written(data=sink.read_at(size, offset), note=self.magic + sink.read_at(footer, offset + size))

    def ended(self, notes: Sequence[bytes]) -> bytes:
        import pyarrow as pa  # noqa: PLC0415
        from pyarrow import parquet  # noqa: PLC0415

        written = io.BytesIO()
        if notes:
            metadata, *others = [parquet.read_metadata(pa.BufferReader(note)) for note in notes]
            for other in others:
                metadata.append_row_groups(other)
            metadata.write_metadata_file(written)
        else:
            _parquet_writer(written).close()
        return written.getvalue()[len(self.magic) :]


def _cell(text: str) -> str:
    """Text as a cell: quoted where it needs to be, and no formula."""
    text = _FORMULA.sub(r"\1'", text)
    written = io.StringIO()
    csv.writer(written).writerow([text, ""])  # alone on its line, an empty text would be quoted
    return written.getvalue().removesuffix(",\r\n")


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _schema() -> "pa.Schema":
    import pyarrow as pa  # noqa: PLC0415

    text = pa.dictionary(pa.int32(), pa.string())
    kinds = {"timestamp": pa.timestamp("us", tz="UTC"), "value": pa.float64()}
    optional = ("value", "profile_id")
    return pa.schema([pa.field(name, kinds.get(name, text), nullable=name in optional) for name in COLUMNS])


def _parquet_writer(sink: Any) -> Any:
    from pyarrow import parquet  # noqa: PLC0415

    words = [name for name in COLUMNS if name not in ("timestamp", "value")]
    return parquet.ParquetWriter(sink, _schema(), compression="zstd", use_dictionary=words)  # pyright: ignore[reportArgumentType]


def _table(stretches: Sequence[Stretch]) -> "pa.Table":
    import numpy as np  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    schema = _schema()
    counts = [len(stretch.timestamps) for stretch in stretches]
    values = np.concatenate([np.frombuffer(stretch.values) for stretch in stretches])
    stamps = np.concatenate([np.frombuffer(stretch.timestamps, dtype=np.int64) for stretch in stretches])
    columns: Mapping[str, Any] = {
        "timestamp": pa.array(stamps, schema.field("timestamp").type),
        "value": pa.array(values, mask=np.isnan(values)),
    }

    def column(name: str) -> Any:
        known: dict[str | None, int] = {}
        words = [None if (word := getattr(stretch, name)) is None else str(word) for stretch in stretches]
        places = [-1 if word is None else known.setdefault(word, len(known)) for word in words]
        indices = np.repeat(np.array(places, dtype=np.int32), counts)
        return pa.DictionaryArray.from_arrays(pa.array(indices, mask=indices < 0), pa.array(list(known), pa.string()))

    return pa.Table.from_arrays([columns[name] if name in columns else column(name) for name in COLUMNS], schema=schema)


FORMATS: Mapping[FileFormat, ExportFormat] = {
    FileFormat.CSV: CsvFormat(),
    FileFormat.JSON: JsonFormat(),
    FileFormat.PARQUET: ParquetFormat(),
}
