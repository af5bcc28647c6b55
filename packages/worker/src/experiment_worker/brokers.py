"""The broker: Redis where there is one, else one inside this process."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from dramatiq import Broker, Middleware, Worker
from dramatiq.asyncio import EventLoopThread, get_event_loop_thread
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import current_millis
from dramatiq.errors import BrokerConnectionError
from dramatiq.middleware import AsyncIO, SkipMessage
from redis import Redis
from redis.exceptions import RedisError

BROKER_AWAY = (BrokerConnectionError, RedisError)
"""What sending a message raises without a broker: Dramatiq lets those of Redis through as they are."""
TAKEN_OVER_AFTER = 15_000
"""Milliseconds after which the messages of a worker that was killed are another's."""
STALE_AFTER = 30_000
"""Milliseconds after which a nudge is worth nothing: those that piled up while nobody worked are passed over."""
CONNECT_TIMEOUT = 3.0
ANSWER_TIMEOUT = 5.0


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


class PassOverStale(Middleware):
    """Passes over nudges that nobody took for long."""

    def before_process_message(self, broker: Broker, message: MessageProxy) -> None:  # noqa: ARG002
        """Skip it, which counts as processed."""
        if current_millis() - message.message_timestamp > STALE_AFTER:
            raise SkipMessage("a later nudge says the same")


class _NudgesOnly(_RedisConsumer):
    """A consumer that gives nothing back when it ends: there will be other nudges, and Redis may be away by then."""

    def requeue(self, messages: Iterable[MessageProxy]) -> None:
        """Let them lie."""


class ClosingRedisBroker(RedisBroker):
    """Dramatiq's, which would leave its connections to the garbage collector."""

    @property
    def consumer_class(self) -> type[_RedisConsumer]:
        """What takes messages from a queue."""
        return _NudgesOnly

    def close(self) -> None:
        """Close its connections."""
        super().close()
        self.client.close()


def broker_of(redis_url: str | None, held: AbstractAsyncContextManager[object]) -> Broker:
    """A broker whose actors may be coroutines, and use what is `held` open for them.

    What a nudge leads to never fails for the broker: the rows in the database say what is to be tried again, and when.
    """
    # The event loop before what is held, so that there is one when that is opened, and still when it is closed.
    middleware = [AsyncIO(), KeepOpen(held), PassOverStale()]
    if redis_url is None:
        return StubBroker(middleware=middleware)
    client = Redis.from_url(redis_url, socket_connect_timeout=CONNECT_TIMEOUT, socket_timeout=ANSWER_TIMEOUT)
    # By default the messages of a killed worker are taken over by one command in a thousand: an idle queue would
    # never see them again.
    return ClosingRedisBroker(
        client=client, middleware=middleware, maintenance_chance=1_000_000, heartbeat_timeout=TAKEN_OVER_AFTER
    )


def _loop() -> EventLoopThread:
    loop = get_event_loop_thread()
    assert loop is not None  # noqa: S101 - the AsyncIO middleware keeps one while there is a worker
    return loop
