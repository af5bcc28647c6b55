"""`seed`: test data, quickly."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

from cyclopts import Parameter
from cyclopts.validators import Number

from experiment_http.cli.failure import CommandFailed, one_line
from experiment_http.cli.local import DATA_DIR
from experiment_http.cli.migrate import configured_database, upgrade_database

RUNS = 1_000
MOST_RUNS = 2_000_000
OWNER = "seed"


def seed(
    *,
    runs: Annotated[int, Parameter(validator=Number(gte=1, lte=MOST_RUNS))] = RUNS,
    user: str = OWNER,
    data_dir: Path = DATA_DIR,
) -> None:
    """Fill a database with test data: a project with runs of all statuses, over two years, and a smaller one.

    It goes to the database at EXPERIMENT_DATABASE_URL, or else to the one in the data directory of `up`, which may be
    running. Each call makes two more projects. What it prints is the id of the first, and how long it took.

    Parameters
    ----------
    runs
        How many runs; each experiment has up to 10,000 of them.
    user
        Who owns the project: the name of the token to look at it with.
    data_dir
        The data directory of `up`.
    """
    from psycopg import Error as DriverError  # noqa: PLC0415 - help needs no driver

    from experiment_adapters.postgres.seed import seed_runs  # noqa: PLC0415

    with _database(data_dir) as url:
        upgrade_database(url)
        began = time.monotonic()
        try:
            seeded = seed_runs(url, runs, owner=user)
        except DriverError as error:
            raise CommandFailed(f"the database took no test data: {one_line(error)}") from error
        took = time.monotonic() - began
    print(f"project {seeded.project_id}: {runs:,} runs in {len(seeded.experiment_ids)} experiments, {took:.1f} s")


@contextmanager
def _database(data_dir: Path) -> Iterator[str]:
    """The URL of the database that is meant, for as long as it is needed."""
    from experiment_adapters.embedded import EmbeddedPostgres, EmbeddedPostgresError  # noqa: PLC0415

    configured = configured_database()
    if configured is not None:
        yield configured
        return
    running = running_database(data_dir)
    if running is not None:
        yield running
        return
    server = EmbeddedPostgres(data_dir)
    try:
        with server as url:
            yield url
    except EmbeddedPostgresError as error:
        raise CommandFailed(error) from error


def running_database(data_dir: Path) -> str | None:
    """The URL of the embedded PostgreSQL that an `up` has started on the directory; None where there is none."""
    from experiment_adapters.embedded import DATABASE  # noqa: PLC0415
    from experiment_adapters.embedded.data_dir import MARKER, lock  # noqa: PLC0415

    if not (data_dir / MARKER).is_file():
        return None
    try:
        held = lock(data_dir / "lock")
        if held is not None:
            os.close(held)
            return None
        # After PostgreSQL's documentation: the fourth line is the port, the fifth the directory of the socket.
        _, _, _, port, socket_dir, *_ = (data_dir / "postgres" / "postmaster.pid").read_text().splitlines()
    except (OSError, ValueError):
        return None
    return f"postgresql://postgres@/{DATABASE}?host={quote(socket_dir)}&port={port}"
