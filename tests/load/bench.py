"""What a scenario measures: a fresh `up`, a user of it, and how long and how much."""

import re
from collections.abc import Awaitable, Callable

from attrs import field, frozen

from fix_up import Up, command
from load.http_client import Api, Pool
from load.measures import Row

USER = "load"


@frozen(kw_only=True)
class Bench:
    """The service under measurement. `notes` are lines for the report."""

    up: Up
    pool: Pool
    api: Api
    seconds: float
    rate: float
    runs: int
    notes: list[str] = field(factory=list[str])

    def seed(self, runs: int) -> str:
        """The id of a project with so many runs of test data."""
        arguments = ("seed", "--runs", str(runs), "--user", USER, "--data-dir", str(self.up.data_dir))
        made = command(*arguments, home=self.up.home, timeout=300)
        found = re.search(r"project ([0-9a-f-]{36}): (.*)", made.stdout)
        if made.returncode or not found:
            raise SystemExit(f"seed failed: {made.stderr}")
        self.notes.append(f"seeded {found[2]}")
        return found[1]


Scenario = Callable[[Bench], Awaitable[list[Row]]]
