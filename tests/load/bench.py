"""What a scenario measures: a fresh `up`, a user of it, and how long and how much."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from attrs import evolve, field, frozen

from experiment_adapters.embedded import DATABASE
from fix_up import Up, command
from load.http_client import Api, Pool
from load.measures import Row

USER = "load"
CONNECTIONS = 256
PATIENCE = 300.0


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

    @contextmanager
    def another(self, name: str, more: Mapping[str, str]) -> Iterator["Bench"]:
        """The same with a fresh `up` of its own, which is given further settings; this one is idle meanwhile."""
        home = self.up.home / name
        home.mkdir()
        home.chmod(0o711)  # PostgreSQL does not run as root, and has to pass
        with Up(home, more=more) as up:
            up.wait_until_ready()
            with closing(Pool("127.0.0.1", up.port, CONNECTIONS)) as pool:
                yield evolve(self, up=up, pool=pool, api=Api(pool, up.token(USER)))

    def held_to(self, what: str, bar: str, is_reached: bool) -> None:
        """Note what was reached beside its bar."""
        self.notes.append(f"{what} (bar: {bar}){'' if is_reached else ' MISSED'}")


Scenario = Callable[[Bench], Awaitable[list[Row]]]


def database_of(data_dir: Path) -> str:
    """The URL of the PostgreSQL that `up` has started."""
    # After PostgreSQL's documentation: the fourth line is the port, the fifth the directory of the socket.
    _, _, _, port, folder, *_ = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    return f"postgresql://postgres@/{DATABASE}?host={quote(folder)}&port={port}"


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until it is so; after a while, no longer."""
    deadline = time.monotonic() + PATIENCE
    while not await condition() and time.monotonic() < deadline:  # noqa: ASYNC110 - it is the state of others
        await asyncio.sleep(0.1)
