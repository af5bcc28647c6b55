"""The data directory: whose it is, of which format, and who has it now.

It holds `experiment-service.json` (that it is ours, and of which format), `lock` (held by the process that
started the server), `postgres.lock` (held by the server itself), `postgres.log` and `postgres/`.
"""

import errno
import fcntl
import json
import os
from pathlib import Path

from experiment_adapters.disk import sync_directory

FORMAT = 1
POSTGRES_MAJOR = 18
MARKER = "experiment-service.json"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot be had; the text is one line for the person at the terminal."""


def prepare_data_dir(data_dir: Path) -> None:
    """Make `data_dir` ours, or see that it is; refuse what belongs to somebody else or to another version."""
    try:
        _prepare(data_dir)
    except OSError as error:
        raise unusable(data_dir, error) from error


def _prepare(data_dir: Path) -> None:
    if not data_dir.exists():
        data_dir.mkdir(parents=True)
        # As root, the server runs as somebody else, who has to pass through to its own files.
        data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
    if not data_dir.is_dir():
        raise EmbeddedPostgresError(f"{data_dir} is not a directory")
    marker = data_dir / MARKER
    names = {path.name for path in data_dir.iterdir()}
    if MARKER not in names:
        if any(not name.startswith(f"{MARKER}.") for name in names):
            raise EmbeddedPostgresError(f"{data_dir} is not empty and is not a data directory of experiment-service")
        draft = data_dir / f"{MARKER}.{os.getpid()}"
        with draft.open("w") as file:
            json.dump({"format": FORMAT, "postgresql": POSTGRES_MAJOR}, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(marker)
        sync_directory(data_dir)
    try:
        found = json.loads(marker.read_text())
        format_number, major = int(found["format"]), int(found["postgresql"])
    except (ValueError, TypeError, KeyError) as error:
        raise EmbeddedPostgresError(f"{marker} is damaged") from error
    if format_number > FORMAT:
        raise EmbeddedPostgresError(
            f"{data_dir} was made by a newer experiment-service: format {format_number}, known is {FORMAT}"
        )
    if major != POSTGRES_MAJOR:
        raise EmbeddedPostgresError(
            f"{data_dir} holds data of PostgreSQL {major}; this experiment-service brings {POSTGRES_MAJOR}"
        )


def unusable(data_dir: Path, error: OSError) -> EmbeddedPostgresError:
    """What the system has against the directory, in one line."""
    if error.errno == errno.ENOTDIR:
        return EmbeddedPostgresError(f"cannot use {data_dir} as a data directory: a part of its path is a file")
    where = f" ({os.fsdecode(error.filename)})" if isinstance(error.filename, str | bytes) else ""
    reason = error.strerror or str(error)
    return EmbeddedPostgresError(f"cannot use {data_dir} as a data directory: {reason}{where}")


def lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path`, or None where somebody else has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return descriptor
