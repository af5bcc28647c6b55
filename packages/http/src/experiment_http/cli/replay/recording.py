"""Recorded CSV files: found out, checked to the last line, and read into columns."""

import csv
import hashlib
import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import frozen

from experiment_http.cli.failure import CommandFailed
from experiment_http.cli.replay.times import IsoTimes, TimeFormat, time_format_of

DELIMITERS = (";", ",", "\t")
SAMPLE = 1_000
"""How many rows tell what a column is."""
SIGNAL_LENGTH = 100
_GAPS = frozenset({"", "nan"})
_UNIT = re.compile(r"\S\s*[\[(]([^\[\]()]{1,50})[\])]$")


@frozen(eq=False)
class Channel:
    """What one column recorded: its readings in the order of the file, gaps left out."""

    column: str
    signal: str
    timestamps: "array[int]"
    values: "array[float]"

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def unit(self) -> str:
        """The unit, where the column's name ends with one in brackets."""
        found = _UNIT.search(self.signal)
        return found[1].strip() if found else ""


@frozen(eq=False)
class Recording:
    """A file that can be replayed. `sha256` is that of the file as it is on the disk."""

    path: Path
    sha256: str
    time_column: str
    channels: Sequence[Channel]

    @property
    def name(self) -> str:
        """The name of the file, without where it lies."""
        return self.path.name

    @property
    def origin(self) -> Mapping[str, Any]:
        """What its run is known by: it stands in the run's metadata."""
        return {
            "file": self.name,
            "sha256": self.sha256,
            "time_column": self.time_column,
            "columns": [channel.column for channel in self.channels],
        }

    def __len__(self) -> int:
        return sum(map(len, self.channels))


def read_recording(
    path: Path, *, time_column: str | None = None, delimiter: str | None = None, columns: Sequence[str] | None = None
) -> Recording:
    """Read and check a whole file. Raises `CommandFailed`, which names the line where one is broken."""
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        sheet = _Sheet(path, delimiter or _delimiter_of(path))
        return sheet.recording(sha256, time_column, columns)
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{path} is not a CSV file in UTF-8") from error


def _delimiter_of(path: Path) -> str:
    """The delimiter that cuts the first lines into the most cells, all of them alike if possible."""

    def fitness(delimiter: str) -> tuple[bool, int]:
        widths = [len(row) for _, row in islice(_rows(path, delimiter), 20)]
        return len(set(widths)) == 1 and widths[0] > 1, widths[0] if widths else 0

    return max(DELIMITERS, key=fitness)


def _rows(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the number of the line on which each ends."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        try:
            for row in reader:
                if row and any(cell.strip() for cell in row):
                    yield reader.line_num, row
        except csv.Error as error:
            raise CommandFailed(f"{path}, line {reader.line_num}: {error}") from error


class _Sheet:
    """A CSV file with a header and equally long rows."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path = path
        self._delimiter = delimiter
        head = list(islice(_rows(path, delimiter), SAMPLE + 1))
        if not head:
            raise CommandFailed(f"{path} is empty")
        (_, header), *sample = head
        self._header = [" ".join(name.split()) for name in header]
        self._sample = [[cell.strip() for cell in row] for _, row in sample if len(row) == len(header)]
        if any(IsoTimes().micros(name) is not None or _is_number(name) for name in self._header):
            raise CommandFailed(f"{path}, line {head[0][0]}: a header with the names of the columns is needed")
        if len(self._header) < 2:
            raise CommandFailed(f"{path} has one column only; is {delimiter!r} its delimiter?")
        if not sample:
            raise CommandFailed(f"{path} has no readings: there is nothing below its header")
        if not self._sample:
            line, row = head[1]
            raise CommandFailed(f"{path}, line {line}: {len(row)} cells, the header has {len(header)}")

    def recording(self, sha256: str, time_column: str | None, columns: Sequence[str] | None) -> Recording:
        """All of it, as far as it is wanted."""
        time_place, time_format = self._time(time_column)
        places = self._places(columns, time_place)
        timestamps: array[int] = array("q")
        values = [array("d") for _ in places]
        width = len(self._header)
        for line, row in islice(_rows(self._path, self._delimiter), 1, None):
            if len(row) != width:
                raise CommandFailed(f"{self._path}, line {line}: {len(row)} cells, the header has {width}")
            stamp = time_format.micros(row[time_place].strip())
            if stamp is None:
                raise self._broken(line, time_place, row, "not a time" if row[time_place].strip() else "no time")
            timestamps.append(stamp)
            for place, found in zip(places, values, strict=True):
                found.append(self._number(line, place, row))
        channels = [
            _channel(self._header[place], timestamps, found) for place, found in zip(places, values, strict=True)
        ]
        if not any(map(len, channels)):
            raise CommandFailed(f"{self._path} has no readings: the replayed columns are empty")
        recording = Recording(
            self._path, sha256, self._header[time_place], [channel for channel in channels if len(channel)]
        )
        _check_names(recording)
        return recording

    def _time(self, wanted: str | None) -> tuple[int, TimeFormat]:
        places = range(len(self._header)) if wanted is None else [self._place(wanted)]
        for place in places:
            found = time_format_of([row[place] for row in self._sample], detect=wanted is None)
            if found is not None:
                return place, found
        if wanted is not None:
            raise CommandFailed(f"{self._path}: the column {wanted} holds no times")
        raise CommandFailed(f"{self._path}: no column holds times; name it with --time-column")

    def _places(self, wanted: Sequence[str] | None, time_place: int) -> list[int]:
        """Which columns are replayed: the wanted ones, or all with a name and mostly numbers."""
        if wanted is not None:
            places = [self._place(name) for name in wanted]
            if time_place in places:
                raise CommandFailed(f"{self._path}: {self._header[time_place]} is the column of the times")
        else:
            places = [
                place
                for place, name in enumerate(self._header)
                if place != time_place and name and _mostly_numbers(row[place] for row in self._sample)
            ]
        if not places:
            raise CommandFailed(f"{self._path} has no readings: no column holds numbers")
        names = [self._header[place] for place in places]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CommandFailed(f"{self._path}: the column {twice} occurs twice")
        return places

    def _place(self, name: str) -> int:
        wanted = " ".join(name.split())
        found = [place for place, known in enumerate(self._header) if known == wanted]
        if not found:
            known = ", ".join(name for name in self._header if name)
            raise CommandFailed(f"{self._path} has no column {wanted}; it has {known}")
        if len(found) > 1:
            raise CommandFailed(f"{self._path}: the column {wanted} occurs twice")
        return found[0]

    def _number(self, line: int, place: int, row: Sequence[str]) -> float:
        """The value of a cell, NaN where it is a gap."""
        cell = row[place].strip()
        try:
            value = float(cell) if cell else math.nan
        except ValueError:
            value = math.inf
        if math.isinf(value) or (math.isnan(value) and cell.lower() not in _GAPS):
            raise self._broken(line, place, row, "not a finite number")
        return value

    def _broken(self, line: int, place: int, row: Sequence[str], problem: str) -> CommandFailed:
        cell = row[place].strip()
        shown = f": {cell[:40]!r}" if cell else ""
        return CommandFailed(f"{self._path}, line {line}, column {self._header[place]}: {problem}{shown}")


def _check_names(recording: Recording) -> None:
    """Refuse what the service would, which otherwise shows when the first things have been made in it."""
    from experiment_domain.kernel.errors import Invalid  # noqa: PLC0415 - the help needs none of it
    from experiment_domain.kernel.values import checked_json, checked_name  # noqa: PLC0415

    try:
        for channel in recording.channels:
            checked_name(f"the signal of column {channel.column!r}", channel.signal, longest=SIGNAL_LENGTH)
        checked_json("its columns", {"replay": recording.origin})
    except Invalid as refusal:
        raise CommandFailed(f"{recording.path} has names that cannot be kept: {refusal.detail}") from refusal


def _channel(column: str, timestamps: "array[int]", values: "array[float]") -> Channel:
    gaps = any(map(math.isnan, values))
    kept = [place for place, value in enumerate(values) if not math.isnan(value)] if gaps else None
    if kept is not None:
        timestamps = array("q", [timestamps[place] for place in kept])
        values = array("d", [values[place] for place in kept])
    signal = "".join(character if character.isprintable() else " " for character in column)
    return Channel(column, signal[:SIGNAL_LENGTH].strip(), timestamps, values)


def _mostly_numbers(cells: Iterable[str]) -> bool:
    """Whether most cells are numbers; then one that is none is a broken row, not a label."""
    given = [cell for cell in cells if cell.lower() not in _GAPS]
    return sum(map(_is_number, given)) * 2 > len(given)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
