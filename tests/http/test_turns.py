"""Turns at what takes long."""

import asyncio

from experiment_http.turns import Turns


async def test_each_has_one_at_a_time_and_all_a_few(runner: object) -> None:
    turns = Turns(2)
    begun: list[str] = []
    go_on = asyncio.Event()

    async def take(name: str) -> None:
        async with turns.turn(name):
            begun.append(name)
            await go_on.wait()

    async with asyncio.TaskGroup() as tasks:
        for name in ("ada", "ada", "ada", "ben", "cleo"):
            tasks.create_task(take(name))
        for _ in range(10):
            await asyncio.sleep(0)
        # Ada's others do not keep Ben from his; Cleo is one too many.
        assert begun == ["ada", "ben"]
        go_on.set()
    assert sorted(begun) == ["ada", "ada", "ada", "ben", "cleo"]
    assert not turns._of  # pyright: ignore[reportPrivateUsage]
