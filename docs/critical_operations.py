"""Writes or checks the registry of critical operations: each with the tests that show it on a real PostgreSQL.

What is critical is taken from the code: every use case, unless reading is all it needs, and every program. Which test
covers what is said where it stands, by `@pytest.mark.covers("runs.start", ...)`; `tests/fix_coverage.py` lets no test
claim a use case that it does not bring to an end on PostgreSQL.
"""

import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from attrs import field, frozen

from experiment_domain import Work
from experiment_domain.kernel.access import Permission
from experiment_domain.usecases.chores import CHORES
from experiment_http import v1
from experiment_http.cli.commands import COMMANDS
from experiment_http.operations import API
from experiment_worker.work import WORK

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "critical-operations.md"
COLLECTING = ("--collect-only", "-q", "--assert=plain", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml"))
BAR = 0.95
SHOWN_TESTS = 5
# They change nothing, but raw values may leave through them.
RAW_DOORS = frozenset(
    {
        "cards.of_run",
        "comparisons.of_runs",
        "exports.download",
        "exports.read",
        "telemetry.envelope",
        "telemetry.grid",
        "telemetry.metrics",
        "telemetry.read",
    }
)
# Reading is all that they need, and they change something.
CHANGED_BY_READERS = frozenset({"exports.cancel", "exports.request"})
# Programs that do several things.
PARTS = {
    "up": ("up.start", "up.stop"),
    "worker": tuple(f"worker.{name}" for name in sorted({*WORK, *CHORES} - {"chores"})),
}
EXEMPT = {
    "api": "It serves the operations above; `up` starts the same process.",
    "asyncapi": "It prints what the code says, and keeps nothing.",
    "openapi": "It prints what the code says, and keeps nothing.",
    "token": "It signs and prints, and keeps nothing.",
}


@frozen
class CriticalOperation:
    """One entry of the registry.

    A test that covers it has one of the marks: only in its own process can it be seen to call a use case.
    """

    needs: str
    ways: Sequence[str]
    marks: frozenset[str]


@frozen
class Collected:
    """What pytest finds, without running any of it: the marks of each test that covers something."""

    claims: dict[str, set[str]] = field(factory=dict[str, set[str]], init=False)
    marks: dict[str, set[str]] = field(factory=dict[str, set[str]], init=False)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Take the tests down by their names, without their parameters."""
        for item in session.items:
            claimed = {name for mark in item.iter_markers("covers") for name in mark.args}
            if claimed:
                test = item.nodeid.partition("[")[0].removeprefix("tests/")
                self.claims.setdefault(test, set()).update(claimed)
                self.marks.setdefault(test, set()).update(mark.name for mark in item.iter_markers())

    @classmethod
    def by_pytest(cls, *paths: str) -> "Collected":
        """Collect the tests under these paths."""
        collected, said = cls(), io.StringIO()
        with redirect_stdout(said):
            code = pytest.main([*COLLECTING, *paths], plugins=[collected])
        if code:
            raise SystemExit(f"{said.getvalue()}\nthe tests could not be collected")
        return collected


def registry() -> Mapping[str, CriticalOperation]:
    """Every critical operation by its name."""
    found = {
        name: CriticalOperation(use_case.permission, ways_to(use_case), frozenset({"postgres"}))
        for name, use_case in use_cases().items()
        if name not in EXEMPT and (name in RAW_DOORS | CHANGED_BY_READERS or use_case.permission is not Permission.READ)
    }
    for command in COMMANDS.keys() - EXEMPT.keys():
        for name in PARTS.get(command, (command,)):
            way = f"experiment-service {command}"
            found[name] = CriticalOperation("a shell", [way], frozenset({"postgres", "e2e"}))
    return dict(sorted(found.items()))


def use_cases() -> Mapping[str, Any]:
    """Every use case by its noun and verb."""
    return {
        f"{noun}.{verb}": use_case
        for noun, member in vars(Work).items()
        if hasattr(member, "func")
        for verb, use_case in vars(member.func.__annotations__["return"]).items()
        if hasattr(use_case, "permission")
    }


def ways_to(use_case: Callable[..., Any]) -> Sequence[str]:
    """The HTTP operations that lead to a use case."""
    return [
        f"{operation.method} {API}{re.sub(r':[a-z]+}', '}', operation.path)}"
        for operation in v1.operations()
        if operation.use_case is use_case
    ]


def coverage(operations: Mapping[str, CriticalOperation], collected: Collected) -> Mapping[str, Sequence[str]]:
    """The tests that cover each operation on PostgreSQL."""
    return {
        name: sorted(
            test
            for test, claimed in collected.claims.items()
            if name in claimed and operation.marks & collected.marks[test]
        )
        for name, operation in operations.items()
    }


def problems(covered: Mapping[str, Sequence[str]], collected: Collected) -> Sequence[str]:
    """What is wrong with the marks of the tests."""
    found: list[str] = []
    for test, claimed in collected.claims.items():
        for name in sorted(claimed):
            if name not in covered:
                found.append(f"{test} covers {name}, which is no critical operation")
            elif test not in covered[name]:
                found.append(f"{test} covers {name}, but does not run it on PostgreSQL")
    bare = [name for name, tests in covered.items() if not tests]
    if 1 - len(bare) / len(covered) < BAR:
        found.append(f"less than {BAR:.0%} is covered on PostgreSQL; missing: {', '.join(bare)}")
    return found


def page(operations: Mapping[str, CriticalOperation], covered: Mapping[str, Sequence[str]]) -> str:
    """The registry as a document."""
    count, total = sum(map(bool, covered.values())), len(covered)
    lines = [
        "# Critical operations",
        "",
        "Generated from the code and from the marks of the tests by `nox -s docs -- --write`.",
        "",
        f"**{count} of {total} ({count / total:.1%}) are tested on a real PostgreSQL**; under {BAR:.0%} is refused.",
        "",
        "| operation | needs | ways to it | tests |",
        "| --- | --- | --- | --- |",
    ]
    for name, tests in covered.items():
        shown = [f"`{test}`" for test in tests[:SHOWN_TESTS]]
        shown += [f"and {len(tests) - SHOWN_TESTS} more"] if len(tests) > SHOWN_TESTS else []
        ways = "<br>".join(f"`{way}`" for way in operations[name].ways)
        lines.append(f"| {name} | {operations[name].needs} | {ways} | {'<br>'.join(shown)} |")
    lines += ["", "What changes nothing and gives no raw values away is not listed, nor are these:", ""]
    lines += [f"- {name}: {reason}" for name, reason in EXEMPT.items()]
    return "\n".join(lines) + "\n"


def main(*arguments: str) -> int:
    """Write the page, or tell what is wrong; arguments that are no options are where tests are, in place of ours."""
    operations = registry()
    paths = [word for word in arguments if not word.startswith("-")]
    collected = Collected.by_pytest(*(paths or [str(ROOT / "tests")]))
    covered = coverage(operations, collected)
    text, found = page(operations, covered), list(problems(covered, collected))
    if "--write" in arguments:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        found.append(f"{PAGE.relative_to(ROOT)} is out of date: run `nox -s docs -- --write`")
    for problem in found:
        sys.stderr.write(problem + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
