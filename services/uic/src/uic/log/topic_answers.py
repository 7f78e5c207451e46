"""What the brokers' answer about a topic means: it can be used, there is none, or this user may not see it.

A topic that is refused is described like an empty one, without partitions and without an id. So the error of an answer
is looked at here before anything else of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kafka.errors import KafkaError, NoError, TopicAuthorizationFailedError, UnknownTopicOrPartitionError, for_code

from uic.errors import LogUnavailable, TopicRefused, UnsuitableTopic

ABSENT = "does not exist"
NO_BROKER = -1
"""What the brokers name as the leader of a partition that has none."""
RIGHTS_PAGE = "docs/runbooks/kafka-users.md"
CLOCKS_PAGE = "docs/runbooks/clocks.md"
TO_SEE = "READ or WRITE"
"""Either includes DESCRIBE, without which a topic is not shown."""
TO_READ, TO_WRITE = "READ", "WRITE"


def rights_of(described: Mapping[str, Any]) -> frozenset[str] | None:
    """The operations that the client's user is allowed on a topic; None if the brokers do not report them.

    Args:
        described: as `trouble_of`.
    """
    allowed = frozenset(described.get("authorized_operations") or ())
    return allowed if "DESCRIBE" in allowed else None  # without it, the topic is not shown at all


def trouble_of(client: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Why a topic cannot be used, to be said behind its name; empty if it can.

    Args:
        client: options of the Kafka client that asked.
        described: the topic, as a kafka-python admin client describes it.
    """
    error = for_code(described["error_code"])
    if error is NoError:
        return ""
    if error is UnknownTopicOrPartitionError:
        return ABSENT
    return refusal(client, TO_SEE) if error is TopicAuthorizationFailedError else f"is refused: {error.__name__}"


def refusal(client: Mapping[str, Any], right: str, error: type[KafkaError] = TopicAuthorizationFailedError) -> str:
    """That the client's user lacks `right` on a topic, or on what else `error` is about, to be said behind its name."""
    user = client.get("sasl_plain_username")
    who = f"user {user}" if user else "this user"
    return f"is refused: {who} needs {right} on it ({error.__name__}; see {RIGHTS_PAGE})"


def time_refused(topic: str) -> str:
    """That a topic refuses records for their time, which is that of the clock here."""
    return (
        f"topic {topic} refuses the time of records from this machine, whose clock is wrong: set it "
        f"({CLOCKS_PAGE}). If it is right, raise message.timestamp.after.max.ms and message.timestamp.before.max.ms of "
        "the topic"
    )


def check_shown(client: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """Refuse a topic that the brokers do not tell about; one that does not exist passes.

    Args:
        client: options of the Kafka client that asked.
        described: as `trouble_of`.

    Raises:
        TopicRefused: its user lacks a right.
        UnsuitableTopic: no topic can have this name, or another error that stays.
        LogUnavailable: an error that passes by itself.
    """
    error, trouble = for_code(described["error_code"]), trouble_of(client, described)
    if not trouble or trouble == ABSENT:
        return
    detail = f"topic {described['name']} {trouble}"
    if error is TopicAuthorizationFailedError:
        raise TopicRefused(detail)
    raise LogUnavailable(detail) if error.retriable else UnsuitableTopic(detail)


def check_there(client: Mapping[str, Any], described: Mapping[str, Any]) -> None:
    """As `check_shown`; and a topic that does not exist is an `UnsuitableTopic`, too."""
    check_shown(client, described)
    if described["error_code"]:
        raise UnsuitableTopic(f"topic {described['name']} {ABSENT}: create it")
