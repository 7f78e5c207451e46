"""Of the reasons of one outage the log has the first, those of another kind, and one a minute of the others."""

from __future__ import annotations

import itertools

import pytest
from redis.exceptions import AuthenticationError, ConnectionError, OutOfMemoryError, ResponseError, TimeoutError
from redis.sentinel import MasterNotFoundError

from uic.core.log_throttle import QUIET_S, LogThrottle
from uic.errors import LogUnavailable, StoreUnavailable, TopicRefused
from uic.store_failures import kind_of


def test_a_reason_that_differs_at_each_try_is_news_once_a_minute() -> None:
    logged = LogThrottle()
    tries = [("tls", ("expired", "reset")[second % 2], float(second)) for second in range(1, int(3 * QUIET_S))]
    said = [now for kind, detail, now in tries if logged.is_news(kind, detail, now)]
    assert len(said) == 3
    assert min(later - earlier for earlier, later in itertools.pairwise(said)) >= QUIET_S


def test_another_kind_of_failure_is_news_at_once_and_a_reason_that_stays_never_again() -> None:
    logged = LogThrottle()
    assert logged.is_news("reply", "OOM", 1.0)
    assert logged.is_news("connection", "refused", 2.0)
    assert not logged.is_news("connection", "refused", 1e6)
    assert logged.detail == "refused"


def silent(*reasons: str) -> MasterNotFoundError:
    return MasterNotFoundError(f"no Sentinel of UIC_REDIS__SENTINELS answers: {'; '.join(reasons)}")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (silent("a:1 (SSLV3_ALERT_CERTIFICATE_EXPIRED)", "b:1 (reset)"), silent("a:1, b:1 (reset)")),
        (ConnectionError("Error 1 connecting to h:1"), ConnectionError("Error 104 while writing to socket")),
        (ResponseError("MISCONF a"), ResponseError("MISCONF b")),
    ],
)
def test_the_kind_is_the_same_whatever_the_system_says(one: Exception, other: Exception) -> None:
    assert kind_of(one) == kind_of(other)


def test_kinds_that_an_operator_treats_differently_differ() -> None:
    errors = [
        silent("a:1 (reset)"),
        MasterNotFoundError("the Sentinels watch no master 'm', the name in UIC_REDIS__SENTINEL_SERVICE"),
        ConnectionError("reset"),
        TimeoutError("late"),
        AuthenticationError("who"),
        OutOfMemoryError("command not allowed"),
        ResponseError("MISCONF a"),
        ResponseError("unknown command 'GET'"),
    ]
    assert len(set(map(kind_of, errors))) == len(errors)
    raised = [StoreUnavailable("x"), StoreUnavailable("x", kind="y"), LogUnavailable("x"), TopicRefused("x")]
    assert [error.kind for error in raised] == ["StoreUnavailable", "y", "LogUnavailable", "TopicRefused"]
