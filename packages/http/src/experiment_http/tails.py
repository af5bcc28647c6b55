"""What is new in one place, read once for all who follow it; each of them goes on from wherever it was."""

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

import structlog
from attrs import define, field, frozen

from experiment_domain.kernel.errors import Conflict, Refusal
from experiment_domain.kernel.news import Hints, News

POLL = 2.5
"""Seconds after which it is looked for news of which nobody has told."""
PAUSE = 0.01
"""Seconds from one read to the next: what comes in between is read together."""
AGAIN_AFTER = 1.0
"""Seconds after which a read that failed is tried again."""
FRAMES = 2_000
BYTES = 4 << 20
"""So many frames, and bytes of them, are held for those who are not as quick as others."""
READS = 4
"""How many reads of one process are under way at once: connections to the database are for requests, too."""

log = structlog.get_logger("experiment_http.tails")


@frozen
class Spot:
    """Where a reader goes on: behind a place, and, of what has the `position` behind it, behind what was sent of it."""

    place: str
    position: int = 0
    sent: int = 0


@frozen
class Frame:
    """One event as it is sent, what it is about, and the spot behind it; without one, it is not to be resumed from."""

    content: bytes
    about: Any = None
    spot: Spot | None = None
    is_last: bool = False


@frozen(kw_only=True)
class Found:
    """What a read has found; `last` is sent after it, and nothing after that."""

    frames: Sequence[Frame]
    place: str
    more: bool
    last: Frame | None = None


class Source(Protocol):
    """Where frames come from. Two with the same key are the same."""

    @property
    @abstractmethod
    def key(self) -> Hashable:
        """What tells it from others."""

    @property
    @abstractmethod
    def topic(self) -> str:
        """Of what there is news when it has something new."""

    @abstractmethod
    async def latest(self) -> str:
        """The place behind everything that is there now."""

    @abstractmethod
    async def read(self, spot: Spot, until: str | None = None) -> Found:
        """What is behind a spot. Raises `Conflict` of one that is not known any more."""


@frozen
class Rest:
    """Where a tail has come to: all that is before the place has a lower number."""

    place: str
    number: int


@define
class Tail:
    """The news of one source, numbered as they come. Of these, only the latest are held."""

    source: Source
    limit: asyncio.Semaphore
    followers: int = 0
    lost: int = 0
    _frames: deque[Frame] = field(factory=deque[Frame])
    _bytes: int = 0
    _first: int = 0
    _rest: Rest | None = None
    _is_over: bool = False
    _hints: Hints | None = None
    _asked: list["asyncio.Future[Rest]"] = field(factory=list["asyncio.Future[Rest]"])
    _waiting: set[asyncio.Event] = field(factory=set[asyncio.Event])

    @property
    def rest(self) -> Rest | None:
        """Where it has come to; None before the first read."""
        return self._rest

    async def run(self, news: News) -> None:
        """Read what is new, for as long as anything can be."""
        with news.of(self.source.topic) as self._hints:
            while not self._is_over:
                asked, self._asked = self._asked, []
                try:
                    await self._read()
                except Exception as error:
                    if not isinstance(error, Refusal):
                        log.exception("tail_failed", topic=self.source.topic, exc_info=error)
                    self._asked = asked + self._asked
                    await asyncio.sleep(AGAIN_AFTER)
                    continue
                self._answer(asked)
                await asyncio.sleep(PAUSE)
                await self._hints.wait(0.0 if self._asked else POLL)
        self._answer(self._asked)

    async def refreshed(self) -> Rest:
        """Where it has come to after a read that begins from now on."""
        if self._is_over and self._rest is not None:
            return self._rest
        answer: asyncio.Future[Rest] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        if self._hints is not None:
            self._hints.give()
        return await answer

    async def read(self, spot: Spot, until: str | None = None) -> Found:
        """What the source has behind a spot; not too many of these at once."""
        async with self.limit:
            return await self.source.read(spot, until)

    def holds(self, number: int) -> bool:
        """Whether what has that number, or will have it, is still held."""
        return number >= self._first

    @property
    def end(self) -> int:
        """The number that the next frame will have."""
        return self._first + len(self._frames)

    @property
    def front(self) -> int:
        """The number from which on somebody goes on who skips what is there: only the very last frame is for all."""
        return self.end - 1 if self._is_over else self.end

    def since(self, number: int) -> Sequence[Frame]:
        """The frames from a number on, which is held."""
        return [self._frames[place] for place in range(number - self._first, len(self._frames))]

    async def wait(self, number: int, seconds: float) -> None:
        """Return when there is a frame of that number, at the latest after `seconds`."""
        if self.end > number:
            return
        news = asyncio.Event()
        self._waiting.add(news)
        try:
            async with asyncio.timeout(seconds):
                await news.wait()
        except TimeoutError:
            return
        finally:
            self._waiting.discard(news)

    async def _read(self) -> None:
        if self._rest is None:
            async with self.limit:
                self._rest = Rest(await self.source.latest(), 0)
        place = self._rest.place
        while True:
            try:
                found = await self.read(Spot(place))
            except Conflict:
                # Not even what was the latest place is known any more: everybody has to begin anew.
                async with self.limit:
                    self._rest = Rest(await self.source.latest(), self.end)
                self.lost += 1
                self._wake()
                return
            for frame in found.frames:
                self._add(frame)
            place = found.place
            self._rest = Rest(place, self.end)
            if found.last is not None and not found.more:
                self._is_over = True
                self._add(found.last)
            self._wake()
            if not found.more:
                return

    def _add(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._bytes += len(frame.content)
        while len(self._frames) > FRAMES or (self._bytes > BYTES and len(self._frames) > 1):
            self._bytes -= len(self._frames.popleft().content)
            self._first += 1

    def _answer(self, asked: Sequence["asyncio.Future[Rest]"]) -> None:
        for answer in asked:
            if not answer.done() and self._rest is not None:
                answer.set_result(self._rest)

    def _wake(self) -> None:
        for news in self._waiting:
            news.set()


@frozen
class Skipped:
    """What a follower is told that was too slow: everything up to now was left out."""


@frozen
class Lost:
    """What a follower is told whose spot is not known any more: it begins anew from now on."""


@define
class Follower:
    """One who follows a tail: first through what it has missed, if it was there before, and then as it comes.

    Who falls too far behind skips to the end, if it `skips`, or else reads for itself what it needs to catch up.
    """

    tail: Tail
    spot: Spot | None
    skips: bool
    _number: int | None = None
    _target: Rest | None = None
    _lost: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        # What the tail has lost before says nothing of where this one was.
        self._lost = self.tail.lost

    async def next(self, seconds: float) -> "Sequence[Frame] | Skipped | Lost":
        """What comes next; nothing where nothing came in so many seconds."""
        try:
            if self._lost < self.tail.lost:
                return await self._begin_anew(seconds)
            if self._number is None:
                return await self._catch_up(seconds)
        except TimeoutError:
            return ()
        await self.tail.wait(self._number, seconds)
        if not self.tail.holds(self._number):
            if self.skips:
                self._number = self.tail.front
                return Skipped()
            self._number = None
            return ()
        frames = self.tail.since(self._number)
        self._number += len(frames)
        rest = self.tail.rest
        if frames and frames[-1].spot is not None:
            self.spot = frames[-1].spot
        if rest is not None and rest.number == self._number:
            self.spot = Spot(rest.place)
        return frames

    async def _catch_up(self, seconds: float) -> "Sequence[Frame] | Lost":
        if self.spot is None:
            await self._begin_anew(seconds)
            return ()
        if self._target is None:
            self._target = await asyncio.wait_for(self.tail.refreshed(), seconds)
        try:
            found = await self.tail.read(self.spot, self._target.place)
        except Conflict:
            return await self._begin_anew(seconds)
        self.spot = Spot(found.place)
        if not found.more:
            # What came after the target has been numbered meanwhile; what is not held any more is read once again.
            if self.tail.holds(self._target.number):
                self._number = self._target.number
            self._target = None
        return found.frames

    async def _begin_anew(self, seconds: float) -> Lost:
        rest = await asyncio.wait_for(self.tail.refreshed(), seconds)
        self.spot, self._number, self._target, self._lost = Spot(rest.place), rest.number, None, self.tail.lost
        return Lost()


class Tails:
    """The tails of one process, each for as long as anybody follows it."""

    def __init__(self, news: Callable[[], News]) -> None:
        self._news = news
        self._tails: dict[Hashable, tuple[Tail, asyncio.Task[None]]] = {}
        self._limit = asyncio.Semaphore(READS)

    @asynccontextmanager
    async def of(self, source: Source) -> AsyncGenerator[Tail]:
        """The tail of a source, while the block lasts."""
        key = source.key
        if key not in self._tails:
            tail = Tail(source, self._limit)
            self._tails[key] = tail, asyncio.create_task(tail.run(self._news()))
        tail, reading = self._tails[key]
        tail.followers += 1
        try:
            yield tail
        finally:
            tail.followers -= 1
            if not tail.followers:
                del self._tails[key]
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
