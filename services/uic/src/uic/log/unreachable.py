"""What is said when the brokers give no answer, or refuse one: where UIC looked, why, and what to correct."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from kafka.errors import (
    BrokerResponseError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    FencedLeaderEpochError,
    GroupAuthorizationFailedError,
    InvalidTimestampError,
    KafkaConnectionError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotCoordinatorError,
    NotLeaderForPartitionError,
    OffsetNotAvailableError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    UnknownBrokerIdError,
)

from process.tls_causes import RESET, by_cause
from uic.errors import LogUnavailable
from uic.log.connection_causes import BEFORE_ANY_ANSWER, ConnectionsFailed, NoConnection, why_no_connection, words_of
from uic.log.topic_answers import NO_BROKER, TO_READ, refusal, time_refused

NO_ANSWER: Final = "a broker that is needed does not answer"
_WHICH: Final = "`ctr doctor` says which are away"
_PARTITION: Final = re.compile(r"\bpartition=(\d+)")
"""How the client writes one in an error."""
MOST: Final = 120
"""Characters of what a client says."""
_NO_ANSWER: Final = (
    KafkaConnectionError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    *BEFORE_ANY_ANSWER,
)
"""Errors of a client that say no more than that it has no connection, or no answer."""


def unreachable(client: Mapping[str, Any], error: Exception) -> LogUnavailable:
    """The error to raise where a client is opened, or asked a question.

    Args:
        client: options of the Kafka client that got no answer.
        error: the client's, as `open_kafka_client` or `explained` raised it.
    """
    if was_answered(error) is False:
        return LogUnavailable(_no_answer(client, error))
    return LogUnavailable(described(error, client))


def no_broker(client: Mapping[str, Any]) -> str:
    """That no broker answers, and at which addresses."""
    return f"no broker answers at {', '.join(client['bootstrap_servers'])}"


def _no_answer(client: Mapping[str, Any], error: BaseException) -> str:
    """Who does not answer, and why: no broker at all, or of several one that leads a partition or coordinates a group,
    which is named."""
    addresses = [address.strip() for address in client["bootstrap_servers"]]
    failures = _failures(error)
    cause = error.__cause__ if isinstance(error.__cause__, ConnectionsFailed) else None
    none_answers = cause is not None and (cause.found_none or failures.keys() >= (cause.brokers or set(addresses)))
    if not failures:
        why = type(error).__name__
        return f"{no_broker(client)}: {why}" if none_answers else f"{NO_ANSWER} in time ({why}): {_WHICH}"
    some_answer = any(failure.answered for failure in failures.values())
    if not none_answers:
        return f"{'no connection to the brokers' if some_answer else NO_ANSWER}: {by_broker(failures)}"
    reasons = set(map(str, failures.values()))
    why = reasons.pop() if len(reasons) == 1 and failures.keys() <= set(addresses) else by_broker(failures)
    if some_answer:
        return f"no connection to the brokers at {', '.join(addresses)}: {why}"
    return f"{no_broker(client)}: {why}"


def stopped(error: Exception, what: str = NO_ANSWER) -> LogUnavailable:
    """The error to raise where a client had a connection.

    Args:
        error: the client's, as `explained` raised it.
        what: what went wrong.
    """
    failures = _failures(error)
    return LogUnavailable(f"{what}: {by_broker(failures) if failures else _words(error) or type(error).__name__}")


def described(error: BaseException, client: Mapping[str, Any], topic: str = "", right: str = TO_READ) -> str:
    """An error of a client, in words for operators: a refusal with the right that is missing, why there is no
    connection with what to correct, or the client's words.

    Args:
        error: as `open_kafka_client`, `explained` or the client raised it.
        client: its options.
        topic: what it reads or writes.
        right: what it needs for that.
    """
    match error:
        case TopicAuthorizationFailedError():
            return f"topic {topic} {refusal(client, right)}"
        case InvalidTimestampError():
            return time_refused(topic)
        case GroupAuthorizationFailedError():
            group = " ".join(map(str, error.args))
            return f"group {group} {refusal(client, TO_READ, GroupAuthorizationFailedError)}"
    if was_answered(error) is False:
        return _no_answer(client, error)
    if plain := _words(error):
        return plain
    words = words_of(error)[:MOST]
    return words if words == type(error).__name__ else f"{type(error).__name__}: {words}"


def _words(error: BaseException) -> str:
    """What an error means whose own words say little; empty for others."""
    match error:
        case UnknownBrokerIdError(args=(broker,)) if broker == NO_BROKER:
            return "a partition has no leader: bring its replicas back"
        case UnknownBrokerIdError(args=(broker,)):
            return (
                f"the brokers name broker {broker} as a leader or coordinator, and do not say where it is: it may be "
                "starting or stopping; if this stays, bring it back"
            )
        case OffsetNotAvailableError():
            return (
                f"{_named(error)} has a new leader, which does not know yet up to where its replicas have the records; "
                f"if this stays, bring them back: {_WHICH}"
            )
        case NotLeaderForPartitionError() | LeaderNotAvailableError() | FencedLeaderEpochError():
            return f"{_named(error)} is changing its leader; if this stays, bring its replicas back: {_WHICH}"
        case CoordinatorNotAvailableError() | NotCoordinatorError() | CoordinatorLoadInProgressError():
            return f"the group is changing its coordinator; if this stays, bring the brokers back: {_WHICH}"
    return ""


def _named(error: BaseException) -> str:
    """The partition that an error of the brokers is about."""
    found = _PARTITION.search(str(error))
    return f"partition {found[1]}" if found else "a partition"


def was_answered(error: BaseException) -> bool | None:
    """Whether a broker answered, if only that it refuses; None of an error that does not tell."""
    if isinstance(error, _NO_ANSWER):
        return False
    return True if isinstance(error, BrokerResponseError | UnknownBrokerIdError) else None


def to_correct(error: BaseException) -> str:
    """Why there is no connection, if an operator has to correct something: TLS or the login. Empty if the brokers may
    only be away."""
    failures = {at: why for at, why in _failures(error).items() if why.answered and why.said != RESET}
    return by_broker(failures) if failures else ""


def seen_and_fix(error: BaseException, client: Mapping[str, Any]) -> tuple[str, str]:
    """As `described`, and what to correct by itself; empty if that is not known."""
    failures = _failures(error)
    if not failures:
        return described(error, client), ""
    seen = "; ".join(by_cause((address, failure.said) for address, failure in failures.items()))
    return seen, "; ".join(dict.fromkeys(failure.fix for failure in failures.values() if failure.fix))


def _failures(error: BaseException) -> Mapping[str, NoConnection]:
    """Why the client has no connection, by address; empty if that is unknown, or not what is wrong."""
    if not isinstance(error, _NO_ANSWER):
        return {}
    failures = error.__cause__.failures if isinstance(error.__cause__, ConnectionsFailed) else {}
    if not failures and isinstance(error, BEFORE_ANY_ANSWER):
        return {"": why_no_connection(error, "SASL_SSL")}
    return failures


def by_broker(failures: Mapping[str, NoConnection]) -> str:
    """What `failures_of` says, each reason once: `a:1, b:1 (Connection refused; …)`. Empty if there is none."""
    if set(failures) == {""}:  # which one is not known
        return str(failures[""])
    return "; ".join(by_cause((address, str(failure)) for address, failure in failures.items()))
