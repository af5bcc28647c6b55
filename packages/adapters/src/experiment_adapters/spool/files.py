"""The spool of one machine, as one process of the API uses it: many batches share one wait for the disk."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar
from uuid import UUID

from attrs import evolve, field, frozen
from structlog import get_logger

from experiment_adapters.spool.aside import Aside
from experiment_adapters.spool.format import Record, Unreadable, payload_of, waiting_of
from experiment_adapters.spool.index import Index
from experiment_adapters.spool.log import SEGMENT_BYTES, Log, record_bytes
from experiment_adapters.spool.settings import SpoolSettings
from experiment_domain.kernel.errors import Refusal
from experiment_domain.spool import MOMENT, Draining, Promise, Spool, SpoolFull, SpoolStatus, WaitingBatch

P = ParamSpec("P")
T = TypeVar("T")

GROUP_BYTES = 8 << 20
"""What is written at once holds so many bytes, or one batch."""
WINDOW_BYTES = 8 << 20
"""What is taken out at once holds so many bytes, or one batch."""

log = get_logger("experiment_adapters.spool")


@frozen(eq=False)
class _Asked:
    """A batch that somebody waits to see kept."""

    waiting: WaitingBatch
    payload: bytes
    answer: "asyncio.Future[Promise | None]" = field(factory=lambda: asyncio.get_running_loop().create_future())


class FileSpool(Spool):
    """Batches in the log of a directory. All processes of a machine that are given the same one share it."""

    def __init__(self, settings: SpoolSettings, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open what lies in the directory, or make it. Raises `OSError`."""
        if settings.directory is None:
            raise TypeError("a spool needs a directory")
        self._settings = settings
        self._log = Log(settings.directory, segment_bytes=segment_bytes)
        self._aside = Aside(settings.directory)
        self._guard = threading.Lock()
        self._index = Index()
        self._indexed = self._log.taken
        self._oldest: tuple[int, datetime | None] = (-1, None)
        self._asked: list[_Asked] = []
        self._news = asyncio.Event()
        self._is_open = False

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[None]:
        """Take batches until the block ends; what was asked for by then is written."""
        self._is_open = True
        writing = asyncio.create_task(self._write())
        try:
            yield
        finally:
            self._is_open = False
            self._news.set()
            await writing
            self.close()

    def close(self) -> None:
        """Let go of the files."""
        self._log.close()

    async def keep(self, waiting: WaitingBatch) -> Promise | None:
        if not self._is_open:
            raise RuntimeError("the spool is not open")
        asked = _Asked(waiting, payload_of(waiting))
        self._asked.append(asked)
        self._news.set()
        return await asked.answer

    def holds(self, sensor_id: UUID) -> bool:
        self._catch_up()
        return self._index.holds(sensor_id, self._log.taken)

    def sensor_of(self, token_hash: bytes) -> UUID | None:
        self._catch_up()
        return self._index.sensor_of(token_hash, self._log.taken)

    @asynccontextmanager
    async def draining(self) -> AsyncGenerator[Draining | None]:
        with self._log.taking() as is_mine:
            yield FileDraining(self._log, self._aside) if is_mine else None

    @property
    def is_empty(self) -> bool:
        return self._log.taken >= self._log.end

    @property
    def is_moving(self) -> bool:
        return self._log.idle < MOMENT

    def status(self, at: datetime) -> SpoolStatus:
        refused, refused_bytes = self._aside.count()
        room = self._log.size() + refused_bytes
        return SpoolStatus(
            batches=self._log.waiting,
            bytes=room,
            oldest_at=self._oldest_at(),
            refused=refused,
            is_full=room >= self._settings.max_bytes or self._is_too_old(at),
        )

    async def _write(self) -> None:
        """Write what is asked for, all that has come together while the disk was busy at once."""
        while self._is_open or self._asked:
            if not self._asked:
                await self._news.wait()
                self._news.clear()
                continue
            group = self._next_group()
            try:
                outcomes = await _on_disk(self._keep, group)
            except Exception as error:  # noqa: BLE001 - whoever asked has to be answered
                outcomes = [error] * len(group)
            for asked, outcome in zip(group, outcomes, strict=True):
                if asked.answer.done():
                    continue  # whoever asked has left
                if isinstance(outcome, Exception):
                    asked.answer.set_exception(outcome)
                else:
                    asked.answer.set_result(outcome)

    def _next_group(self) -> list[_Asked]:
        group: list[_Asked] = []
        size = 0
        for asked in self._asked:
            size += len(asked.payload)
            if group and size > GROUP_BYTES:
                break
            group.append(asked)
        del self._asked[: len(group)]
        return group

    def _keep(self, group: Sequence[_Asked]) -> list[Promise | Exception | None]:
        """Keep what can be kept of a group: for each what came of it."""
        outcomes: list[Promise | Exception | None] = [None] * len(group)
        with self._log.appending():
            self._catch_up()
            chosen = list(self._choose(group, outcomes))
            if chosen:
                try:
                    places = self._log.append([group[number].payload for number in chosen])
                except OSError as error:
                    log.error("spool not written", reason=error.strerror or str(error))
                    full = SpoolFull("its spool cannot be written")
                    full.__cause__ = error
                    for number in chosen:
                        outcomes[number] = full
                    return outcomes
                with self._guard:
                    for number, place in zip(chosen, places, strict=True):
                        self._index.add(evolve(group[number].waiting, number=place), self._log.taken)
                    self._indexed = self._log.end
        return outcomes

    def _choose(self, group: Sequence[_Asked], outcomes: list[Promise | Exception | None]) -> Iterator[int]:
        """Those of a group that are to be written; of the others it is noted why not."""
        room = self._settings.max_bytes - self._log.size() - self._aside.count()[1]
        promised: dict[object, Promise] = {}
        for number, asked in enumerate(group):
            promise = asked.waiting.promise
            if promise is not None:
                earlier = promised.get(promise.key) or self._index.promise(promise.key, self._log.taken)
                if earlier is not None:
                    outcomes[number] = _kept_or_refused(earlier, promise)
                    continue
            room -= record_bytes(asked.payload)
            if room < 0:
                outcomes[number] = SpoolFull("its spool is full")
                room += record_bytes(asked.payload)
            elif self._is_too_old(asked.waiting.received_at):
                outcomes[number] = SpoolFull("has been away for longer than its spool may take batches")
            else:
                if promise is not None:
                    promised[promise.key] = promise
                yield number

    def _is_too_old(self, now: datetime) -> bool:
        oldest_at = self._oldest_at()
        return oldest_at is not None and now - oldest_at > timedelta(seconds=self._settings.max_age)

    def _oldest_at(self) -> datetime | None:
        """When the batch came that has waited longest."""
        taken = self._log.taken
        if self._oldest[0] != taken or self._oldest[1] is None:
            first = next(filter(None, map(waiting_of, self._log.read(taken))), None)
            self._oldest = (taken, None if first is None else first.received_at)
        return self._oldest[1]

    def _catch_up(self) -> None:
        """Learn what other processes have kept."""
        if self._indexed == self._log.end:
            return
        with self._guard:
            end, taken = self._log.end, self._log.taken
            if taken >= self._indexed:
                self._index.clear()
            for found in self._log.read(max(self._indexed, taken)):
                waiting = waiting_of(found)
                if waiting is not None and found.next <= end:
                    self._index.add(waiting, taken)
            self._indexed = end


class FileDraining(Draining):
    """Takes batches out of the log, as the only process that does."""

    def __init__(self, log_: Log, aside: Aside) -> None:
        self._log = log_
        self._aside = aside
        self._up_to = log_.taken
        self._count = 0

    async def oldest(self, most: int) -> Sequence[WaitingBatch]:
        return await _on_disk(self._read, most)

    async def set_aside(self, waiting: WaitingBatch, refusal: Refusal, at: datetime) -> None:
        path = await _on_disk(self._aside.keep, waiting, refusal, at.isoformat())
        log.error(
            "spooled batch refused",
            code=refusal.code,
            reason=refusal.detail,
            sensor_id=str(waiting.sensor_id),
            batch_id=waiting.batch.batch_id,
            readings=len(waiting.batch),
            file=str(path),
        )

    async def done(self) -> None:
        await _on_disk(self._log.take, self._up_to, self._count)

    def _read(self, most: int) -> list[WaitingBatch]:
        found: list[WaitingBatch] = []
        size = 0
        self._up_to, self._count = self._log.taken, 0
        for read in self._log.read(self._log.taken):
            waiting = waiting_of(read)
            if waiting is None:
                self._keep_unreadable(read)
            else:
                size += read.next - read.place
                if found and (len(found) == most or size > WINDOW_BYTES):
                    break
                found.append(waiting)
            self._up_to = read.next
        self._count = len(found)
        if not found and self._up_to != self._log.taken:
            self._log.take(self._up_to, 0)
        return found

    def _keep_unreadable(self, found: Record | Unreadable) -> None:
        path = self._aside.keep_unreadable(found, self._log.content(found.place, found.next))
        log.error("spool is damaged", bytes=found.next - found.place, file=str(path))


def _kept_or_refused(earlier: Promise, promise: Promise) -> Promise | Exception:
    try:
        earlier.answer.check_same_request(promise.answer.fingerprint)
    except Refusal as refusal:
        return refusal
    return earlier


async def _on_disk(use: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What waits for the disk, in a thread. It is waited for to its end, come what may: it has hold of the files."""
    under_way = asyncio.ensure_future(asyncio.to_thread(use, *args, **kwargs))
    try:
        return await asyncio.shield(under_way)
    except asyncio.CancelledError:
        await asyncio.wait([under_way])
        raise
