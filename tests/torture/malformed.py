"""One record in a hundred is malformed, of every class that a producer can make; the dead-letter topic goes away."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from ctr.event.v1.behavior_event_pb2 import BehaviorEvent
from localstack.topics import create_topics, delete_topics, topics
from localstack.wait import until
from mimn.state import partition_of
from support.world import World
from torture.stage import Size, Stage, Tally
from uic.core.event import Reason
from uic.core.letters import OFFSET, PARTITION, REASON

N = 8
JSON = [("content-type", b"application/json")]
Made = tuple[bytes | None, bytes, list[tuple[str, bytes]]]
"""Key, value and headers."""


def _event(user: str = "user-1", item: int = 3, **fields: Any) -> bytes:
    told = {"event_time": time.time_ns() // 1_000_000} | fields
    return BehaviorEvent(user_id=user, item_id=item, **told).SerializeToString()


CLASSES: dict[Reason, Callable[[], Made]] = {
    Reason.MISSING_KEY: lambda: (None, _event(), []),
    Reason.BAD_KEY: lambda: (b"\xff\xfe", _event(), []),
    Reason.MISROUTED: lambda: (b"user-1", _event(), []),
    Reason.TOO_LARGE: lambda: (b"user-1", _event() + b"\x7a\x00" * 33_000, []),
    Reason.MALFORMED_PROTOBUF: lambda: (b"user-1", b"\x0a\xff", []),
    Reason.MALFORMED_JSON: lambda: (b"user-1", b'{"userId": ', JSON),
    Reason.MISSING_USER: lambda: (b"user-1", _event(""), []),
    Reason.KEY_MISMATCH: lambda: (b"user-1", _event("user-2"), []),
    Reason.ITEM_ZERO: lambda: (b"user-1", _event(item=0), []),
    Reason.TEXT_ID: lambda: (b"user-1", _event(item=0, item_text="sku-1"), []),
    Reason.BAD_EVENT_ID: lambda: (b"user-1", _event(event_id="x" * 65), []),
    Reason.UNKNOWN_ACTION: lambda: (b"user-1", _event(action=99), []),
    Reason.BAD_TIME: lambda: (b"user-1", _event(event_time=1), []),
}
"""All but `non_finite`, which no record causes by itself."""


def every_malformed_record_is_a_dead_letter_and_no_event_is_lost(stage: Stage, size: Size) -> Tally:
    """100,000 records with 1 % of all classes, and the dead-letter topic away for 30 s (fast: 4,000, and 4 s)."""
    records, away_s = (100_000, 30) if size == "full" else (4000, 4)
    world = stage.world("malformed", stage.valkey().address, partitions=N, UIC_KAFKA__REQUEST_TIMEOUT_MS="3000")
    world.worker()
    due = _produce(world, records // 4)
    world.wait_folded(60)
    dlq = world.topics.dlq
    seen = _letters(world)
    delete_topics(world.topics.bootstrap, [dlq])
    began = time.monotonic()
    due |= _produce(world, records - records // 4)
    until(lambda: time.monotonic() - began >= away_s, "time passes", within_s=away_s + 60)
    create_topics(world.topics.bootstrap, [t for t in topics(world.topics.events, N) if t.name == dlq])
    took = world.wait_folded(120)
    seen |= _letters(world)
    wrong = [f"{place} is missing in the dead letters: {due[place]}" for place in due.keys() - seen.keys()]
    wrong += [f"{place} is a dead letter and no bad record" for place in seen.keys() - due.keys()]
    wrong += [f"{p} is {seen[p]} and not {due[p]}" for p in due.keys() & seen.keys() if seen[p] != due[p]]
    wrong += [f"no record of class {r}" for r in CLASSES.keys() - set(due.values())]
    return Tally.of(
        world.compare(), trials=len(due), faults=1, figures={"caught up after the topic was back, s": took}
    ) + Tally(wrong=tuple(wrong))


Letters = dict[tuple[int, int], Reason]
"""(partition, offset) → why."""


def _produce(world: World, records: int) -> Letters:
    """Events, and in each hundred one record that is not an event; and which ones those are."""
    due: Letters = {}
    classes = list(CLASSES)
    for n in range(records // 100):
        world.produce(99)
        reason = classes[n % len(classes)]
        key, value, headers = CLASSES[reason]()
        right = world.random.randrange(N) if key is None or reason is Reason.BAD_KEY else partition_of(key, N)
        at = (right + 1) % N if reason is Reason.MISROUTED else right
        landed = world.producer.send(world.topics.events, key=key, value=value, headers=headers, partition=at)
        place = (at, landed.get(timeout=60).offset)
        due[place] = reason
        world.dead.add(place)
    return due


def _letters(world: World) -> Letters:
    """What lies in the dead-letter topic, repeats dropped by offset."""
    consumer = KafkaConsumer(
        bootstrap_servers=world.topics.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    try:
        places = [TopicPartition(world.topics.dlq, p) for p in consumer.partitions_for_topic(world.topics.dlq) or ()]
        consumer.assign(places)
        ends = consumer.end_offsets(places)
        found: Letters = {}
        while any(consumer.position(place) < end for place, end in ends.items()):
            for records in consumer.poll(timeout_ms=200).values():
                for record in records:
                    told = dict(record.headers)
                    found[int(told[PARTITION]), int(told[OFFSET])] = Reason(told[REASON].decode())
        return found
    finally:
        consumer.close(autocommit=False)
