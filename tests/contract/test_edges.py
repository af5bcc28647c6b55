"""The memory of edges: what it was given last, and no more than it has room for."""

import random

import numpy as np
import pytest

from entities import fresh
from experiment_adapters.postgres.telemetry.edges import COLUMNS, Edges, Key


def _key(position: int, edge: int = 0) -> Key:
    return None, position, 0, 0.0, edge


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
    edges = Edges()
    keys: list[Key] = [
        (None, 1, 0, 0.5, 7),
        (fresh(), 1, 0, 0.5, 7),
        (None, 2, 0, 0.5, 7),
        (None, 1, 1, 0.5, 7),
        (None, 1, 0, 0.25, 7),
        (None, 1, 0, 0.5, 8),
    ]
    for number, key in enumerate(keys):
        assert edges.find([key], _sides(0))[1].tolist() == [0]
        edges.keep([key], np.array([_row(0, number)]))
    rows, missing = edges.find(keys, _sides(*[0] * len(keys)))
    assert (rows[:, 1].tolist(), missing.tolist()) == ([*range(len(keys))], [])


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
