"""The log: segments in a directory, to which several processes append, and from which one at a time takes.

What is acknowledged lies before the mark `end`, which is set when the disk has it; what is taken out lies before the
mark `taken`. Both are in a file that all processes share in memory: a process that is killed leaves them as they are,
and after a loss of power they are found anew.

An append is made under the lock of `append.lock`, which a process that is killed lets go of. What it left half written
lies behind `end`, and is cut off by the next one.
"""

import fcntl
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import frozen
from structlog import get_logger

from experiment_adapters.disk import sync_directory
from experiment_adapters.spool.format import (
    RECORD_HEADER,
    Record,
    Unreadable,
    read_segment,
    record_at,
)
from experiment_domain.spool import SpoolFull

SEGMENT_BYTES = 16 << 20
"""A segment takes records until it has so many bytes."""
PATIENCE = 5.0
"""Seconds for which an append waits for those of other processes."""
_END, _TAKEN, _KEPT, _DONE, _MOVED = range(5)
_MARKS = 5 * 8

log = get_logger("experiment_adapters.spool")


@frozen
class Segment:
    """A file of the log: the place at which it begins, and the one at which it ends."""

    path: Path
    start: int
    end: int


class Log:
    """The log in one directory, as one process sees it. Its methods block, and may be called from any thread."""

    def __init__(self, directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._segments_dir = directory / "segments"
        self._segment_bytes = segment_bytes
        self._guard = threading.Lock()
        self._distrusted: int | None = None
        self._writing: tuple[int, int] | None = None
        """The segment that is open for appending: where it begins, and its descriptor."""
        for path in (directory, self._segments_dir):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._segments_dir.chmod(0o700)
        self._append_lock = _opened(directory / "append.lock")
        self._take_lock = _opened(directory / "take.lock")
        self._state = _opened(directory / "state")
        with self._appending():
            if os.fstat(self._state).st_size < _MARKS:
                os.ftruncate(self._state, _MARKS)
            self._memory = mmap.mmap(self._state, _MARKS)
            self._marks = memoryview(self._memory).cast("Q")
            self._settle()
            with self.taking() as is_mine:
                if is_mine:
                    self._count()
            sync_directory(directory)

    @property
    def end(self) -> int:
        """The place behind everything that is acknowledged."""
        return self._marks[_END]

    @property
    def taken(self) -> int:
        """The place before which everything has been taken out."""
        return self._marks[_TAKEN]

    @property
    def waiting(self) -> int:
        """How many records wait."""
        return max(0, self._marks[_KEPT] - self._marks[_DONE])

    @property
    def idle(self) -> float:
        """Seconds since records were last taken out, as far as is known."""
        return abs(time.monotonic_ns() - self._marks[_MOVED]) / 1e9

    def close(self) -> None:
        """Let go of the files."""
        self._close_segment()
        self._marks.release()
        self._memory.close()
        for descriptor in (self._append_lock, self._take_lock, self._state):
            os.close(descriptor)

    def segments(self) -> list[Segment]:
        """The files of the log, in order."""
        found: list[Segment] = []
        with os.scandir(self._segments_dir) as entries:
            for entry in entries:
                with suppress(FileNotFoundError, ValueError):
                    start = int(entry.name.removesuffix(".log"), 16)
                    found.append(Segment(Path(entry.path), start, start + entry.stat().st_size))
        return sorted(found, key=lambda segment: segment.start)

    def size(self) -> int:
        """How much room the segments take."""
        return sum(segment.end - segment.start for segment in self.segments())

    @contextmanager
    def appending(self) -> Iterator[None]:
        """Hold off every other append; `end` stands still until the block ends."""
        with self._appending():
            self._settle()
            yield

    def append(self, payloads: Sequence[bytes]) -> list[int]:
        """Write records and wait until the disk has them; their places. To be called while `appending`.

        Raises `OSError` where the disk takes none of them.
        """
        start, descriptor = self._segment_to_write()
        before = place = self.end
        records: list[bytes] = []
        places: list[int] = []
        for payload in payloads:
            records.append(record_at(place, payload))
            places.append(place)
            place += len(records[-1])
        try:
            _write(descriptor, b"".join(records))
            os.fsync(descriptor)
            if before == start:
                sync_directory(self._segments_dir)  # its name is new
        except OSError:
            # What a failed fsync leaves behind in memory would look as if it were on the disk.
            self._distrusted = start
            self._close_segment()
            with suppress(OSError):
                if before == start:
                    self._path(start).unlink()
                else:
                    os.truncate(self._path(start), before - start)
            raise
        self._marks[_END] = place
        self._marks[_KEPT] += len(places)
        return places

    def read(self, place: int) -> Iterator[Record | Unreadable]:
        """What is acknowledged, from a place on."""
        end = self.end
        for segment in self.segments():
            if segment.end <= place or segment.start >= end:
                continue
            try:
                descriptor = os.open(segment.path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # taken out meanwhile
            try:
                yield from read_segment(descriptor, segment.start, max(place, segment.start), min(segment.end, end))
            finally:
                os.close(descriptor)

    def content(self, place: int, end: int) -> bytes:
        """The bytes between two places of a segment, whatever they are."""
        for segment in self.segments():
            if segment.start <= place < segment.end:
                with segment.path.open("rb") as file:
                    file.seek(place - segment.start)
                    return file.read(end - place)
        return b""

    @contextmanager
    def taking(self) -> Iterator[bool]:
        """The right to take records out, until the block ends; False where another process has it."""
        if not _try_lock(self._take_lock):
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._take_lock, fcntl.LOCK_UN)

    def take(self, place: int, count: int) -> None:
        """Have taken out so many records, all that lie before a place; to be called while `taking`."""
        self._marks[_TAKEN] = place
        self._marks[_DONE] += count
        self._marks[_MOVED] = time.monotonic_ns()
        segments = self.segments()
        if segments and segments[0].end <= place:
            # Lost with the power, the mark would lead to batches a second time; that does no harm, but takes time.
            self._memory.flush()
        for segment in segments[:-1]:
            if segment.end <= place:
                segment.path.unlink(missing_ok=True)
        if place == self.end:
            self._empty(place)

    def _empty(self, place: int) -> None:
        with self._appending():
            self._settle()
            if place == self.end:
                self._marks[_DONE] = self._marks[_KEPT]  # also of what was damaged
                for segment in self.segments():
                    segment.path.unlink(missing_ok=True)

    @contextmanager
    def _appending(self) -> Iterator[None]:
        with self._guard:
            deadline = time.monotonic() + PATIENCE
            while not _try_lock(self._append_lock):
                if time.monotonic() > deadline:
                    raise SpoolFull("another process does not let go of its spool")
                time.sleep(0.001)
            try:
                yield
            finally:
                fcntl.flock(self._append_lock, fcntl.LOCK_UN)

    def _settle(self) -> None:
        """Make `end` the end of the last segment: nobody is writing now, though somebody may have been killed."""
        segments = self.segments()
        if not segments:
            self._marks[_END] = max(self.end, self.taken)
            return
        last = segments[-1]
        if self.end == last.end:
            return
        if last.end < self.end:
            log.error("spool segment is shorter than it was", segment=last.path.name, missing=self.end - last.end)
            return  # the next one begins at `end`
        end, count = self._whole_end(last)
        if end < last.end:
            log.warning("spool tail cut off", segment=last.path.name, bytes=last.end - end)
            os.truncate(last.path, end - last.start)
        self._marks[_END] = end
        self._marks[_KEPT] += count

    def _whole_end(self, segment: Segment) -> tuple[int, int]:
        """Where the last whole record of a segment ends, and how many lie behind the mark."""
        end, count = max(self.end, segment.start), 0
        descriptor = os.open(segment.path, os.O_RDONLY)
        try:
            for found in read_segment(descriptor, segment.start, end, segment.end):
                if isinstance(found, Record):
                    end, count = found.next, count + 1
        finally:
            os.close(descriptor)
        return end, count

    def _count(self) -> None:
        """Put right, after a loss of power, from where on records wait, and how many do."""
        segments = self.segments()
        taken = min(self.taken, self.end)
        if segments and taken < segments[0].start:
            taken = segments[0].start
        if not segments:
            taken = self.end
        self._marks[_TAKEN] = taken
        self._marks[_DONE] = 0
        self._marks[_KEPT] = sum(isinstance(found, Record) for found in self.read(taken))

    def _segment_to_write(self) -> tuple[int, int]:
        """The segment to which the next record goes, a new one where there is none that is fit."""
        segments = self.segments()
        last = segments[-1] if segments else None
        if (
            last is None
            or last.end != self.end
            or last.end - last.start >= self._segment_bytes
            or last.start == self._distrusted
        ):
            return self._new_segment(self.end)
        if self._writing is None or self._writing[0] != last.start:
            self._close_segment()
            self._writing = (last.start, os.open(last.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC))
        return self._writing

    def _new_segment(self, start: int) -> tuple[int, int]:
        self._close_segment()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(self._path(start), flags, 0o600)
        self._writing = (start, descriptor)
        return self._writing

    def _close_segment(self) -> None:
        if self._writing is not None:
            os.close(self._writing[1])
            self._writing = None

    def _path(self, start: int) -> Path:
        return self._segments_dir / f"{start:016x}.log"


def record_bytes(payload: bytes) -> int:
    """How much room a payload takes in the log."""
    return RECORD_HEADER + len(payload)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]
