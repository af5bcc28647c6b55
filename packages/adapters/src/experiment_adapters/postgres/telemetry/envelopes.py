"""Envelopes from the statistics of chunks, opening only those that overlap in time or lie across an edge.

Of a chunk across one edge, only as much is opened as is needed: where its extremes do not stand out of those known
on a side, that side is told from the chunk's own statistics and the other side's values.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from attrs import frozen

from experiment_adapters.postgres.statements import Statements
from experiment_adapters.postgres.telemetry.arrays import Floats, Integers
from experiment_adapters.postgres.telemetry.edges import Edges
from experiment_adapters.postgres.telemetry.headers import (
    Headers,
    Stored,
    divided,
    extent,
    headers,
    merged,
    opened,
)
from experiment_adapters.postgres.telemetry.known import KnownHeaders
from experiment_adapters.postgres.telemetry.merging import Merged, Opened
from experiment_domain.telemetry.batches import LATEST
from experiment_domain.telemetry.envelopes import Envelope, EnvelopeQuery, Envelopes, Pixels

_HUGE = 1e300
"""Values whose sums and differences may overflow: their chunks are opened as a whole."""


@frozen(kw_only=True, eq=False)
class Pieces:
    """What is known of stretches of readings, each within one pixel; `at` is where in time a stretch lies."""

    at: Integers
    pixels: Integers
    counts: Integers
    minimums: Floats
    maximums: Floats
    means: Floats
    firsts: Floats
    lasts: Floats

    @classmethod
    def together(cls, parts: "Sequence[Pieces]") -> "Pieces":
        """All pieces in the order of time."""
        at = np.concatenate([part.at for part in parts])
        order = np.argsort(at, kind="stable")
        return cls(
            at=at[order],
            pixels=np.concatenate([part.pixels for part in parts])[order],
            counts=np.concatenate([part.counts for part in parts])[order],
            minimums=np.concatenate([part.minimums for part in parts])[order],
            maximums=np.concatenate([part.maximums for part in parts])[order],
            means=np.concatenate([part.means for part in parts])[order],
            firsts=np.concatenate([part.firsts for part in parts])[order],
            lasts=np.concatenate([part.lasts for part in parts])[order],
        )

    def taken(self, mask: "np.typing.NDArray[np.bool_]") -> "Pieces":
        """Some of the pieces."""
        return Pieces(
            at=self.at[mask],
            pixels=self.pixels[mask],
            counts=self.counts[mask],
            minimums=self.minimums[mask],
            maximums=self.maximums[mask],
            means=self.means[mask],
            firsts=self.firsts[mask],
            lasts=self.lasts[mask],
        )


class PostgresEnvelopes(Envelopes):
    """Makes envelopes of `telemetry_chunks` and `telemetry_physical_chunks`."""

    def __init__(self, statements: Statements, known: KnownHeaders, edges: Edges) -> None:
        self._statements = statements
        self._known = known
        self._edges = edges

    async def read(self, query: EnvelopeQuery) -> Envelope:
        self._statements.hold_still()
        stored = Stored(
            capture_session_id=query.capture_session_id,
            sensor_id=query.sensor_id,
            signal=query.signal,
            layer=query.layer,
            profile_id=query.profile_id,
        )
        if stored.is_physical and stored.profile_id is None:
            return Envelope.empty()
        if stored not in self._known and (query.start is not None or query.end is not None):
            # The pixels are those of the whole series, of which only a part is looked at.
            whole = await extent(self._statements, stored)
            if whole is not None and _is_part(query, *whole):
                found = await headers(self._statements, stored, start=query.start, end=query.end)
                return await self._made(query, whole, found)
        found = await self._known.read(self._statements, stored)
        if found is None:
            return Envelope.empty()
        return await self._made(query, found.extent, found.between(query.start, query.end))

    async def _made(self, query: EnvelopeQuery, whole: tuple[int, int], found: Headers | None) -> Envelope:
        pixels = Pixels.of(query, *whole)
        if found is None or pixels is None:
            return Envelope.empty()
        return _envelope(await self._pieces(found, pixels), pixels, query)

    async def _pieces(self, found: Headers, pixels: Pixels) -> Pieces:
        islands = found.islands()
        lone = np.bincount(islands)[islands] == 1
        starts = (found.starts - pixels.anchor) // pixels.width
        ends = (found.ends - pixels.anchor) // pixels.width
        complete = lone & (found.starts >= pixels.low) & (found.ends < pixels.high)
        inside = complete & (starts == ends)
        peaks = np.maximum(np.abs(found.minimums), np.abs(found.maximums))
        across = complete & (ends == starts + 1) & (found.counts == found.readings) & (peaks < _HUGE)
        parts = [
            Pieces(
                at=found.starts,
                pixels=starts,
                counts=found.counts,
                minimums=found.minimums,
                maximums=found.maximums,
                means=found.means,
                firsts=found.firsts,
                lasts=found.lasts,
            ).taken(inside)
        ]
        parts += [
            _pieces_of(await opened(self._statements, found, group), pixels)
            for group in found.groups(np.flatnonzero(lone & ~inside & ~across))
        ]
        parts += await self._overlapping(found, np.flatnonzero(~lone), islands, pixels)
        places = np.flatnonzero(across)
        if len(places):
            sides = _sides(found, places, starts[places], Pieces.together(parts), pixels)
            for group in found.groups(places):
                taken = np.isin(places, group)
                edges = pixels.anchor + ends[group] * pixels.width
                parts.append(await self._divided(found, group, starts[group], edges, sides[taken]))
        return Pieces.together(parts)

    async def _overlapping(self, found: Headers, places: Integers, islands: Integers, pixels: Pixels) -> list[Pieces]:
        """The pieces of chunks that overlap."""
        _, firsts = np.unique(islands[places], return_index=True)
        shores = found.starts[places][firsts]
        parts: list[Pieces] = []
        async for part in merged(self._statements, found, places):
            # Islands do not overlap each other: merged all at once, each is still what it is.
            bounds = np.unique(np.searchsorted(part.timestamps, shores))
            parts.append(_pieces_of(part.split(bounds[(bounds > 0) & (bounds < len(part.timestamps))]), pixels))
        return parts

    async def _divided(
        self, found: Headers, places: Integers, numbers: Integers, edges: Integers, sides: "np.typing.NDArray[np.int8]"
    ) -> Pieces:
        """The two pieces of each of these chunks, before and behind its edge."""
        keys = found.keys(places, edges)
        rows, missing = self._edges.find(keys, sides)
        if len(missing):
            rows[missing] = await self._looked_up(found, places[missing], edges[missing], sides[missing])
            self._edges.keep([keys[number] for number in missing.tolist()], rows[missing])
        looked_at, before = rows[:, 0], rows[:, 1].astype(np.int64)
        minimums, maximums, sums = rows[:, 2:8:3].copy(), rows[:, 3:8:3].copy(), rows[:, 4:8:3]
        counts = np.column_stack((before, found.counts[places] - before))
        means = sums / counts
        whole = found.means[places]
        for side, told, from_ in ((-1, 1, 0), (1, 0, 1)):
            rest = looked_at == side
            share = counts[rest, from_] / counts[rest, told]
            means[rest, told] = whole[rest] + (whole[rest] - means[rest, from_]) * share
            # No extreme of the pixel: the chunk's own, which do not stand out, say as much.
            minimums[rest, told] = found.minimums[places][rest]
            maximums[rest, told] = found.maximums[places][rest]
        return Pieces(
            at=np.column_stack((found.starts[places], edges)).ravel(),
            pixels=np.column_stack((numbers, numbers + 1)).ravel(),
            counts=counts.ravel(),
            minimums=minimums.ravel(),
            maximums=maximums.ravel(),
            means=means.ravel(),
            firsts=np.column_stack((found.firsts[places], rows[:, 9])).ravel(),
            lasts=np.column_stack((rows[:, 8], found.lasts[places])).ravel(),
        )

    async def _looked_up(
        self, found: Headers, places: Integers, edges: Integers, sides: "np.typing.NDArray[np.int8]"
    ) -> Floats:
        """The rows of edges, from what the chunks hold."""
        parts = await divided(self._statements, found, places, edges, sides)
        before = np.array([count for count, _ in parts], np.int64)
        lengths = np.array([len(values) for _, values in parts], np.int64)
        values = np.concatenate([values for _, values in parts])
        offsets = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        # Where in what was sent the part behind the edge begins; of the other side one value came along.
        cuts = offsets + np.where(sides == 1, 1, before)
        bounds = np.column_stack((offsets, cuts)).ravel()
        extremes = [np.minimum.reduceat(values, bounds), np.maximum.reduceat(values, bounds)]
        both = np.stack([*extremes, np.add.reduceat(values, bounds)], axis=1).reshape(-1, 6)
        return np.column_stack((sides, before, both, values[cuts - 1], values[cuts]))


def _is_part(query: EnvelopeQuery, first: int, last: int) -> bool:
    """Whether the query asks for less than half of what lies between two moments."""
    start = first if query.start is None else max(query.start, first)
    end = last if query.end is None else min(query.end, last)
    return 2 * (end - start) < last - first


def _sides(
    found: Headers, places: Integers, numbers: Integers, known: Pieces, pixels: Pixels
) -> "np.typing.NDArray[np.int8]":
    """Which side of its edge has to be opened of each of these chunks: -1 before, 1 behind, 0 both."""
    base = (pixels.low - pixels.anchor) // pixels.width
    size = (pixels.high - 1 - pixels.anchor) // pixels.width - base + 1
    lowest, highest = np.full(size, np.inf), np.full(size, -np.inf)
    valued = known.counts > 0
    if valued.any():
        parts = known.pixels[valued] - base  # in order, as pieces are
        bounds = _bounds(parts)
        lowest[parts[bounds]] = np.minimum.reduceat(known.minimums[valued], bounds)
        highest[parts[bounds]] = np.maximum.reduceat(known.maximums[valued], bounds)
    minimums, maximums, left = found.minimums[places], found.maximums[places], numbers - base
    before = (minimums < lowest[left]) | (maximums > highest[left])
    behind = (minimums < lowest[left + 1]) | (maximums > highest[left + 1])
    edges = pixels.anchor + (numbers + 1) * pixels.width
    shorter = np.where(edges - found.starts[places] <= found.ends[places] - edges, -1, 1)
    return np.where(before & behind, 0, np.where(before, -1, np.where(behind, 1, shorter))).astype(np.int8)


def _pieces_of(chunks: "Sequence[Opened | Merged]", pixels: Pixels) -> Pieces:
    """Readings chunk by chunk and pixel by pixel, as far as they are asked for; the chunks do not overlap."""
    timestamps = np.concatenate([chunk.timestamps for chunk in chunks])
    values = np.concatenate([chunk.values for chunk in chunks])
    low, high = np.searchsorted(timestamps, (pixels.low, pixels.high))
    shores = np.cumsum([0, *(len(chunk.timestamps) for chunk in chunks)]) - low
    timestamps, values = timestamps[low:high], values[low:high]
    begins = _begins(timestamps, shores, pixels)
    pieces = Pieces(
        at=timestamps[begins],
        pixels=(timestamps[begins] - pixels.anchor) // pixels.width,
        counts=np.diff(begins, append=len(values)),
        **{name: np.full(len(begins), np.nan) for name in ("minimums", "maximums", "means", "firsts", "lasts")},
    )
    missing = np.isnan(values)
    if missing.any():
        values = values[~missing]
        begins = np.concatenate(([0], np.cumsum(~missing)))[begins]
        pieces.counts[:] = np.diff(begins, append=len(values))
    filled = np.flatnonzero(pieces.counts)
    if not len(filled):
        return pieces
    starts, counts = begins[filled], pieces.counts[filled]
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.add.reduceat(values, starts) / counts
    if not np.isfinite(means).all():
        # Huge values overflow their sum while their mean is an ordinary number.
        means = np.add.reduceat(values / np.repeat(counts, counts), starts)
    pieces.minimums[filled] = np.minimum.reduceat(values, starts)
    pieces.maximums[filled] = np.maximum.reduceat(values, starts)
    pieces.means[filled] = means
    pieces.firsts[filled] = values[starts]
    pieces.lasts[filled] = values[starts + counts - 1]
    return pieces


def _begins(timestamps: Integers, shores: Integers, pixels: Pixels) -> Integers:
    """Where in these readings pieces begin: with each pixel, and with each chunk, at its shore.

    A chunk that was not opened may lie between two that were, in one pixel. Shores may lie outside of these readings.
    """
    if not len(timestamps):
        return np.empty(0, np.int64)
    first, last = (timestamps[[0, -1]] - pixels.anchor) // pixels.width
    # A search for each edge: to tell of each reading in which pixel it lies would take longer than all the rest.
    edges = pixels.anchor + np.arange(first + 1, last + 1) * pixels.width
    found = np.unique(np.concatenate(([0], shores, np.searchsorted(timestamps, edges))))
    return found[(found >= 0) & (found < len(timestamps))]


def _bounds(keys: Integers) -> Integers:
    """Where runs of the same keys begin."""
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _spans(numbers: Integers, pixels: Pixels, query: EnvelopeQuery) -> tuple[Integers, Integers]:
    """Where parts begin and end, as `Pixels.span` has it of each."""
    starts = pixels.anchor + numbers * pixels.width
    ends = np.minimum(starts + pixels.width, LATEST if query.end is None else query.end)
    return starts if query.start is None else np.maximum(starts, query.start), ends


def _envelope(pieces: Pieces, pixels: Pixels, query: EnvelopeQuery) -> Envelope:
    numbers = np.unique(pieces.pixels)
    counts = np.zeros(len(numbers), np.int64)
    minimums, maximums, firsts, lasts, means = (np.full(len(numbers), np.nan) for _ in range(5))
    valued = pieces.taken(pieces.counts > 0)
    if len(valued.pixels):
        starts = _bounds(valued.pixels)
        ends = np.append(starts[1:], len(valued.pixels))
        filled = np.searchsorted(numbers, valued.pixels[starts])
        totals = np.add.reduceat(valued.counts, starts)
        lowest, highest = np.minimum.reduceat(valued.minimums, starts), np.maximum.reduceat(valued.maximums, starts)
        weights = valued.counts / np.repeat(totals, ends - starts)
        counts[filled], minimums[filled], maximums[filled] = totals, lowest, highest
        firsts[filled], lasts[filled] = valued.firsts[starts], valued.lasts[ends - 1]
        # Weighted before they are summed up: neither can it overflow, nor rounding leave the extremes.
        means[filled] = np.clip(np.add.reduceat(valued.means * weights, starts), lowest, highest)
    starts, ends = _spans(numbers, pixels, query)
    return Envelope(
        starts=array("q", starts.tobytes()),
        ends=array("q", ends.tobytes()),
        counts=array("q", counts.tobytes()),
        minimums=array("d", minimums.tobytes()),
        maximums=array("d", maximums.tobytes()),
        firsts=array("d", firsts.tobytes()),
        lasts=array("d", lasts.tobytes()),
        means=array("d", means.tobytes()),
    )
