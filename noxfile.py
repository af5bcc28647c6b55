"""What is checked and measured. A bare `nox` is what CI runs; `nox -s load` measures; `nox -l` lists all."""

import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "imports", "purity", "docs", "tests"]
nox.options.default_venv_backend = "none"
nox.needs_version = ">=2026.1.1"

HERE = Path(__file__).parent
SUITES = ("tests/unit", "tests/contract", "tests/stateful", "tests/http", "tests/e2e")
BY_THE_CLOCK = tuple(
    f"tests/e2e/test_{name}.py" for name in ("frozen_database", "streams", "telemetry_socket", "webhooks")
)
"""Suites that look at how long something takes: these have the machine to themselves."""
PYTHON = sys.executable


def tool(name: str) -> str:
    """A command of the environment that nox itself runs in: the workspace's, made by `uv run`."""
    found = shutil.which(name, path=str(Path(PYTHON).parent)) or shutil.which(name)
    if found is None:
        raise SystemExit(f"{name} is missing: run `uv sync`, or start nox by `uv run nox`")
    return found


@nox.session
def lint(session: nox.Session) -> None:
    """Style: ruff."""
    session.run(tool("ruff"), "check", ".")
    session.run(tool("ruff"), "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types: pyright, strict in the domain."""
    session.run(tool("pyright"), "--pythonpath", PYTHON)


@nox.session
def imports(session: nox.Session) -> None:
    """The arrows of the architecture: import-linter."""
    session.run(tool("lint-imports"))


@nox.session(venv_backend="uv")
def purity(session: nox.Session) -> None:
    """The domain's wheel alone, with nothing but attrs, passes its unit tests."""
    wheels = Path(session.create_tmp())
    for old in wheels.glob("*.whl"):
        old.unlink()
    session.run(tool("uv"), "build", "--quiet", "--wheel", "--out-dir", str(wheels), "packages/domain", external=True)
    (wheel,) = wheels.glob("*.whl")
    session.install(str(wheel))
    session.run("python", "-c", "import experiment_domain, experiment_domain.conversions.its90")
    session.install("pytest", "pytest-timeout", "hypothesis")
    session.run("python", "-m", "pytest", "tests/unit", "-q")


@nox.session
def docs(session: nox.Session) -> None:
    """The documents: generated parts are up to date, links lead somewhere, examples run. `-- --write` renews them.

    One of them is the registry of critical operations, which fails where too few are tested on PostgreSQL.
    """
    for program in ("docs/generate.py", "docs/critical_operations.py"):
        session.run(PYTHON, program, *(session.posargs or ["--check"]))


@nox.session
def tests(session: nox.Session) -> None:
    """All tests: in two processes, and then those that look at the clock, in one. `-- …` goes to one pytest."""
    if session.posargs:
        session.run(PYTHON, "-m", "pytest", *session.posargs)
        return
    left_out = (f"--ignore={path}" for path in BY_THE_CLOCK)
    session.run(PYTHON, "-m", "pytest", "-n", "2", "--dist", "loadfile", *SUITES, *left_out)
    session.run(PYTHON, "-m", "pytest", *BY_THE_CLOCK)


@nox.session
def nightly(session: nox.Session) -> None:
    """The state machines, the fuzzing, the workers, the crashes and what is read live at full length."""
    session.run(
        PYTHON,
        "-m",
        "pytest",
        "tests/stateful",
        "tests/http",
        "tests/contract/test_storage.py",
        "tests/e2e/test_killed_workers.py",
        "tests/e2e/test_workers.py",
        "tests/e2e/test_streams.py",
        "tests/e2e/test_relay.py",
        "tests/e2e/test_crashes.py",
        "tests/e2e/test_webhooks.py",
        "tests/contract/test_relays.py",
        "tests/contract/test_event_feed.py",
        "tests/contract/test_event_plans.py",
        "tests/contract/test_live.py",
        "tests/contract/test_known_headers.py",
        "--timeout=7200",
        *session.posargs,
        env={"HYPOTHESIS_PROFILE": "nightly"},
    )


@nox.session
def load(session: nox.Session) -> None:
    """Measure: open loop, closed loop, ingest and lists against a fresh `up`; prints a table."""
    session.run(PYTHON, "tests/load/run.py", *session.posargs)
