"""The broker: Redis where there is one, else one inside this process."""

from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.middleware import AsyncIO

TAKEN_OVER_AFTER = 15_000
"""Milliseconds after which the messages of a worker that was killed are another's."""


def broker_of(redis_url: str | None) -> Broker:
    """A broker whose actors may be coroutines."""
    if redis_url is None:
        broker: Broker = StubBroker()
    else:
        # By default the messages of a killed worker are taken over by one command in a thousand: an idle queue would
        # never see them again.
        broker = RedisBroker(url=redis_url, maintenance_chance=1_000_000, heartbeat_timeout=TAKEN_OVER_AFTER)
    broker.add_middleware(AsyncIO())
    return broker
