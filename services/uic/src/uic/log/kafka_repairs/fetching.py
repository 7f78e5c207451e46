"""Fetches of a worker, and where it reads on."""

from __future__ import annotations

from typing import Any

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import InvalidReceiveError, TopicAuthorizationFailedError
from kafka.util import Timer

from uic.log.connection_causes import answers_with_tls
from uic.log.kafka_repairs.clients import open_kafka_client
from uic.log.kafka_repairs.offsets import LeaderAwareFetcher
from uic.log.kafka_repairs.partition_records import PartitionBatches, read_batches_with_uic
from uic.settings import MAX_BATCH_BYTES


class WorkerFetcher(LeaderAwareFetcher):
    """A fetcher that remembers an answer which was too large to be read, and which partitions may not be read.

    Of the first, the library only logs it, closes the connection and asks the same again, forever. The second it
    raises, once for each partition, so one who polls does not see when the right is granted: an answer with nothing
    new names no partitions.
    """

    too_large: str = ""
    refused: frozenset[TopicPartition] = frozenset()
    """Partitions whose last fetch was refused."""
    answered = False
    """Whether a fetch was answered without a refusal."""

    def _handle_fetch_response(self, node_id: Any, fetch_offsets: Any, send_time: float, response: Any) -> None:
        if not response.error_code:
            refused = {
                TopicPartition(topic.topic, found.partition_index)
                for topic in response.responses
                for found in topic.partitions
                if found.error_code == TopicAuthorizationFailedError.errno
            }
            self.refused = self.refused.difference(fetch_offsets) | refused
            self.answered |= not refused
        super()._handle_fetch_response(node_id, fetch_offsets, send_time, response)

    def _parse_fetched_data(self, completed_fetch: Any) -> Any:
        if completed_fetch.partition_data.error_code == TopicAuthorizationFailedError.errno:
            self._subscriptions.move_partition_to_end(completed_fetch.topic_partition)
            return None
        return super()._parse_fetched_data(completed_fetch)

    def _handle_fetch_error(self, node_id: Any, exception: BaseException) -> None:
        if isinstance(exception, InvalidReceiveError) and not answers_with_tls(exception):
            self.too_large = str(exception)
        super()._handle_fetch_error(node_id, exception)


def open_consumer(*, most_bytes: int = MAX_BATCH_BYTES, **options: Any) -> KafkaConsumer:
    """A consumer with all repairs, which hands out `FetchedBatch`es. Assign its partitions next.

    `most_bytes` is the most that a batch may be when decompressed; `options` are the library's.
    """
    consumer = open_kafka_client(KafkaConsumer, **options)
    read_batches_with_uic(consumer, PartitionBatches, most_bytes=most_bytes)
    consumer._fetcher.__class__ = WorkerFetcher
    return consumer


def too_large(consumer: KafkaConsumer) -> str:
    """What the library said of an answer that was larger than `receive_message_max_bytes`; empty if none was."""
    found: str = consumer._fetcher.too_large
    return found


def fetch_refused(consumer: KafkaConsumer) -> bool | None:
    """Whether the brokers refuse to let this user read; None before the first fetch is answered."""
    fetcher = consumer._fetcher
    if fetcher.refused & consumer.assignment():
        return True
    return False if fetcher.answered else None


def poll_once(consumer: KafkaConsumer, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
    """What `consumer` has fetched. Waits up to `timeout_ms` for the answer to an open fetch and ends with it, empty or
    not; `KafkaConsumer.poll` fetches again and again until its time is over."""
    fetched: dict[TopicPartition, list[Any]] = consumer._poll_once(
        Timer(timeout_ms), consumer.config["max_poll_records"]
    )
    return fetched


def position(consumer: KafkaConsumer, tp: TopicPartition) -> int | None:
    """Where the client reads on, without a network call (`KafkaConsumer.position` may fetch committed offsets)."""
    state = consumer._subscription.assignment.get(tp)
    return None if state is None or state.position is None else int(state.position.offset)


def unblock_paused(consumer: KafkaConsumer) -> None:
    """Let the library hand out what it had fetched of a partition before that was paused.

    It puts such records aside and takes them back only when its place for the records in line is None; after use it
    holds an empty object instead, so a resumed partition would stay silent forever.
    """
    fetcher = consumer._fetcher
    if fetcher._next_partition_records is not None and not fetcher._next_partition_records:
        fetcher._next_partition_records = None
