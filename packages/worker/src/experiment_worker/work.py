"""What there is to work off: the one table from which actors and schedule are made."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from math import inf
from typing import Any, Protocol

from attrs import frozen
from structlog import get_logger

from experiment_domain import Services
from experiment_domain.backfills import ATTEMPTS as BACKFILL_ATTEMPTS
from experiment_domain.backfills import Backfill
from experiment_domain.chores import Chore
from experiment_domain.exports.jobs import ATTEMPTS as EXPORT_ATTEMPTS
from experiment_domain.exports.jobs import Export
from experiment_domain.usecases.backfilling import work_off_backfills
from experiment_domain.usecases.chores import ChoreWatcher, work_off_chores
from experiment_domain.usecases.delivering import work_off_webhooks
from experiment_domain.usecases.exporting import work_off_exports
from experiment_domain.usecases.webhook_deliveries import Dispatch
from experiment_domain.webhooks.deliveries import WebhookDelivery
from experiment_domain.webhooks.sending import Outcome
from experiment_worker.metrics import METRICS

log = get_logger(__name__)


class WorkOff(Protocol):
    """Works off one kind of work: whatever rows in the database say is due.

    It claims a row in a transaction of its own before it works on it, so that any number of workers may do this beside
    each other, and counts the tries, so that what ends its process again and again is given up. It returns, with the
    number of things done, when nothing is due, after so many `seconds`, or soon after it is `stopping`.
    """

    async def __call__(self, services: Services, *, seconds: float, stopping: Callable[[], bool]) -> int:
        """Work."""
        ...


@frozen(kw_only=True)
class Kind:
    """A kind of work: what works it off, and how many seconds pass between two nudges to do so.

    A nudge keeps a process at it for so many `seconds`; one that comes while it is at it already `at_once` times is for
    nothing.
    """

    work_off: WorkOff
    every: float
    at_once: int = 1
    seconds: float = 60.0


class _Log(ChoreWatcher):
    def done(self, name: str, count: int, seconds: float) -> None:
        METRICS.chore_done(name, count, seconds)
        (log.info if count else log.debug)("chore done", chore=name, count=count)

    def failed(self, chore: Chore, error: Exception | str) -> None:
        METRICS.chore_failed(chore.name, laid_aside=chore.is_last)
        fault: Any = error if isinstance(error, Exception) else None
        event = "chore laid aside" if chore.is_last else "chore failed"
        log.error(event, chore=chore.name, attempts=chore.attempts, error=str(error), exc_info=fault)


def _backfill_failed(backfill: Backfill, error: Exception) -> None:
    METRICS.failed("backfills", laid_aside=backfill.attempts + 1 >= BACKFILL_ATTEMPTS)
    log.error("backfill stumbled", backfill_id=str(backfill.id), attempts=backfill.attempts + 1, exc_info=error)


def _export_failed(export: Export, error: Exception) -> None:
    METRICS.failed("exports", laid_aside=export.attempts + 1 >= EXPORT_ATTEMPTS)
    log.error("export stumbled", export_id=str(export.id), attempts=export.attempts + 1, exc_info=error)


def _attempted(dispatch: Dispatch, outcome: Outcome) -> None:
    delay = datetime.now(UTC) - dispatch.delivery.created_at
    METRICS.attempted(dispatch, outcome, max(0.0, delay.total_seconds()))


def _attempt_failed(delivery: WebhookDelivery, error: Exception) -> None:
    log.error("attempt broke off", delivery_id=str(delivery.id), attempts=delivery.attempts, exc_info=error)


WORK: Mapping[str, Kind] = {
    "chores": Kind(work_off=partial(work_off_chores, watcher=_Log()), every=5.0),
    "backfills": Kind(work_off=partial(work_off_backfills, failed=_backfill_failed), every=5.0),
    "exports": Kind(work_off=partial(work_off_exports, failed=_export_failed), every=5.0),
    # Without an end: who comes to one waits for all attempts, and every event meanwhile for the slowest endpoint.
    "webhooks": Kind(
        work_off=partial(work_off_webhooks, ended=_attempted, failed=_attempt_failed), every=0.5, seconds=inf
    ),
}
