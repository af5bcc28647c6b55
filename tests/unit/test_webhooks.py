"""Rules of webhooks: filters, when deliveries are tried again, and when endpoints are left alone."""

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entities import NOW, a_delivery, a_subscription, later
from experiment_domain.kernel.errors import Invalid
from experiment_domain.webhooks.deliveries import TEST, DeliveryStatus
from experiment_domain.webhooks.secrets import new_secret, signatures
from experiment_domain.webhooks.sending import LONGEST_RETRY_AFTER, DeliveryPolicy, Outcome
from experiment_domain.webhooks.subscriptions import SubscriptionStatus, checked_event_types, checked_url

POLICY = DeliveryPolicy()
FAILED, TAKEN, GONE = Outcome(status_code=500), Outcome(status_code=200), Outcome(status_code=410)
HOUR = 3_600.0


@pytest.mark.parametrize(
    ("filters", "event_type", "wanted"),
    [
        (["*"], "run.started", True),
        (["run.started"], "run.started", True),
        (["run.started"], "run.started_again", False),
        (["run.*"], "run.started", True),
        (["run.*"], "runs.started", False),
        (["run.*"], "run", False),
        (["capture.*"], "capture.backfill.started", True),
        (["capture.backfill.*"], "capture.started", False),
        (["run.failed", "capture.*"], "capture.completed", True),
    ],
)
def test_filters(filters: list[str], event_type: str, wanted: bool):
    assert a_subscription(event_types=tuple(filters)).wants(event_type) is wanted


@pytest.mark.parametrize("text", ["*", "run.started", "run.*", "capture.backfill.*", "conversion_profile.published"])
def test_good_filters(text: str):
    assert checked_event_types("event_types", [text, text]) == (text,)


@pytest.mark.parametrize("text", ["", ".", "run.", ".run", "*.run", "run*", "run.*.x", "RUN.*", "run started", "a\n"])
def test_bad_filters(text: str):
    with pytest.raises(Invalid):
        checked_event_types("event_types", ["run.*", text])


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example",
        "https://hooks.example:8443/a/b?c=d&e=%20",
        "https://xn--gre-6ka8l.example/",
        "http://127.0.0.1/",
        "http://[2001:db8::1]:80/",
    ],
)
def test_good_urls(url: str):
    assert checked_url("url", url) == url


@given(st.floats(0, 1, exclude_max=True))
def test_a_delivery_is_tried_nine_times_over_more_than_a_day(chance: float):
    pauses = [POLICY.pause(attempts, chance, None) for attempts in range(1, POLICY.tries)]
    waits = [pause.total_seconds() for pause in pauses if pause is not None]
    assert (len(waits), POLICY.tries) == (8, 9)
    assert 24 * HOUR < sum(waits) < 32 * HOUR
    assert all(shorter < longer for shorter, longer in pairwise(waits))
    assert POLICY.pause(POLICY.tries, chance, None) is None
    for wait, delay in zip(waits, POLICY.delays, strict=True):
        assert 0.9 * delay <= wait <= 1.1 * delay


def test_the_clock_of_a_delivery_that_nobody_takes():
    delivery, at, tries = a_delivery(), NOW, 0
    while delivery.status is DeliveryStatus.PENDING:
        tries += 1
        change = _begun(delivery, tries).attempted(FAILED, POLICY, chance=0.5, at=at)
        delivery = change.result
        at = delivery.next_attempt_at or at
    assert tries == 9
    assert timedelta(hours=27) < at - NOW < timedelta(hours=29)
    assert (delivery.status, delivery.reason) == (DeliveryStatus.DEAD, "tried 9 times, at last answered 500")


def _begun(delivery: Any, attempts: int) -> Any:
    from attrs import evolve

    return evolve(delivery, attempts=attempts)


@pytest.mark.parametrize(
    ("asked", "least"),
    [(timedelta(), 4.5), (timedelta(seconds=90), 90.0), (timedelta(days=30), LONGEST_RETRY_AFTER.total_seconds())],
)
def test_retry_after_is_honoured(asked: timedelta, least: float):
    pause = POLICY.pause(1, 0.0, asked)
    assert pause is not None
    assert pause.total_seconds() == least


@pytest.mark.parametrize(("outcome", "kind"), [(GONE, "run.started"), (FAILED, TEST)])
def test_some_are_not_tried_again(outcome: Outcome, kind: str):
    dead = _begun(a_delivery(event_type=kind), 1).attempted(outcome, POLICY, chance=0.5, at=NOW).result
    assert (dead.status, dead.finished_at, dead.last_status) == (DeliveryStatus.DEAD, NOW, outcome.status_code)


def test_an_endpoint_is_left_alone_longer_and_longer():
    endpoint, at, rests = a_subscription(), NOW, list[float]()
    for _ in range(50):
        endpoint = endpoint.answered(FAILED, POLICY, at=at)
        until = endpoint.blocked_until
        rests.append(0.0 if until is None else (until - at).total_seconds())
        at = max(at, until or at)
    assert rests[:22] == [*[0.0] * 19, 5.0, 10.0, 20.0]
    assert set(rests[27:]) == {600.0}
    assert (endpoint.failing_since, endpoint.version) == (NOW, 1)
    healed = endpoint.answered(TAKEN, POLICY, at=at)
    assert (healed.failures, healed.failing_since, healed.blocked_until) == (0, None, None)
    assert healed.answered(TAKEN, POLICY, at=at) is healed
    hours = [endpoint.answered(Outcome(status_code=503, retry_after=each), POLICY, at=at) for each in _ASKED]
    assert [((each.blocked_until or at) - at).total_seconds() for each in hours] == [600.0, 600.0]
    first = a_subscription().answered(Outcome(status_code=429, retry_after=timedelta(seconds=30)), POLICY, at=NOW)
    assert first.blocked_until == later(30)


_ASKED = (timedelta(seconds=1), timedelta(days=3))


def test_a_clean_slate_for_another_url_and_after_a_pause():
    failing = a_subscription(failures=7, failing_since=NOW, blocked_until=later(60))
    assert failing.has_failed_for(later(60)) == timedelta(seconds=60)
    moved = failing.edit(at=later(1), url="https://other.example/").result
    kept = failing.edit(at=later(1), url=failing.url, description="x").result
    resumed = a_subscription(status=SubscriptionStatus.DISABLED, failures=7, failing_since=NOW).resume(at=NOW).result
    for each, failures in ((moved, 0), (kept, 7), (resumed, 0)):
        assert each.failures == failures
        assert (each.failing_since is None) is (failures == 0)


def test_secrets_are_not_in_what_is_shown_of_things():
    from experiment_domain.kernel.entity import facts

    subscription = a_subscription(sealed_secret=b"canary", previous_sealed_secret=b"canary")
    assert "canary" not in repr(subscription)
    assert "canary" not in str(facts(subscription))
    assert "canary" not in repr(a_delivery(body="canary")) + str(facts(a_delivery(body="canary")))


def test_as_many_signatures_as_secrets():
    secrets = [new_secret(), new_secret()]
    both = signatures(secrets, "id", 1, b"{}").split(" ")
    assert both == [signatures([secret], "id", 1, b"{}") for secret in secrets]
    assert len(set(both)) == 2
