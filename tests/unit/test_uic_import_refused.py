"""What imports and replays say of a right that they lack."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kafka.errors import NotEnoughReplicasError, TopicAuthorizationFailedError

from mimn.state import NO_TOPIC_ID
from uic.bulk import importing
from uic.bulk.importing import Importer
from uic.errors import LogRefused, LogUnavailable
from uic.log import bounded_producer
from uic.log.bounded_producer import open_run
from uic.log.erasures import KafkaErasures
from uic.log.partition_reader import TopicBounds


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (TopicAuthorizationFailedError("events"), "topic events is refused: user uic needs WRITE on it"),
        (NotEnoughReplicasError(), "(NotEnoughReplicasError): run the import again"),
    ],
)
def test_a_right_that_is_taken_away_while_an_import_runs_is_named(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "open_run", lambda *_, **__: SimpleNamespace(close=lambda timeout: None))
    monkeypatch.setattr(importing, "failure_of_run", lambda producer: None)
    client = {"sasl_plain_username": "uic"}
    erasures = KafkaErasures(client, "events", 1, timeout_s=1.0)
    bounds = TopicBounds("events", NO_TOPIC_ID, [], [])
    importer = Importer(client, bounds, erasures, timeout_s=1.0, max_request_bytes=1)
    with pytest.raises(LogUnavailable) as raised, importer._begun("events", [0]):
        raise error
    assert said in raised.value.detail
    assert "run the import again" in raised.value.detail


@pytest.mark.parametrize(("refused", "right"), [("begin_run", "WRITE"), ("without_marker", "READ")])
def test_a_run_names_the_right_that_each_of_its_questions_needs(
    refused: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who writes to a partition is told only to who may read it."""

    def refuse(*_: object) -> None:
        raise TopicAuthorizationFailedError("events")

    monkeypatch.setattr(
        bounded_producer, "open_kafka_client", lambda *_, **__: SimpleNamespace(close=lambda timeout=0: None)
    )
    monkeypatch.setattr(bounded_producer, "begin_run", lambda *_: None)
    monkeypatch.setattr(bounded_producer, refused, refuse)
    options = {"sasl_plain_username": "uic"}
    with pytest.raises(LogRefused, match=f"topic events is refused: user uic needs {right} on it"):
        open_run(options, "events.import", "events", [0], timeout_s=1.0, max_request_bytes=1)
