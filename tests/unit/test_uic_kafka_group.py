"""A member of a group claims what it holds, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment

from uic.log.kafka_repairs.group import ClaimingAssignor

TOPIC = "behavior-events"
ALL = [TopicPartition(TOPIC, p) for p in range(8)]
CLUSTER = SimpleNamespace(topics=lambda: {TOPIC}, partitions_for_topic=lambda topic: set(range(8)))


def member(name: str, assigned: list[TopicPartition], holds: list[TopicPartition]) -> tuple[str, ClaimingAssignor]:
    assignor = ClaimingAssignor()
    assignor.holds = lambda: holds
    partitions = [tp.partition for tp in assigned]
    assignor.on_assignment(ConsumerProtocolAssignment(1, [(TOPIC, partitions)], b""), 7)
    return name, assignor


def joined(*members: tuple[str, ClaimingAssignor]) -> dict[str, set[TopicPartition]]:
    """What each gets in one round of a rebalance."""
    told: Any = [SimpleNamespace(member_id=name, metadata=a.metadata([TOPIC])) for name, a in members]
    found = members[0][1].assign(CLUSTER, told)
    return {name: set(assignment.partitions()) for name, assignment in found.items()}


def test_who_lost_its_partitions_claims_none_and_each_gets_an_owner_at_once() -> None:
    got = joined(member("woke up", ALL, []), member("new", [], []))
    assert got["woke up"] | got["new"] == set(ALL)
    assert len(got["woke up"]) == len(got["new"]) == 4


def test_what_is_held_stays_where_it_is_until_it_is_given_up() -> None:
    got = joined(member("old", ALL, ALL), member("new", [], []))
    assert got["new"] == set()
    assert len(got["old"]) == 4
    kept = sorted(got["old"])
    assert joined(member("old", kept, kept), member("new", [], []))["new"] == set(ALL) - set(kept)
