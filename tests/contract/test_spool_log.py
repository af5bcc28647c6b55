"""The spool's log: what was acknowledged is read again, and nothing else is, whatever became of the files."""

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiment_adapters.spool.format import Record, Unreadable
from experiment_adapters.spool.log import Log

SMALL = 300
"""Segments of so few bytes that a log has several."""
payloads = st.binary(min_size=0, max_size=120)
groups = st.lists(st.lists(payloads, min_size=1, max_size=4), min_size=1, max_size=6)


@contextmanager
def a_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="spool-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as path:
        yield Path(path) / "spool"


@contextmanager
def opened(directory: Path) -> Iterator[Log]:
    log = Log(directory, segment_bytes=SMALL)
    try:
        yield log
    finally:
        log.close()


def append(log: Log, group: Sequence[bytes]) -> None:
    with log.appending():
        log.append(group)


def written(directory: Path, groups: Sequence[Sequence[bytes]]) -> list[bytes]:
    """A log of these groups; all the payloads."""
    with opened(directory) as log:
        for group in groups:
            append(log, group)
    return [payload for group in groups for payload in group]


def read(log: Log) -> list[bytes]:
    return [found.payload for found in log.read(log.taken) if isinstance(found, Record)]


def last_segment(directory: Path) -> Path:
    return max((directory / "segments").iterdir())


def is_part(some: Sequence[bytes], whole: Sequence[bytes]) -> bool:
    """Whether these are some of the whole, in its order."""
    rest = iter(whole)
    return all(one in rest for one in some)


@given(groups)
def test_what_is_appended_is_read_in_order(groups: list[list[bytes]]) -> None:
    with a_directory() as directory:
        everything = written(directory, groups)
        with opened(directory) as log:
            assert read(log) == everything
            assert log.waiting == len(everything)


@given(groups, st.binary(min_size=1, max_size=200), st.lists(payloads, min_size=1, max_size=3))
def test_a_torn_tail_is_cut_off(groups: list[list[bytes]], torn: bytes, more: list[bytes]) -> None:
    """What a process that was killed had written half, or what a loss of power left there."""
    with a_directory() as directory:
        everything = written(directory, groups)
        with last_segment(directory).open("ab") as file:
            file.write(torn)
        with opened(directory) as log:
            assert read(log) == everything
            append(log, more)
            assert read(log) == [*everything, *more]
            assert not any(isinstance(found, Unreadable) for found in log.read(0))


@given(groups, st.lists(payloads, min_size=1, max_size=4), st.data())
def test_a_group_that_was_written_in_part_harms_nothing_before_it(
    groups: list[list[bytes]], last: list[bytes], data: st.DataObject
) -> None:
    """Cut anywhere behind the acknowledged end, and with any of its pages lost: some of the rest may be read."""
    with a_directory() as directory:
        everything = written(directory, groups)
        with opened(directory) as log:
            acknowledged, state = log.end, (directory / "state").read_bytes()
            append(log, last)
            segments = {segment.path: segment for segment in log.segments()}
        (directory / "state").write_bytes(state)
        segment = segments[last_segment(directory)]
        content = bytearray(segment.path.read_bytes())
        first = max(acknowledged - segment.start, 0)
        start = data.draw(st.integers(first, len(content)))
        end = data.draw(st.integers(start, len(content)))
        content[start:end] = bytes(end - start)
        segment.path.write_bytes(content[: data.draw(st.integers(first, len(content)))])
        with opened(directory) as log:
            found = read(log)
            assert found[: len(everything)] == everything
            assert is_part(found[len(everything) :], last)
            append(log, [b"next"])
            assert read(log) == [*found, b"next"]


@given(groups, st.data())
def test_what_is_damaged_is_told_and_the_rest_is_read(groups: list[list[bytes]], data: st.DataObject) -> None:
    with a_directory() as directory:
        everything = written(directory, groups)
        path = data.draw(st.sampled_from(sorted((directory / "segments").iterdir())))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with opened(directory) as log:
            found = list(log.read(log.taken))
            records = [one.payload for one in found if isinstance(one, Record)]
            damaged = [one for one in found if isinstance(one, Unreadable)]
            assert len(damaged) == 1
            assert log.content(damaged[0].place, damaged[0].next)
            assert len(records) == len(everything) - 1
            assert is_part(records, everything)


@given(groups, st.data())
def test_a_log_that_was_cut_short_goes_on(groups: list[list[bytes]], data: st.DataObject) -> None:
    """Though no disk may lose what it has said to have: what is left is read, and what comes is not mixed with it."""
    with a_directory() as directory:
        everything = written(directory, groups)
        path = last_segment(directory)
        os.truncate(path, data.draw(st.integers(0, path.stat().st_size)))
        with opened(directory) as log:
            before = read(log)
            assert before == everything[: len(before)]
            append(log, [b"next"])
            assert read(log) == [*before, b"next"]


@given(groups)
def test_without_its_marks_a_log_begins_anew_with_what_it_has(groups: list[list[bytes]]) -> None:
    with a_directory() as directory:
        everything = written(directory, groups)
        (directory / "state").unlink()
        with opened(directory) as log:
            assert read(log) == everything
            assert log.waiting == len(everything)
            append(log, [b"next"])
            assert read(log) == [*everything, b"next"]


@given(groups, st.integers(0, 20))
def test_what_is_taken_out_is_gone(groups: list[list[bytes]], count: int) -> None:
    with a_directory() as directory:
        everything = written(directory, groups)
        count = min(count, len(everything))
        with opened(directory) as log, log.taking() as is_mine:
            assert is_mine
            places = [found.next for found in log.read(log.taken)]
            log.take(places[count - 1] if count else log.taken, count)
            assert read(log) == everything[count:]
            if count == len(everything):
                assert log.segments() == []
        with opened(directory) as log:
            assert read(log) == everything[count:]
            assert log.waiting == len(everything) - count
            append(log, [b"next"])
            assert read(log) == [*everything[count:], b"next"]
            assert log.waiting == len(everything) - count + 1


def test_nothing_is_acknowledged_before_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path / "spool") as log:
        done: list[tuple[str, str, int]] = []

        def noted(name: str) -> None:
            real = getattr(os, name)

            def call(descriptor: int, *more: object) -> object:
                result = real(descriptor, *more)
                done.append((name, Path(f"/proc/self/fd/{descriptor}").readlink().name, log.end))
                return result

            monkeypatch.setattr(os, name, call)

        noted("write")
        noted("fsync")
        append(log, [b"one", b"two"])
        append(log, [b"three"])
        segment = log.segments()[0].path.name
        # The first group and the name of its segment, then the next one; none was acknowledged while it was under way.
        assert [(name, where) for name, where, _ in done] == [
            ("write", segment),
            ("fsync", segment),
            ("fsync", "segments"),
            ("write", segment),
            ("fsync", segment),
        ]
        assert [end for _, _, end in done[:3]] == [0] * 3
        assert done[3][2] == done[4][2] < log.end


@pytest.mark.parametrize("name", ["write", "fsync"])
def test_what_the_disk_refused_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with opened(tmp_path / "spool") as log:
        append(log, [b"one"])
        real = getattr(os, name)

        def fail(descriptor: int, *more: object) -> object:
            if name == "write":
                real(descriptor, more[0][:7])  # type: ignore[index]
            raise OSError(errno.ENOSPC if name == "write" else errno.EIO, "no")

        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="no"):
                append(log, [b"two"])
        assert read(log) == [b"one"]
        append(log, [b"three"])
        assert read(log) == [b"one", b"three"]
        # After a failed fsync nobody knows what the disk has: the segment gets no more.
        assert len(log.segments()) == 2
    with opened(tmp_path / "spool") as log:
        assert read(log) == [b"one", b"three"]


def test_only_one_takes(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as one, opened(tmp_path / "spool") as other:
        with one.taking() as is_mine, other.taking() as is_theirs:
            assert is_mine
            assert not is_theirs
        with other.taking() as is_theirs:
            assert is_theirs


def test_nobody_else_may_look(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as log:
        append(log, [b"one"])
        for path in (tmp_path / "spool").rglob("*"):
            assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


WRITER = """
import sys
from pathlib import Path
from experiment_adapters.spool.log import Log

name, log = sys.argv[2], Log(Path(sys.argv[1]), segment_bytes=20_000)
for number in range(1_000_000):
    group = [f"{name} {number} {place} ".encode() * 40 for place in range(number % 4 + 1)]
    with log.appending():
        log.append(group)
    for payload in group:
        sys.stdout.write(payload[: len(payload) // 40].decode() + "\\n")
    sys.stdout.flush()
"""


def test_processes_that_share_a_log_and_are_killed(tmp_path: Path) -> None:
    """What a process said was appended is in the log once, in its order, however it ended."""
    dice = random.Random(20_260_309)
    said: dict[str, list[str]] = {}
    for generation in range(2):
        writers = {
            name: subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path / "spool"), name], stdout=subprocess.PIPE, text=True
            )
            for name in (f"{generation}-{number}" for number in range(2))
        }
        for writer in writers.values():
            assert writer.stdout is not None
            writer.stdout.readline()  # it has begun
        time.sleep(dice.uniform(0.1, 0.3))
        for name, writer in dice.sample(sorted(writers.items()), 2):
            writer.send_signal(signal.SIGKILL)
            assert writer.stdout is not None
            rest = writer.stdout.read().splitlines()
            writer.wait()
            writer.stdout.close()
            with suppress(IndexError):
                if not rest[-1].endswith(" "):
                    rest.pop()
            said[name] = [f"{name} 0 0 ", *rest]
    with opened(tmp_path / "spool") as log:
        found = list(log.read(log.taken))
        assert all(isinstance(one, Record) for one in found)
        texts = [one.payload[: len(one.payload) // 40].decode() for one in found if isinstance(one, Record)]
        assert len(set(texts)) == len(texts)
        for name, mine in said.items():
            kept = [text for text in texts if text.split()[0] == name]
            assert kept[: len(mine)] == mine
            assert len(kept) - len(mine) <= 4  # the group of which it could not say so any more
        assert log.waiting == len(found)
