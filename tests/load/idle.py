"""A worker that has nothing to do: how much it asks of its database."""

import asyncio

from counting import counted
from experiment_adapters.embedded import EmbeddedPostgres
from fix_redis import RedisServer
from fix_up import command
from load.bench import Bench
from load.measures import Row
from workers import worker

MOST = 5.0
"""Queries a second, not counting what begins and ends transactions."""
SETTLES = 1.0


async def idle(bench: Bench) -> list[Row]:
    """One worker alone, with a Redis to relay to."""
    home = bench.up.home / "idle"
    with EmbeddedPostgres(home) as url, RedisServer() as server:
        made = command("migrate", home=bench.up.home, more={"EXPERIMENT_DATABASE_URL": url})
        if made.returncode:
            raise SystemExit(f"migrate failed: {made.stderr}")
        with counted(url) as door:
            more = {
                "EXPERIMENT_DATABASE_URL": door.url,
                "EXPERIMENT_REDIS_URL": server.url,
                "EXPERIMENT_LOG_LEVEL": "debug",
            }
            with worker(more) as running:
                running.wait_for("chore done", chore="forget_signs_of_life")
                await asyncio.sleep(SETTLES)
                before = door.statements
                await asyncio.sleep(bench.seconds)
                count = door.statements - before
                running.stop()
    rate = count / bench.seconds
    bench.held_to(f"an idle worker: {rate:.1f} queries/s", f"less than {MOST:g}", rate < MOST)
    return [("idle", "queries of a worker", f"{rate:.1f}", f"{count:,}", "", "", "", "", "0")]
