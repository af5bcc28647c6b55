"""What chunks hold on both sides of an edge between parts of an envelope, kept in memory once it has been looked up.

The parts of envelopes stay where they are, so that whoever moves or zooms a chart, or looks at it a second time, asks
for the same edges.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from experiment_adapters.postgres.telemetry.arrays import Floats, Integers

KEPT = 1 << 15
"""How many edges are kept, in about 12 MB; the oldest go first."""
COLUMNS = (
    "side",  # of which the values were looked at: -1 before the edge, 1 behind it, 0 both
    "before",  # how many readings come before the edge
    *("minimum_before", "maximum_before", "sum_before"),
    *("minimum_behind", "maximum_behind", "sum_behind"),
    *("last_before", "first_behind"),
)
Key = bytes
"""All that is known of a chunk by its header, and the moment of an edge.

The position is not enough: a merged chunk takes that of one of those it was made of, and after a database was restored
from a backup, positions are given once more.
"""


class Edges:
    """The edges that were looked up last, a row of `COLUMNS` each."""

    def __init__(self, kept: int = KEPT) -> None:
        self._rows = np.empty((kept, len(COLUMNS)))
        self._keys: list[Key | None] = [None] * kept
        self._places: dict[Key, int] = {}
        self._next = 0

    def find(self, keys: Sequence[Key], sides: "NDArray[np.int8]") -> tuple[Floats, Integers]:
        """Rows of these edges, and which of them are missing, or tell of another side than is asked for."""
        places = np.fromiter((self._places.get(key, -1) for key in keys), np.int64, len(keys))
        rows = self._rows[places]
        looked_at = rows[:, 0]
        return rows, np.flatnonzero((places < 0) | ((looked_at != 0) & (looked_at != sides)))

    def keep(self, keys: Iterable[Key], rows: Floats) -> None:
        """Keep rows, in place of the oldest ones."""
        for key, row in zip(keys, rows, strict=True):
            place = self._places.get(key)
            if place is None:
                place, self._next = self._next, (self._next + 1) % len(self._keys)
                oldest = self._keys[place]
                if oldest is not None:
                    del self._places[oldest]
                self._keys[place] = key
                self._places[key] = place
            self._rows[place] = row
