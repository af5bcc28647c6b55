"""The registry of critical operations: what it lists, and which marks of tests it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiment_domain.kernel.errors import Conflict
from fix_coverage import watching
from laboratory import Laboratory

ROOT = Path(__file__).parents[2]
MARKED = """
import pytest

@pytest.mark.postgres
@pytest.mark.covers("runs.start", "runs.vanish")
def test_one(): ...

@pytest.mark.e2e
@pytest.mark.covers("migrate", "runs.finish")
def test_two(): ...

@pytest.mark.covers("runs.fail")
def test_three(): ...

@pytest.mark.covers("seed")
@pytest.mark.parametrize("where", ["memory", pytest.param("postgres", marks=pytest.mark.postgres)])
def test_four(where): ...
"""
CLAIMING = """
import pytest
from laboratory import Laboratory

@pytest.mark.covers("runs.create", "runs.start")
async def test_true(runner, units_of_work):
    await (await Laboratory.open(units_of_work)).run(start=True)

@pytest.mark.covers("runs.create", "runs.start")
async def test_false(runner, units_of_work):
    await (await Laboratory.open(units_of_work)).run()

@pytest.fixture
def lab(runner, units_of_work):
    lab = runner.run(Laboratory.open(units_of_work))
    runner.run(lab.run())
    return lab

@pytest.mark.covers("runs.create")
async def test_only_its_fixture(lab): ...
"""


def run(folder: Path, tests: str, *command: str, more: dict[str, str] | None = None) -> tuple[int, str]:
    """A command on a file of tests, with what it said."""
    file = folder / "test_marked.py"
    file.write_text(tests)
    done = subprocess.run(
        [sys.executable, *command, str(file)],
        cwd=ROOT,
        env={**os.environ, **(more or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_marks_that_do_not_hold_are_named(tmp_path: Path) -> None:
    code, said = run(tmp_path, MARKED, "docs/critical_operations.py", "--check")
    assert code == 1
    first, second, third, missing, stale = said.splitlines()
    assert first.endswith("::test_one covers runs.vanish, which is no critical operation")
    assert second.endswith("::test_two covers runs.finish, but does not run it on PostgreSQL")
    assert third.endswith("::test_three covers runs.fail, but does not run it on PostgreSQL")
    assert missing.startswith("less than 95% is covered on PostgreSQL; missing: artifacts.approve, ")
    bare = missing.partition("missing: ")[2].split(", ")
    # What is critical is told by the code: commands, doors of raw values, programs; but nothing that only reads.
    assert {"runs.set_statuses", "audit.verify", "telemetry.read", "replay", "up.stop", "runs.finish"} <= {*bare}
    assert not {"runs.start", "migrate", "seed", "runs.get", "runs.page", "openapi", "asyncapi"} & {*bare}
    assert stale == "docs/critical-operations.md is out of date: run `nox -s docs -- --write`"


def test_a_test_has_to_do_what_it_says_it_covers(tmp_path: Path, postgres_server: str) -> None:
    more = {
        "COLUMNS": "200",
        "EXPERIMENT_TEST_POSTGRES_URL": postgres_server,
        "PYTHONPATH": str(ROOT / "tests"),
    }
    plugins = ("-p", "fix_postgres", "-p", "fix_adapters", "-p", "fix_coverage", "-p", "no:cacheprovider")
    settings = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(tmp_path))
    code, said = run(tmp_path, CLAIMING, "-m", "pytest", *plugins, *settings, more=more)
    assert code == 1, said
    assert "2 failed, 4 passed" in said
    assert "test_false[postgres] - Failed: it covers runs.start, but got no answer of it on PostgreSQL" in said
    assert "test_only_its_fixture[postgres] - Failed: it covers runs.create, but" in said


async def test_only_answers_on_postgresql_count(lab: Laboratory, request: pytest.FixtureRequest):
    with watching(["runs.create", "runs.start", "runs.finish"]) as answered:
        run = await lab.run()
        with pytest.raises(Conflict):
            await lab.do(lambda work: work.runs.finish(run.id))
    assert answered == ({"runs.create"} if request.node.get_closest_marker("postgres") else set())
