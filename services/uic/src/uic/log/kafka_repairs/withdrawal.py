"""Takes records back that a producer has not begun to send, so that it is sure that they are not in the log."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from kafka import KafkaProducer
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecords, MemoryRecordsBuilder

from uic.log.kafka_repairs.producers import NeverSent


def withdraw(producer: KafkaProducer, futures: Collection[Any]) -> None:
    """Let those of `futures`, which `producer.send` gave, fail with `NeverSent` whose record waits for its first try.
    It is not sent any more. Other callers' records that wait in the same batch keep their place and their time.
    """
    accumulator = producer._accumulator
    ours = {id(future) for future in futures}
    for tp in {future._produce_future.topic_partition for future in futures}:
        with accumulator._tp_lock(tp):  # under which the sender takes what it sends
            if accumulator._closed:  # the sender tells all that waits
                return
            line = accumulator._batches[tp]
            for batch in [batch for batch in line if _is_new(batch)]:
                withdrawn = [future for future in batch._record_futures if id(future) in ours]
                if not withdrawn:
                    continue
                left = _without(batch, ours, accumulator.config)
                place = line.index(batch)
                del line[place]
                accumulator.deallocate(batch)
                if left is not None:
                    line.insert(place, left)
                    accumulator._incomplete.add(left)
                for future in withdrawn:  # and not the batch: those of other callers would hear it, too
                    future.failure(NeverSent("withdrawn"))


def _is_new(batch: Any) -> bool:
    """Whether nothing of it was ever sent; a half of one that was too large has its number of attempts."""
    return batch.drained is None and batch.attempts == 0


def _without(batch: Any, ours: Collection[int], config: Any) -> ProducerBatch | None:
    """A batch of the records whose futures are others, made as the library splits one; None if there are none."""
    batch.records.close()
    records = [record for part in MemoryRecords(batch.records.buffer()) for record in part]
    others = [pair for pair in zip(records, batch._record_futures, strict=True) if id(pair[1]) not in ours]
    if not others:
        return None
    # With room to spare: times are told as distances from the first record's, and those may be longer now.
    builder = MemoryRecordsBuilder(config["message_version"], config["compression_attrs"], 2 * config["batch_size"])
    left = ProducerBatch(batch.topic_partition, builder, now=batch.last_append)
    left.created, left.last_attempt, left.max_record_size = batch.created, batch.last_attempt, batch.max_record_size
    for record, future in others:
        added = builder.append(record.timestamp, record.key, record.value, record.headers)
        future.rebind(left.produce_future, added.offset)
        left._record_futures.append(future)
    return left
