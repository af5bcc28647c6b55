"""The memory of edges: what it was given last, and no more than it has room for."""

import random
from typing import Any

import numpy as np
import pytest
from attrs import evolve

from entities import fresh
from experiment_adapters.postgres.telemetry.edges import COLUMNS, Edges, Key
from experiment_adapters.postgres.telemetry.headers import Headers, Stored
from experiment_domain.telemetry.store import Layer


def _key(position: int, edge: int = 0) -> Key:
    return bytes((position, edge))


def _row(side: int, value: float) -> list[float]:
    return [side, *[value] * (len(COLUMNS) - 1)]


def _sides(*sides: int) -> "np.typing.NDArray[np.int8]":
    return np.array(sides, np.int8)


@pytest.mark.parametrize(("kept", "wanted", "is_known"), [(0, 1, True), (0, -1, True), (1, 1, True), (1, -1, False)])
def test_an_edge_is_known_by_the_side_that_is_asked_for(kept: int, wanted: int, is_known: bool) -> None:
    edges = Edges()
    edges.keep([_key(1)], np.array([_row(kept, 5.0)]))
    rows, missing = edges.find([_key(1), _key(2)], _sides(wanted, 0))
    assert missing.tolist() == ([1] if is_known else [0, 1])
    assert not is_known or rows[0].tolist() == _row(kept, 5.0)


def test_both_sides_are_not_known_by_one() -> None:
    edges = Edges()
    edges.keep([_key(1)], np.array([_row(-1, 5.0)]))
    assert edges.find([_key(1)], _sides(0))[1].tolist() == [0]
    edges.keep([_key(1)], np.array([_row(0, 6.0)]))
    assert edges.find([_key(1)], _sides(0))[1].tolist() == []


def test_edges_differ_by_all_that_tells_a_chunk_from_another() -> None:
    stored = Stored(capture_session_id=fresh(), sensor_id=fresh(), signal="v", layer=Layer.RAW, profile_id=None)
    chunk: dict[str, float] = {
        "positions": 1,
        "starts": 5,
        "ends": 9,
        "readings": 3,
        "counts": 3,
        "minimums": 0.0,
        "maximums": 1.0,
        "means": 0.5,
        "firsts": 0.25,
        "lasts": 0.75,
    }

    def key(stored: Stored, moment: int = 7, **values: Any) -> Key:
        columns: dict[str, Any] = {name: np.array([value]) for name, value in {**chunk, **values}.items()}
        headers = Headers(stored=stored, series_id=4, **columns)
        (found,) = headers.keys(np.array([0]), np.array([moment]))
        return found

    physical = [evolve(stored, layer=Layer.PHYSICAL, profile_id=fresh()) for _ in range(2)]
    keys = [
        key(stored),
        key(stored, 8),
        *map(key, physical),
        *(key(stored, 7, **{name: type(value)(value + 1)}) for name, value in chunk.items()),
    ]
    assert len(set(keys)) == len(keys) == 14
    assert key(stored) == keys[0]


def test_the_oldest_make_room() -> None:
    edges, chance = Edges(kept=50), random.Random(3)
    last: dict[int, float] = {}
    known: list[int] = []
    for _ in range(200):
        numbers = chance.sample(range(120), 7)
        values = [chance.random() for _ in numbers]
        new = set(numbers) - set(known)
        edges.keep(map(_key, numbers), np.array([_row(0, value) for value in values]))
        last.update(zip(numbers, values, strict=True))
        rows, missing = edges.find([_key(number) for number in range(120)], _sides(*[0] * 120))
        known = sorted(set(range(120)) - set(missing.tolist()))
        assert len(known) <= 50
        assert new <= set(known)
        assert [rows[number, 1] for number in known] == [last[number] for number in known]
