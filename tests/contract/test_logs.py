"""Logs: the service's own lines and those of the libraries have one form, one destination and one level."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
import psycopg  # whose connection pool would tell everything at `info`, but for a level of its own
from structlog import get_logger
from structlog.contextvars import bound_contextvars
from experiment_adapters.logs import LogSettings, configure_logs

before = get_logger("early")
configure_logs(LogSettings(format=sys.argv[1], level=sys.argv[2]))
library = logging.getLogger("psycopg.pool")
with bound_contextvars(request_id="mine"):
    before.info("ours", count=3)
    library.warning("error connecting in %r: %s", "writing", "refused\\nfor good")
logging.getLogger("dramatiq.worker").info("Shutting down...")
library.info("connection requested")
try:
    raise ValueError("wrong")
except ValueError:
    get_logger().exception("ours failed")
    library.exception("theirs failed")
"""


def lines_of(form: str, level: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, form, level],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_is_one_object_a_line():
    entries = [json.loads(line) for line in lines_of("json", "info")]
    events = [(entry["level"], entry["event"]) for entry in entries]
    assert events == [
        ("info", "ours"),
        ("warning", "error connecting in 'writing': refused\nfor good"),
        ("info", "Shutting down..."),
        ("error", "ours failed"),
        ("error", "theirs failed"),
    ]
    assert [entry.get("request_id") for entry in entries] == ["mine", "mine", None, None, None]
    assert (entries[0]["count"], entries[1]["logger"]) == (3, "psycopg.pool")
    assert all(entry["timestamp"].endswith("Z") for entry in entries)
    assert all(entry["exception"].endswith("ValueError: wrong") for entry in entries[3:])


def test_console_is_for_people():
    lines = lines_of("console", "info")
    assert "[info     ] ours" in lines[0]
    assert "count=3" in lines[0]
    assert "[warning  ] error connecting in 'writing'" in lines[1]
    assert [line for line in lines if line == "ValueError: wrong"] == ["ValueError: wrong"] * 2
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_level_holds_for_the_libraries_too(form: str):
    text = "\n".join(lines_of(form, "error"))
    assert "ours failed" in text
    assert "theirs failed" in text
    assert "error connecting" not in text
    assert "Shutting down" not in text
