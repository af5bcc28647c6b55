"""Scalar metrics: numbers that a person or program logs to a run, by name and step, and their history."""

import math
from abc import abstractmethod
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from attrs import frozen

from experiment_domain.kernel.errors import Invalid
from experiment_domain.kernel.values import checked_name
from experiment_domain.telemetry.batches import EARLIEST, LATEST, micros

SCALARS = 10_000
"""The most values that one call logs."""
NAMES = 1_000
"""The most names that a run has values of."""
LAST_STEP = 2**63 - 1
"""Steps are integers of 64 bits."""

Place = tuple[int, str, int]
"""Where a value stands in a history: its step, its name, and how many of that name were received before it."""


@frozen(kw_only=True)
class Logged:
    """A value as it is sent: without a `step` it gets the one after the highest of its name, or 0."""

    name: str
    value: float
    step: int | None = None
    timestamp: datetime | None = None


@frozen(kw_only=True)
class Scalar:
    """A value of a scalar metric."""

    name: str
    value: float
    step: int
    timestamp: datetime


@frozen(kw_only=True)
class ScalarPage:
    """A part of a history; `next` is where the following part begins, None at the end."""

    items: Sequence[Scalar]
    next: Place | None = None


@frozen(kw_only=True)
class KnownScalars:
    """What a run has before more is logged: how many names, and of those asked for the highest step."""

    names: int
    last_steps: Mapping[str, int]


class ScalarMetrics(Protocol):
    """Keeps scalar metrics: every value that was ever logged, in the order of its arrival."""

    @abstractmethod
    async def hold(self, run_id: UUID, names: Collection[str]) -> KnownScalars:
        """What a run has, and holds off whoever else logs to it until the unit of work ends."""

    @abstractmethod
    def append(self, run_id: UUID, scalars: Sequence[Scalar]) -> None:
        """Keep values of names that are held, in the order of their arrival."""

    @abstractmethod
    async def history(
        self, run_id: UUID, names: Collection[str], *, limit: int, after: Place | None = None
    ) -> ScalarPage:
        """Values of some names by step, of one step by name, and of one name in the order of their arrival."""

    @abstractmethod
    async def latest(self, run_ids: Collection[UUID]) -> Mapping[UUID, Sequence[Scalar]]:
        """Of each run that has any, by name the value of the highest step, and of that step the last received."""

    @abstractmethod
    async def any_in(self, run_id: UUID) -> bool:
        """Whether a run has scalar metrics."""


def checked(values: Sequence[Logged]) -> None:
    """Refuse what cannot be kept. Raises `Invalid`, naming the first bad value."""
    if not 1 <= len(values) <= SCALARS:
        raise Invalid.at("metrics", f"must have 1 to {SCALARS:,} entries, has {len(values):,}")
    for place, value in enumerate(values):
        path = f"metrics[{place}]"
        checked_name(f"{path}.name", value.name)
        if not math.isfinite(value.value):
            raise Invalid.at(f"{path}.value", "must be a finite number")
        if value.step is not None and not -LAST_STEP - 1 <= value.step <= LAST_STEP:
            raise Invalid.at(f"{path}.step", "must be an integer of 64 bits")
        if value.timestamp is not None and not EARLIEST <= micros(value.timestamp) <= LATEST:
            raise Invalid.at(f"{path}.timestamp", "must lie in the years 1 to 9999 of UTC")


def numbered(values: Sequence[Logged], known: KnownScalars, at: datetime) -> list[Scalar]:
    """Values with their steps and times: where they are not given, the next step of the name, and `at`."""
    highest = dict(known.last_steps)
    scalars: list[Scalar] = []
    for place, value in enumerate(values):
        last = highest.get(value.name)
        step = value.step
        if step is None:
            step = 0 if last is None else last + 1
            if step > LAST_STEP:
                raise Invalid.at(f"metrics[{place}].step", "is required: there is none after the highest of this name")
        highest[value.name] = step if last is None else max(last, step)
        scalars.append(Scalar(name=value.name, value=value.value, step=step, timestamp=value.timestamp or at))
    if known.names + len(highest) - len(known.last_steps) > NAMES:
        raise Invalid.at("metrics", f"a run has values of at most {NAMES:,} names")
    return scalars
