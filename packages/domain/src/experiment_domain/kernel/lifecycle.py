"""The one state-machine type. Its tables drive code, tests and the diagrams in the documentation."""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Generic, TypeVar

from attrs import frozen

from experiment_domain.kernel.errors import InvalidTransition

S = TypeVar("S", bound=StrEnum)


@frozen
class Lifecycle(Generic[S]):
    """The statuses of a noun and the transitions between them; whatever is not listed is refused."""

    noun: str
    initial: S
    table: Mapping[S, Sequence[S]]

    def allowed(self, current: S) -> Sequence[S]:
        """The statuses that can be reached from `current` in one step."""
        return self.table.get(current, ())

    def moves(self, current: S, target: S) -> bool:
        """Whether `current → target` is a step: False where it is already there, so nothing is to be recorded.

        Raises `InvalidTransition` where the table has no such step.
        """
        if current == target:
            return False
        if target not in self.allowed(current):
            raise InvalidTransition(self.noun, current, target, self.allowed(current))
        return True

    def steps(self) -> Iterator[tuple[S, S]]:
        """Every listed transition."""
        for source, targets in self.table.items():
            for target in targets:
                yield source, target

    def mermaid(self) -> str:
        """The machine as a Mermaid state diagram."""
        lines = ["stateDiagram-v2", f"    [*] --> {self.initial}"]
        lines += [f"    {source} --> {target}" for source, target in self.steps()]
        return "\n".join(lines)
