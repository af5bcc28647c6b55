"""Batches: readings on their way in, their checks and their identity.

Values and timestamps travel as `array.array`, eight bytes each, which adapters read without copying.
"""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import lt
from typing import Any
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.errors import Invalid, Refusal
from experiment_domain.kernel.values import checked_text

READINGS = 100_000
"""The most readings that a batch may hold."""
SIGNALS = 256
"""The most signals that a batch may hold."""
SIGNALS_OF_SENSOR = 10_000
"""The most signals that a sensor may deliver in one session: whoever asks about a run is answered about all of them."""
SIGNAL_LENGTH = 100
BATCH_ID_LENGTH = 200
REPEATS = 16
"""The most readings of one signal that a batch may hold for one timestamp: only the last of them is ever read."""
DEFAULT_SIGNAL = "value"
REPORTED = 20
"""How many bad readings a refusal names at most: the first ones."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EARLIEST = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z in microseconds since the Unix epoch."""
LATEST = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z in microseconds since the Unix epoch."""
_MICROSECOND = timedelta(microseconds=1)


def micros(moment: datetime) -> int:
    """A moment as microseconds since the Unix epoch, exactly."""
    return (moment - EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The moment that lies so many microseconds after the Unix epoch, exactly."""
    return EPOCH + timedelta(microseconds=microseconds)


class BadReadings(Invalid):
    """A batch is refused whole; `errors` names the first bad readings: index, signal, message."""

    def __init__(self, errors: Sequence[dict[str, Any]]) -> None:
        first = errors[0]
        super().__init__(
            f"Reading {first['index']} of signal {first['signal']}: {first['message']}",
            code="bad_readings",
            errors=errors,
        )


@frozen(eq=False)
class Column:
    """Readings of one signal: `timestamps` in microseconds since the Unix epoch, `values` in the raw unit.

    `indexes` are the places of the readings in what the client sent, None where they count from 0.
    """

    signal: str
    timestamps: "array[int]"
    values: "array[float]"
    indexes: Sequence[int] | None = None

    def __len__(self) -> int:
        return len(self.timestamps)

    def index(self, place: int) -> int:
        """Where the client put the reading at `place` of this column."""
        return place if self.indexes is None else self.indexes[place]

    @cached_property
    def rises(self) -> bool:
        """Whether the timestamps rise strictly, as those of most columns do."""
        return all(map(lt, self.timestamps, self.timestamps[1:]))

    @cached_property
    def is_finite(self) -> bool:
        """Whether every value is a finite number."""
        return all(map(math.isfinite, self.values))

    @property
    def span(self) -> tuple[int, int]:
        """The earliest and the latest timestamp, where there is any."""
        if self.rises:
            return self.timestamps[0], self.timestamps[-1]
        return min(self.timestamps), max(self.timestamps)

    def layers(self) -> Iterator["Column"]:
        """This column as columns of strictly rising timestamps.

        Readings of one timestamp come in different layers, in the order in which they were sent: the last
        layer has the one that is read.
        """
        if self.rises:
            yield self
            return
        stamps = self.timestamps
        order = sorted(range(len(stamps)), key=stamps.__getitem__)
        layers: list[list[int]] = []
        depth = 0
        previous: int | None = None
        for place in order:
            depth = depth + 1 if stamps[place] == previous else 0
            previous = stamps[place]
            if depth == len(layers):
                layers.append([])
            layers[depth].append(place)
        # The k-th reading of a timestamp is in layer k: a timestamp sent once is only in layer 0, so that any
        # later layer holds nothing but what overrides an earlier one.
        for places in layers:
            yield Column(
                self.signal,
                array("q", [stamps[place] for place in places]),
                array("d", [self.values[place] for place in places]),
            )


@frozen(eq=False)
class Batch:
    """What a sensor sends at once: columns, where to, and the identity the client gave it.

    `received_at` is set where the batch had to wait: it is then judged as of that moment. Raises `Invalid` where its
    identity is one that no store can look up.
    """

    columns: Sequence[Column]
    capture_session_id: UUID | None = None
    batch_id: str | None = None
    received_at: datetime | None = None

    def __attrs_post_init__(self) -> None:
        if self.batch_id is not None:
            checked_text("batch_id", self.batch_id, longest=BATCH_ID_LENGTH, shortest=1, lines=False)

    def __len__(self) -> int:
        return sum(map(len, self.columns))

    @cached_property
    def begins(self) -> int | None:
        """The earliest timestamp in microseconds; None where there is none, or none within the years."""
        begins = min((column.span[0] for column in self.columns if len(column)), default=None)
        return begins if begins is not None and EARLIEST <= begins <= LATEST else None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the content: the same readings give the same digest in either shape of a message."""
        content = hashlib.sha256()
        # A column without readings is no content: the other shape of a message has no way to say it.
        for column in sorted(filter(len, self.columns), key=lambda column: column.signal):
            name = column.signal.encode()
            content.update(len(name).to_bytes(4) + name + len(column).to_bytes(8))
            content.update(column.timestamps)
            content.update(column.values)
        return content.digest()

    @cached_property
    def key(self) -> str:
        """The identity of this batch among those of its sensor and session."""
        return f"id:{self.batch_id}" if self.batch_id is not None else f"sha256:{self.digest.hex()}"

    def check(self, *, allowed_signals: Sequence[str], latest: datetime) -> None:
        """Refuse the whole batch where a reading is bad: not finite, out of range, or after `latest`.

        Raises `BadReadings`, or `Invalid` where the batch itself is malformed.
        """
        if not len(self):
            raise Invalid.at("readings", "must not be empty")
        if len(self) > READINGS:
            raise Invalid.at("readings", f"must have at most {READINGS:,} entries, has {len(self):,}")
        if len(self.columns) > SIGNALS:
            raise Invalid.at("readings", f"must have at most {SIGNALS} signals, has {len(self.columns):,}")
        newest = micros(latest)
        bad: list[dict[str, Any]] = []
        for column in filter(len, self.columns):
            problem = _signal_problem(column.signal, allowed_signals)
            if problem:
                bad.append({"index": column.index(0), "signal": column.signal, "message": problem})
                continue
            earliest, last = column.span
            if earliest < EARLIEST or last > newest or not column.is_finite:
                bad.extend(_bad_readings(column, newest))
            elif not column.rises:
                bad.extend(_repeats(column))
        if bad:
            raise BadReadings(sorted(bad, key=lambda error: error["index"])[:REPORTED])


def _signal_problem(signal: str, allowed: Sequence[str]) -> str | None:
    try:
        checked_text("signal", signal, longest=SIGNAL_LENGTH, shortest=1, lines=False)
    except Refusal as refusal:
        return refusal.detail
    if allowed and signal not in allowed:
        return f"is not a signal of this sensor, which delivers {', '.join(allowed)}"
    return None


def _repeats(column: Column) -> Iterator[dict[str, Any]]:
    """The first reading of a timestamp that has too many: each further one would be a chunk of its own."""
    seen: Counter[int] = Counter()
    for place, stamp in enumerate(column.timestamps):
        seen[stamp] += 1
        if seen[stamp] > REPEATS:
            message = f"the timestamp has more than {REPEATS} readings"
            yield {"index": column.index(place), "signal": column.signal, "message": message}
            return


def _bad_readings(column: Column, newest: int) -> Iterator[dict[str, Any]]:
    found = 0
    for place, (stamp, value) in enumerate(zip(column.timestamps, column.values, strict=True)):
        if not math.isfinite(value):
            message = "the value is not a finite number"
        elif stamp > LATEST or stamp < EARLIEST:
            message = "the timestamp is outside the years 1 to 9999"
        elif stamp > newest:
            message = (
                f"the timestamp is in the future, beyond `future_tolerance` of the project: {moment(stamp).isoformat()}"
            )
        else:
            continue
        yield {"index": column.index(place), "signal": column.signal, "message": message}
        found += 1
        if found == REPORTED:
            return
