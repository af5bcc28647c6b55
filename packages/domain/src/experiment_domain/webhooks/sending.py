"""What is sent, what came of it, and when it is tried again."""

from abc import abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

from attrs import field, frozen

ANSWER_LENGTH = 4_096
"""How many bytes of an answer are read and kept, at most."""
GONE = 410
LONGEST_RETRY_AFTER = timedelta(days=1)
"""For so long may a receiver ask to be left alone with Retry-After."""
NOTED_WITHIN = timedelta(seconds=5)
"""How long a worker has, at the end of an attempt, to read the answer and to note what came of it."""
LOSSES = 10
"""How many workers may vanish over a delivery, beyond the tries that it has anyway, before it is dead."""


@frozen(kw_only=True)
class WebhookMessage:
    """One HTTP request that is to be made: a POST of `body`, JSON, with these headers beside the usual ones."""

    url: str = field(repr=False)
    message_id: str
    timestamp: int
    signature: str = field(repr=False)
    body: bytes = field(repr=False)


@frozen(kw_only=True)
class Outcome:
    """What came of an attempt: the status that was answered, or else the error. `latency` is in seconds.

    `answer` is the beginning of the body that was answered, `retry_after` how long the receiver asks to be left alone.
    """

    status_code: int | None = None
    error: str | None = None
    latency: float = 0.0
    answer: str = ""
    retry_after: timedelta | None = None

    @property
    def is_delivered(self) -> bool:
        """Whether the receiver has taken it. A redirect is none: it may lead anywhere."""
        return self.status_code is not None and 200 <= self.status_code < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants no more of these, ever."""
        return self.status_code == GONE

    @property
    def said(self) -> str:
        """The same in a few words."""
        return self.error or f"answered {self.status_code}"


class WebhookSender(Protocol):
    """Makes one attempt to deliver."""

    @abstractmethod
    async def send(self, message: WebhookMessage) -> Outcome:
        """Send it, within a bounded time. Whatever goes wrong on the way is an outcome, and not raised."""


class NoSender(WebhookSender):
    """What there is where nothing is to be sent."""

    async def send(self, message: WebhookMessage) -> Outcome:  # noqa: ARG002
        """Send nothing."""
        return Outcome(error="this service sends no webhooks")


@frozen(kw_only=True)
class DeliveryPolicy:
    """When deliveries are tried again, and when endpoints are left alone.

    A delivery is tried at once, and where it is not taken while an attempt lasts, again after each of `delays`, in
    seconds, each longer or shorter by up to `jitter` of it.

    An endpoint is sent `per_endpoint` at once, and half as many after each failure in a row. After `trips_after` of
    them it is left alone for `rest`, then for twice as long after each further one, up to `longest_rest`, with one
    attempt between two rests: its circuit breaker, for those that are down. One that takes every other message must
    not run into it by chance. One that does nothing but fail for `gives_up_after` is disabled.
    """

    delays: Sequence[float] = (5.0, 30.0, 120.0, 600.0, 3_600.0, 10_800.0, 28_800.0, 57_600.0)
    jitter: float = 0.1
    attempt_lasts: timedelta = timedelta(seconds=15)
    per_endpoint: int = 8
    trips_after: int = 20
    rest: timedelta = timedelta(seconds=5)
    longest_rest: timedelta = timedelta(minutes=10)
    gives_up_after: timedelta = timedelta(days=5)

    @property
    def claim_lasts(self) -> timedelta:
        """How long a delivery is its worker's own; then the worker is taken for dead."""
        return self.attempt_lasts + NOTED_WITHIN

    @property
    def tries(self) -> int:
        """How often a delivery is tried at most."""
        return len(self.delays) + 1

    def pause(self, attempts: int, chance: float, retry_after: timedelta | None) -> timedelta | None:
        """How long to wait after so many attempts, `chance` in [0, 1) spreading it; None where that were enough."""
        if attempts > len(self.delays):
            return None
        spread = 1 + self.jitter * (2 * chance - 1)
        pause = timedelta(seconds=self.delays[max(0, attempts - 1)] * spread)
        return pause if retry_after is None else max(pause, min(retry_after, LONGEST_RETRY_AFTER))

    def rest_after(self, failures: int) -> timedelta | None:
        """How long an endpoint is left alone after so many failures in a row; None where it is not yet."""
        if failures < self.trips_after:
            return None
        # Bounded before it is raised: the failures of five days would make a number beyond all clocks.
        return min(self.longest_rest, self.rest * 2 ** min(failures - self.trips_after, 30))
