"""A producer that holds a transaction open, as one that hangs does. Needs Apache Kafka."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from kafka import KafkaProducer

from support.for_test import TopicsForTest


class Transaction:
    """It begins now."""

    def __init__(self, bootstrap: str) -> None:
        self.producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            transactional_id=f"tx-{uuid4().hex}",
            acks="all",
            transaction_timeout_ms=600_000,  # else a broker would end it after a minute, in a slow test
        )
        self.producer.init_transactions()
        self.producer.begin_transaction()
        self._open = True

    def end(self, *, commit: bool) -> None:
        """Commit or abort it, if it is open."""
        if self._open:
            self._open = False
            (self.producer.commit_transaction if commit else self.producer.abort_transaction)()


@contextmanager
def open_transaction(
    topics: TopicsForTest, partitions: Iterable[int], key: bytes = b"in a transaction", value: bytes | None = b"x"
) -> Iterator[Transaction]:
    """A record in each of these partitions of the event topic, acknowledged and of one transaction, which is aborted
    afterwards unless the test has ended it."""
    transaction = Transaction(topics.bootstrap)
    try:
        for partition in partitions:
            transaction.producer.send(topics.events, key=key, value=value, partition=partition).get(timeout=60)
        yield transaction
        transaction.end(commit=False)
    finally:
        transaction.producer.close(timeout=5)
