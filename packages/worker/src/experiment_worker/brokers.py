"""The broker: Redis where there is one, else one inside this process."""

from contextlib import AbstractAsyncContextManager, AsyncExitStack

from dramatiq import Broker, Middleware, Worker
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import AsyncIO
from redis.exceptions import RedisError

BROKER_AWAY = (BrokerConnectionError, RedisError)
"""What sending a message raises without a broker: Dramatiq lets those of Redis through as they are."""
TAKEN_OVER_AFTER = 15_000
"""Milliseconds after which the messages of a worker that was killed are another's."""


class KeepOpen(Middleware):
    """Keeps something open on the event loop of the actors, from before the first of them until after the last."""

    def __init__(self, held: AbstractAsyncContextManager[object]) -> None:
        self._held = held
        self._stack = AsyncExitStack()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Open it."""
        _loop().run_coroutine(self._stack.enter_async_context(self._held))

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:  # noqa: ARG002
        """Close it."""
        _loop().run_coroutine(self._stack.aclose())


def broker_of(redis_url: str | None, held: AbstractAsyncContextManager[object]) -> Broker:
    """A broker whose actors may be coroutines, and use what is `held` open for them."""
    if redis_url is None:
        broker: Broker = StubBroker()
    else:
        # By default the messages of a killed worker are taken over by one command in a thousand: an idle queue would
        # never see them again.
        broker = RedisBroker(url=redis_url, maintenance_chance=1_000_000, heartbeat_timeout=TAKEN_OVER_AFTER)
    broker.add_middleware(AsyncIO())
    # After it, so that there is an event loop when this is told of the beginning, and still one at the end.
    broker.add_middleware(KeepOpen(held))
    return broker


def _loop() -> EventLoopThread:
    loop = get_event_loop_thread()
    assert loop is not None  # noqa: S101 - the AsyncIO middleware keeps one while there is a worker
    return loop
