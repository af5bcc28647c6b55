"""Chunks that overlap, merged a part at a time: the same readings as merged all at once, and not much more memory."""

import random
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest

from experiment_adapters.postgres.telemetry import merging
from experiment_adapters.postgres.telemetry.merging import Merged, Opened, Sweep, merge


def _chunk(position: int, timestamps: "list[int] | range") -> Opened:
    stamps, values = np.array(timestamps, np.int64), np.array(timestamps, np.float64) + position
    return Opened(position=position, late=position % 3 == 0, timestamps=stamps, values=values)


def _columns(parts: list[Merged]) -> list[list[float]]:
    names = ("timestamps", "values", "late")
    return [[value for part in parts for value in getattr(part, name).tolist()] for name in names]


@pytest.mark.parametrize("at_once", [1, 7, 50, 1_000])
def test_the_parts_are_the_whole(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "AT_ONCE", at_once)
    monkeypatch.setattr(merging, "_EVERY", 3)
    for seed in range(60):
        chance = random.Random(seed)
        span = chance.choice((20, 100, 1_000))
        chunks = [
            _chunk(position, sorted(chance.sample(range(begin, begin + span), chance.randrange(1, min(span, 60)))))
            for position, begin in enumerate(chance.choices(range(300), k=chance.randrange(1, 12)))
        ]
        chunks.sort(key=lambda chunk: (chunk.timestamps[0], chunk.position))
        sweep, parts, opened = Sweep(), [], 0
        while opened < len(chunks):
            group = chunks[opened : opened + chance.randrange(1, 4)]
            opened += len(group)
            sweep.add(*group)
            parts += sweep.before(None if opened == len(chunks) else int(chunks[opened].timestamps[0]))
        assert _columns(parts) == _columns([merge(chunks)])
        assert all(left.timestamps[-1] < right.timestamps[0] for left, right in pairwise(parts))
        assert not list(sweep.before(None))


def test_what_overlaps_takes_no_more_memory_than_a_part_of_it() -> None:
    # The same recording twenty times, each shifted by a little.
    chunks = [_chunk(shift, range(shift, 100_000_000 + shift, 1_000)) for shift in range(20)]
    tracemalloc.start()
    try:
        sweep = Sweep()
        sweep.add(*chunks)
        held = sum(len(part.timestamps) for part in sweep.before(None))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held == 2_000_000
    # Merged all at once, the readings with their order take 100 MB.
    assert peak < 30 << 20


def test_a_recording_that_was_sent_again_is_merged_as_it_is_opened() -> None:
    chunks = [_chunk(place, range(place * 500, place * 500 + 1_000)) for place in range(200)]
    sweep, most = Sweep(), 0
    for chunk, following in pairwise(chunks):
        sweep.add(chunk)
        most = max(most, *(len(part.timestamps) for part in sweep.before(int(following.timestamps[0]))))
    assert most == 500
