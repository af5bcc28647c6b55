"""A furnace with two type K thermocouples, as their voltmeter sees it: in millivolts."""

import math
import random
import time
from array import array
from collections.abc import Mapping

from experiment_domain.conversions.its90 import type_k_emf

SIGNALS = ("furnace", "sample")
AMBIENT, TARGET = 24.0, 850.0
SECONDS = 900
"""How long the recorded heating took."""
_FURNACE_LAG, _SAMPLE_LAG = 160.0, 90.0
_NOISE = 0.004  # millivolts, about a tenth of a degree
_MICROSECONDS = 1_000_000

Readings = Mapping[str, tuple["array[int]", "array[float]"]]
"""Timestamps in microseconds since the Unix epoch, and millivolts, by signal."""


def heating(begin: int) -> Readings:
    """The recorded heating from room temperature, one reading a second; the same for the same `begin`."""
    noise = random.Random(begin)  # noqa: S311 - a simulation
    stamps = array("q", [begin + second * _MICROSECONDS for second in range(SECONDS)])
    columns = {signal: array("d") for signal in SIGNALS}
    sample = AMBIENT
    for second in range(SECONDS):
        furnace = TARGET - (TARGET - AMBIENT) * math.exp(-second / _FURNACE_LAG)
        sample += (furnace - sample) / _SAMPLE_LAG
        for signal, celsius in zip(SIGNALS, (furnace, sample), strict=True):
            columns[signal].append(_millivolts(celsius, noise))
    return {signal: (stamps, values) for signal, values in columns.items()}


class LiveFurnace:
    """The furnace now, held at its target by a controller that swings a little; one reading a second."""

    def __init__(self) -> None:
        self._noise = random.Random()  # noqa: S311 - a simulation
        self._next = int(time.time()) + 1

    def seconds_until_next(self) -> float:
        """How long it is to the next reading."""
        return max(0.0, self._next - time.time())

    def next(self) -> Readings:
        """The reading that is due; after a pause of the machine, the one that is due now."""
        second = max(self._next, int(time.time()))
        self._next = second + 1
        swings = 6.0 * math.sin(second / 47.0), 4.0 * math.sin(second / 47.0 - 1.1)
        return {
            signal: (array("q", [second * _MICROSECONDS]), array("d", [_millivolts(TARGET + swing, self._noise)]))
            for signal, swing in zip(SIGNALS, swings, strict=True)
        }


def _millivolts(celsius: float, noise: random.Random) -> float:
    return round(type_k_emf(celsius) + noise.gauss(0.0, _NOISE), 4)
