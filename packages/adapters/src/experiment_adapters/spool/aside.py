"""Batches that were refused when they left the spool: one file each, to be read by people and sent again."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from experiment_adapters.disk import sync_directory
from experiment_adapters.spool.format import Record, Unreadable
from experiment_domain.kernel.errors import Refusal
from experiment_domain.spool import WaitingBatch, message_of
from experiment_domain.telemetry.batches import micros


class Aside:
    """The folder `refused`: `<received>-<place>.json` says why, and what can be sent again as it is."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "refused"
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)

    def keep(self, waiting: WaitingBatch, refusal: Refusal, at: str) -> Path:
        """Write down a batch and why it was refused."""
        content = {
            "code": refusal.code,
            "detail": refusal.detail,
            "errors": getattr(refusal, "errors", []),
            "facts": dict(refusal.facts),
            "received_at": waiting.received_at.isoformat(),
            "refused_at": at,
            "sensor_id": str(waiting.sensor_id),
            "request_id": waiting.request_id,
            "address": waiting.address,
            "message": message_of(waiting.batch),
        }
        name = f"{micros(waiting.received_at)}-{waiting.number:016x}.json"
        return self._write(name, msgspec.json.encode(content, enc_hook=str))

    def keep_unreadable(self, found: Record | Unreadable, content: bytes) -> Path:
        """Write down what is no record, though it stands where one was acknowledged."""
        return self._write(f"{found.place:016x}.damaged", content)

    def count(self) -> tuple[int, int]:
        """How many files there are, and their bytes."""
        sizes = list(self._sizes())
        return len(sizes), sum(sizes)

    def _sizes(self) -> Iterator[int]:
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(".new"):
                    yield entry.stat().st_size

    def _write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        draft = path.with_name(f"{name}.new")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        sync_directory(self._directory)
        return path
