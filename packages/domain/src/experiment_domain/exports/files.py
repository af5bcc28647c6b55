"""What exports are written with and where they are kept: the ports of formats and files."""

from abc import abstractmethod
from array import array
from collections.abc import AsyncGenerator, Collection, Sequence
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.errors import Refusal, Unavailable
from experiment_domain.telemetry.store import Layer


@frozen(kw_only=True)
class ExportPolicy:
    """How long files are kept, and how much may be asked for.

    `per_user` is how many exports one user may have under way in one project, `readings` how many one of them may
    hold.
    """

    kept_for: timedelta = timedelta(days=7)
    per_user: int = 5
    readings: int = 1_000_000_000


@frozen(kw_only=True, eq=False)
class Stretch:
    """Readings that follow each other in one layer of one series. In `values`, NaN stands for no physical value.

    `timestamps` are in microseconds since the Unix epoch, `unit` is that of the values.
    """

    run_id: UUID
    capture_session_id: UUID
    sensor_id: UUID
    signal: str
    layer: Layer
    profile_id: UUID | None
    unit: str
    timestamps: "array[int]"
    values: "array[float]"


COLUMNS = (
    "run_id",
    "capture_session_id",
    "sensor_id",
    "signal",
    "timestamp",
    "value",
    "unit",
    "layer",
    "profile_id",
)
"""The columns of every export, in this order."""


@frozen(kw_only=True)
class Written:
    """A part as it is kept, and what the end of the file has to know of it."""

    data: bytes
    note: bytes | None = None


class ExportFormat(Protocol):
    """Writes the parts of a file, each by itself, so that they make the whole file one after the other."""

    readings: int
    """How many readings make a part."""
    media_type: str
    suffix: str
    """How the names of such files end."""

    @abstractmethod
    def begun(self) -> bytes:
        """What comes before the first part."""

    @abstractmethod
    def part(self, stretches: Sequence[Stretch], offset: int) -> Written:
        """Some readings, at least one, of a file that has `offset` bytes so far."""

    @abstractmethod
    def ended(self, notes: Sequence[bytes]) -> bytes:
        """What comes after the last part, given the notes of all of them in order."""


class ExportFiles(Protocol):
    """Keeps the parts of files, by names with `/` in them. Raises `Unavailable` where it cannot be reached."""

    @abstractmethod
    async def put(self, name: str, data: bytes) -> None:
        """Keep a part: whole or not at all, and in the place of one that had this name."""

    @abstractmethod
    def chunks(self, name: str) -> AsyncGenerator[bytes]:
        """A part, piece by piece. Raises `Unavailable` where it is not there."""

    @abstractmethod
    async def names(self, folder: str) -> Sequence[str]:
        """The names of all parts in a folder."""

    @abstractmethod
    async def delete(self, names: Collection[str]) -> None:
        """Remove parts; those that are not there are none to be removed."""


class NoExportFiles(ExportFiles):
    """What there is where no place was given: nothing can be exported. `remedy` says how one is given."""

    def __init__(self, remedy: str = "") -> None:
        self._remedy = remedy

    def nowhere(self) -> Refusal:
        """The refusal of exports."""
        return Refusal(
            "no_export_files", f"This service was given no place to keep exports in. {self._remedy}".rstrip()
        )

    async def put(self, name: str, data: bytes) -> None:  # noqa: ARG002
        """Refuse."""
        raise self.nowhere()

    async def chunks(self, name: str) -> AsyncGenerator[bytes]:
        """Refuse."""
        raise Unavailable(f"This service was given no place for exports, so that {name} is not found.")
        yield b""

    async def names(self, folder: str) -> Sequence[str]:  # noqa: ARG002
        """None."""
        return ()

    async def delete(self, names: Collection[str]) -> None:
        """Nothing to do."""
