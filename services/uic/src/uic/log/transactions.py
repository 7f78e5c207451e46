"""Runs of commands that append in transactions, and that are run again where they could not finish.

All runs of a command into a topic have one transactional id. When a run begins, the brokers end the open transaction of
the run before it, and from then on they refuse what that one still has on its way. So what a run then finds in the log
is final.

It uses the library's public interface only. `docs/upstream.md` describes the faults of the library that it meets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import (
    InvalidProducerEpochError,
    InvalidTxnStateError,
    KafkaError,
    KafkaTimeoutError,
    ProducerFencedError,
    TransactionalIdAuthorizationFailedError,
)

from uic.errors import LogRefused, LogUnavailable
from uic.log.clients import explained, open_kafka_client
from uic.log.producer import EndableProducer, NewRecord, Position, producer_options
from uic.log.topic_answers import TO_WRITE, refusal
from uic.log.unreachable import unreachable

ABORT_S: Final = 5.0
"""How long a run that failed tries to end its transaction; the brokers end it after its timeout."""
_FENCED: Final = (InvalidProducerEpochError, InvalidTxnStateError, ProducerFencedError)


class Overtaken(KafkaError):  # type: ignore[misc]  # kafka-python has no types
    """The brokers take nothing more of this run: another one of its name has begun, or they have ended a transaction
    that was open for too long."""


class Run:
    """Appends until something fails; then close it. For one thread. See `open_run`."""

    def __init__(self, producer: KafkaProducer, timeout_s: float) -> None:
        """
        Args:
            producer: has a transactional id, and its transactions are initialized.
            timeout_s: how long flushing and how long committing a transaction may take.
        """
        self._producer = producer
        self._timeout_s = timeout_s
        self._is_open = False
        """Whether a transaction has begun and has not been committed."""

    def append(self, topic: str, records: Iterable[NewRecord]) -> list[Position]:
        """Append records in one transaction; where they landed, in their order.

        Raises:
            Overtaken: the brokers refuse this run.
            KafkaError: the first reason why the transaction failed. All records are in the log, or none.
        """
        sent: list[Any] = []
        self._is_open = True
        try:
            with explained(self._producer):
                self._producer.begin_transaction()
                for record in records:
                    sent.append(self._producer.send(topic, **record.options()))
                self._producer.flush(self._timeout_s)
                # The library also commits a transaction of which a record has failed.
                landed = [future.get(timeout=0) for future in sent]
                _within(self._timeout_s, self._producer.commit_transaction)
        except KafkaError as error:
            reason = _first_reason([future.exception for future in sent if future.failed()]) or error
            if isinstance(reason, _FENCED):
                raise Overtaken(
                    f"another run has begun since, or a transaction was open for longer than {self._timeout_s:g} s"
                ) from reason
            raise reason from reason.__cause__ or error.__cause__
        self._is_open = False
        return [Position(at.partition, at.offset) for at in landed]

    def close(self) -> None:
        """End it, and the transaction that is open, if any: readers of committed records wait for its end."""
        if self._is_open:
            with suppress(KafkaError):
                _within(min(ABORT_S, self._timeout_s), self._producer.abort_transaction)
        self._producer.close(timeout=0)


def open_run(client: Mapping[str, Any], name: str, *, timeout_s: float, max_request_bytes: int) -> Run:
    """Begin a run. Nothing more of earlier runs of this name is appended from now on. Close it.

    Args:
        client: options of the Kafka client (`bootstrap_servers` and what it takes to connect).
        name: of the run, the same for all that must not append beside each other: a transactional id.
        timeout_s: bounds connecting, beginning, and how long a transaction may be open.
        max_request_bytes: largest request, and so largest record.

    Raises:
        LogUnavailable: no answer in time.
        LogRefused: the right to use the transactional id is missing.
    """
    options = producer_options(timeout_s, max_request_bytes)
    options |= {"transactional_id": name, "transaction_timeout_ms": int(timeout_s * 1000)}
    try:
        producer = open_kafka_client(EndableProducer, **dict(client) | options)
        try:
            with explained(producer):
                producer.init_transactions()
        except BaseException:
            producer.close(timeout=0)
            raise
    except TransactionalIdAuthorizationFailedError as error:
        raise LogRefused(f"transactional id {name} {refusal(client, TO_WRITE, type(error))}") from error
    except ProducerFencedError as error:
        raise LogUnavailable(f"{name}: another run of this name has begun: wait until it has ended") from error
    except KafkaError as error:
        if isinstance(error, KafkaTimeoutError) and error.__cause__ is None:
            raise LogUnavailable(
                f"the brokers answer, and did not begin transactions of {name} within {timeout_s:g} s; nothing was "
                "appended. Kafka needs its topic __transaction_state, which a cluster of fewer brokers than "
                "transaction.state.log.replication.factor (3) cannot make, and each partition of the last run a leader"
            ) from error
        raise unreachable(client, error) from error
    return Run(producer, timeout_s)


def _first_reason(failures: Sequence[Exception]) -> Exception | None:
    """The first one that says more than that another record of the batch has failed; None if there are none."""
    return next((error for error in failures if type(error) is not KafkaError), next(iter(failures), None))


def _within(timeout_s: float, end_transaction: Callable[[], None]) -> None:
    """Call it on a thread of its own: the library waits for the brokers without a bound.

    Raises:
        KafkaTimeoutError: it goes on.
    """
    ended: Future[None] = Future()

    def call() -> None:
        try:
            end_transaction()
        except Exception as error:
            ended.set_exception(error)
        else:
            ended.set_result(None)

    threading.Thread(target=call, name="end-transaction", daemon=True).start()
    try:
        ended.result(timeout_s)
    except TimeoutError as error:
        raise KafkaTimeoutError(f"the transaction did not end within {timeout_s:g} s") from error
