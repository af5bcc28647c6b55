"""Webhooks from commands to receivers through real workers, which are killed while they deliver."""

import asyncio
import json
import os
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from standardwebhooks.webhooks import Webhook

from entities import SettableClock
from experiment_adapters.postgres.unit_of_work import PostgresUnitsOfWork
from experiment_domain import Work
from laboratory import SECRET_KEY, Laboratory
from receiver import Answer, Receiver, hang, reset, status
from workers import Running, until, worker

pytestmark = pytest.mark.e2e

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"
EVENTS, KILLS = (10_000, 10) if LONG else (40, 1)
DONE_WITHIN = 1_800.0 if LONG else 90.0


def settings(url: str) -> dict[str, str]:
    return {
        "EXPERIMENT_DATABASE_URL": url,
        "EXPERIMENT_SECRET_KEY": SECRET_KEY.decode(),
        "EXPERIMENT_WEBHOOK_ALLOW_PRIVATE": "true",
        "EXPERIMENT_WEBHOOK_TIMEOUT": "1",
        "EXPERIMENT_WEBHOOK_RETRY_DELAYS": ",".join(["0.1"] * 50),
        "EXPERIMENT_WEBHOOK_CONCURRENCY": "16",
    }


def ask(url: str, query: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


async def in_laboratory(url: str, do: Callable[[Laboratory], Any]) -> Any:
    async with PostgresUnitsOfWork.open(url) as units:
        lab = await Laboratory.open(units, SettableClock(datetime.now(UTC)))
        return await do(lab)


def unreliable(seed: float) -> Answer:
    """Of all requests: 30 % are answered 500, 10 % not at all, 10 % processed and then cut off."""
    chance = random.Random(seed)

    async def answer(writer: asyncio.StreamWriter) -> None:
        drawn = chance.random()
        if drawn < 0.3:
            await status(500, b"not today")(writer)
        elif drawn < 0.4:
            await hang(writer)
        elif drawn < 0.5:
            await reset(writer)
        else:
            await status(204)(writer)

    return answer


@pytest.mark.covers("worker.webhooks")
def test_killed_senders_lose_nothing(postgres_url: str) -> None:
    seed = random.random()
    print(f"seed {seed}")
    secrets: list[str] = []

    async def subscribe_and_tell(lab: Laboratory) -> None:
        made = await lab.webhook(url=receiver.url("/hook"), event_types=["experiment.created"])
        secrets.append(made.secret)
        for first in range(0, EVENTS, 50):

            async def create(work: Work, first: int = first) -> None:
                for place in range(first, min(first + 50, EVENTS)):
                    await work.experiments.create(project_id=lab.project.id, name=f"Experiment {place}")

            await lab.do(create)

    def pending() -> int:
        ((count,),) = ask(postgres_url, "SELECT count(*) FROM webhook_deliveries WHERE status = 'pending'")
        return count

    def told() -> int:
        ((count,),) = ask(postgres_url, "SELECT count(*) FROM webhook_deliveries")
        return count

    seen: Counter[str] = Counter()

    def attempts() -> int:
        # Checked as they come: a signature is good for five minutes.
        signed = Webhook(secrets[0]) if secrets else None
        for each in receiver.received[seen.total() :]:
            assert signed is not None
            content: Any = signed.verify(each.body, dict(each.headers))
            assert content["id"] == each.id == json.loads(each.body)["id"]
            seen[each.id] += 1
        return seen.total()

    with Receiver().in_thread() as receiver, ExitStack() as stack:
        receiver.answers["/hook"] = unreliable(seed)
        telling = threading.Thread(
            target=lambda: asyncio.run(in_laboratory(postgres_url, subscribe_and_tell)), daemon=True
        )
        telling.start()
        # All are started at the beginning: that takes longer than what is tested.
        senders: list[Running] = [stack.enter_context(worker(settings(postgres_url))) for _ in range(KILLS + 1)]
        for _ in range(KILLS):
            before = attempts()
            until(lambda before=before: attempts() >= before + EVENTS // 10, DONE_WITHIN)
            senders.pop(0).kill()
        telling.join(DONE_WITHIN)
        until(lambda: attempts() >= EVENTS and told() == EVENTS and pending() == 0, DONE_WITHIN)
        logs = str([sender.lines() for sender in senders])
        for secret in (*secrets, SECRET_KEY.decode(), "/hook"):
            assert secret.removeprefix("whsec_") not in logs
        for sender in senders:
            sender.stop()
    ((dead,),) = ask(postgres_url, "SELECT count(*) FROM webhook_deliveries WHERE status = 'dead'")
    assert dead == 0
    events = {str(event) for (event,) in ask(postgres_url, "SELECT id FROM outbox WHERE type = 'experiment.created'")}
    attempts()
    assert seen.keys() == events
    assert len(events) == EVENTS
    ((doubled,),) = ask(
        postgres_url,
        "SELECT count(*) FROM (SELECT FROM status_history WHERE entity_type = 'webhook_delivery'"
        " GROUP BY entity_id HAVING count(*) > 1) AS doubled",
    )
    assert doubled == 0


def test_an_event_arrives_soon_after_its_commit(postgres_url: str) -> None:
    """Not as soon as it must under load, which is measured elsewhere: sooner than anybody would look without a hint."""

    async def tell(lab: Laboratory) -> float:
        await lab.webhook(url=receiver.url("/hook"), event_types=["experiment.created"])
        await lab.experiment()
        until_received(1)
        loop = asyncio.get_running_loop()
        slowest = 0.0
        for count in range(2, 7):
            await asyncio.sleep(0.3)
            await lab.experiment()
            began = loop.time()
            await asyncio.to_thread(until_received, count)
            slowest = max(slowest, loop.time() - began)
        return slowest

    def until_received(count: int) -> None:
        until(lambda: len(receiver.received) >= count)

    with Receiver().in_thread() as receiver, worker(settings(postgres_url)) as running:
        running.wait_for("worker started")
        slowest = asyncio.run(in_laboratory(postgres_url, tell))
        running.stop()
    assert slowest < 3.0, slowest


def test_without_a_secret_key_nothing_is_sent(postgres_url: str) -> None:
    async def tell(lab: Laboratory) -> None:
        await lab.webhook(url=receiver.url("/hook"), event_types=["experiment.created"])
        await lab.experiment()

    with Receiver().in_thread() as receiver:
        asyncio.run(in_laboratory(postgres_url, tell))
        without = {name: value for name, value in settings(postgres_url).items() if "SECRET_KEY" not in name}
        with worker(without) as running:
            running.wait_for("worker started")
            running.wait_for("webhooks wait")
            until(lambda: ask(postgres_url, "SELECT FROM webhook_deliveries"))
            running.stop()
        assert receiver.connections == 0
    ((status_, attempts),) = ask(postgres_url, "SELECT status, attempts FROM webhook_deliveries")
    assert (status_, attempts) == ("pending", 0)


@pytest.mark.covers("worker.bury_webhook_deliveries", "worker.forget_webhook_deliveries")
def test_what_is_left_behind_is_cleared_away(postgres_url: str) -> None:
    async def leave_behind(lab: Laboratory) -> None:
        for status_ in ("disabled", "active"):
            made = await lab.webhook(event_types=["experiment.created"])
            await lab.do(lambda work: work.webhook_deliveries.test(made.subscription.id))  # noqa: B023
            ids = [made.subscription.id]
            with psycopg.connect(postgres_url) as connection:
                connection.execute("UPDATE webhook_subscriptions SET status = %s WHERE id = ANY(%s)", [status_, ids])
                if status_ == "active":
                    connection.execute(
                        "UPDATE webhook_deliveries SET status = 'dead', created_at = now() - interval '31 days'"
                        " WHERE subscription_id = ANY(%s)",
                        [ids],
                    )

    asyncio.run(in_laboratory(postgres_url, leave_behind))
    with worker(settings(postgres_url)) as running:
        running.wait_for("chore done", chore="bury_webhook_deliveries", count=1)
        running.wait_for("chore done", chore="forget_webhook_deliveries", count=1)
        running.stop()
    assert ask(postgres_url, "SELECT status, reason FROM webhook_deliveries") == [("dead", "the webhook is disabled")]
