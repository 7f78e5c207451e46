"""What imports and replays say where the brokers refuse them, or do not answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import (
    InvalidProducerEpochError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    NotEnoughReplicasError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailedError,
)

from mimn.state import NO_TOPIC_ID
from uic.bulk.errors import BulkRefused
from uic.bulk.importing import Importer
from uic.errors import LogRefused, LogUnavailable
from uic.log import transactions
from uic.log.erasures import KafkaErasures
from uic.log.partition_reader import TopicBounds
from uic.log.producer import NewRecord
from uic.log.transactions import Overtaken, Run, open_run

CLIENT = {"sasl_plain_username": "uic", "bootstrap_servers": ["nowhere:1"]}
RECORD = NewRecord(0, b"u1", b"value")


class Sent:
    """The future of a record."""

    def __init__(self, exception: Exception | None) -> None:
        self.exception = exception

    def failed(self) -> bool:
        return self.exception is not None

    def get(self, timeout: float) -> Any:
        if self.exception is not None:
            raise self.exception
        return SimpleNamespace(partition=0, offset=7)


class FakeProducer:
    """The library's, of which a record fails, or which does not end transactions."""

    def __init__(self, *failures: Exception | None, hangs: bool = False) -> None:
        self.failures = list(failures)
        self.hangs = hangs
        self.said: list[str] = []

    def init_transactions(self) -> None:
        if self.failures and (error := self.failures.pop()) is not None:
            raise error

    def begin_transaction(self) -> None:
        self.said.append("begin")

    def send(self, topic: str, **_: object) -> Sent:
        return Sent(self.failures.pop(0) if self.failures else None)

    def flush(self, timeout: float) -> None:
        self.said.append("flush")

    def commit_transaction(self) -> None:
        self.said.append("commit")
        if self.hangs:
            threading.Event().wait()

    def abort_transaction(self) -> None:
        self.said.append("abort")

    def close(self, timeout: float) -> None:
        self.said.append("close")


@contextmanager
def running(*failures: Exception | None, hangs: bool = False) -> Iterator[tuple[Run, FakeProducer]]:
    producer = FakeProducer(*failures, hangs=hangs)
    run = Run(producer, 0.2)
    yield run, producer
    run.close()


def test_a_transaction_of_which_a_record_failed_is_not_committed() -> None:
    """The library would commit it."""
    with running(None, KafkaTimeoutError("late")) as (run, producer), pytest.raises(KafkaTimeoutError, match="late"):
        run.append("events", [RECORD, RECORD])
    assert producer.said == ["begin", "flush", "abort", "close"]


def test_a_commit_that_hangs_ends_within_its_time() -> None:
    with running(hangs=True) as (run, producer), pytest.raises(KafkaTimeoutError, match=r"did not end within 0\.2 s"):
        run.append("events", [RECORD])
    assert producer.said == ["begin", "flush", "commit", "abort", "close"]


def test_a_run_that_another_one_shut_out_is_overtaken() -> None:
    part = KafkaError("it was part of a batch")
    with (
        running(part, InvalidProducerEpochError()) as (run, _),
        pytest.raises(Overtaken, match="another run has begun"),
    ):
        run.append("events", [RECORD, RECORD])


def test_a_run_that_is_committed_leaves_nothing_to_abort() -> None:
    with running() as (run, producer):
        assert [at.offset for at in run.append("events", [RECORD])] == [7]
    assert producer.said == ["begin", "flush", "commit", "close"]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            TopicAuthorizationFailedError("events"),
            LogUnavailable,
            "topic events is refused: user uic needs WRITE on it",
        ),
        (NotEnoughReplicasError(), LogUnavailable, "run the import again"),
        (InvalidTimestampError(), BulkRefused, "raise its message.timestamp.after.max.ms"),
        (Overtaken("another run has begun since"), BulkRefused, "wait until no other import runs"),
    ],
)
def test_why_an_import_ends_is_named(error: KafkaError, kind: type[Exception], said: str) -> None:
    def append(topic: str, records: object) -> None:
        raise error

    erasures = KafkaErasures(CLIENT, "events", 1, timeout_s=1.0)
    bounds = TopicBounds("events", NO_TOPIC_ID, [], [])
    importer = Importer(CLIENT, bounds, erasures, timeout_s=1.0, max_request_bytes=1)
    with pytest.raises(kind, match=said):
        importer._commit(SimpleNamespace(append=append), "events", [])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (
            TransactionalIdAuthorizationFailedError(),
            LogRefused,
            "transactional id events.import is refused: user uic needs WRITE on it",
        ),
        (KafkaTimeoutError("init"), LogUnavailable, "Kafka needs its topic __transaction_state"),
    ],
)
def test_why_a_run_does_not_begin_is_named(
    error: KafkaError, kind: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transactions, "open_kafka_client", lambda *_, **__: FakeProducer(error))
    with pytest.raises(kind, match=said):
        open_run(CLIENT, "events.import", timeout_s=1.0, max_request_bytes=1)
