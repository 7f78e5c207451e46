"""What the brokers' answer about a topic means: an error is never taken for an empty topic."""

from __future__ import annotations

from typing import Any

import pytest
from kafka.errors import (
    InvalidTopicError,
    KafkaError,
    LeaderNotAvailableError,
    NoError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from uic.errors import LogUnavailable, TopicRefused, UicError, UnsuitableTopic
from uic.log.topic_answers import check_shown, check_there

CLIENT = {"bootstrap_servers": ["kafka:9092"], "sasl_plain_username": "uic"}


def answer(error: type[KafkaError]) -> dict[str, Any]:
    """As a broker describes a topic that it does not show."""
    return {"name": "events", "error_code": error.errno, "partitions": [], "topic_id": None}


@pytest.mark.parametrize(
    ("error", "raised", "words"),
    [
        (UnknownTopicOrPartitionError, UnsuitableTopic, "does not exist"),
        (TopicAuthorizationFailedError, TopicRefused, "user uic needs READ or WRITE"),
        (LeaderNotAvailableError, LogUnavailable, "LeaderNotAvailableError"),
        (InvalidTopicError, UnsuitableTopic, "InvalidTopicError"),
    ],
)
def test_each_error_is_told_by_name(error: type[KafkaError], raised: type[UicError], words: str) -> None:
    with pytest.raises(raised) as told:
        check_there(CLIENT, answer(error))
    assert type(told.value) is raised
    assert words in told.value.detail


def test_only_a_topic_that_is_shown_or_does_not_exist_passes() -> None:
    check_there(CLIENT, answer(NoError))
    check_shown(CLIENT, answer(NoError))
    check_shown(CLIENT, answer(UnknownTopicOrPartitionError))
    with pytest.raises(TopicRefused):
        check_shown(CLIENT, answer(TopicAuthorizationFailedError))
