"""A member of a group collects its joins, claims what it holds, and waits for its coordinator and for the others."""

from __future__ import annotations

import asyncio
import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.assignors.abstract import RebalanceProtocol
from kafka.coordinator.base import BaseCoordinator
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.coordinator.heartbeat import Heartbeat
from kafka.errors import KafkaConnectionError
from kafka.future import Future
from kafka.protocol.consumer.metadata import ConsumerProtocolAssignment
from kafka.structs import MemberState

from uic.log.kafka_repairs import group
from uic.log.kafka_repairs.group import ClaimingAssignor, accepted_at

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


def coordinator(**state: Any) -> Any:
    """The repaired coordinator without a broker, in the state given."""
    made: Any = object.__new__(group._Coordinator)
    joined = {"events"}
    vars(made).update(
        rejoin_needed=False,
        _joined_subscription=joined,
        _assignment_snapshot=None,
        _metadata_snapshot={"events": {0}},
        _subscription=SimpleNamespace(partitions_auto_assigned=lambda: True, subscription=joined),
        config={"group_id": "group", "api_version": (4, 0)},
        _join_task=None,
        state=MemberState.STABLE,
    )
    vars(made).update(state)
    return made


def test_a_join_that_finished_between_two_polls_is_still_collected() -> None:
    member = coordinator(_assignment_snapshot={"events": set()})
    assert member.need_rejoin()  # the topic's partitions changed, and nothing else asks for a rejoin
    join = Future()
    member._join_task = join
    join.success(b"assignment")
    member._assignment_snapshot = member._metadata_snapshot  # as the leader does while it joins
    assert not ConsumerCoordinator.need_rejoin(member)  # the library would never look at the join again
    assert member.need_rejoin()
    assert not member._join_task.is_done  # nor begin another one
    collected: list[bytes] = []
    member._join_task.add_callback(collected.append)
    assert collected == [b"assignment"]
    member._join_task = None
    assert not member.need_rejoin()


def test_a_member_waits_for_its_coordinator_for_a_session_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now, found = 100.0, [KafkaConnectionError("away"), KafkaConnectionError("away"), True, KafkaConnectionError("away")]

    async def look(self: Any, timeout_ms: float | None = None) -> bool:
        if isinstance(seen := found.pop(0), bool):
            return seen
        raise seen

    monkeypatch.setattr(group, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(BaseCoordinator, "ensure_coordinator_ready_async", look)
    member = coordinator(
        config={"session_timeout_ms": 10_000, "retry_backoff_ms": 1},
        _manager=SimpleNamespace(_net=SimpleNamespace(sleep=asyncio.sleep)),
    )
    assert not asyncio.run(member.ensure_coordinator_ready_async())
    now += 9.9
    assert not asyncio.run(member.ensure_coordinator_ready_async())
    assert asyncio.run(member.ensure_coordinator_ready_async())
    now += 9.9
    assert not asyncio.run(member.ensure_coordinator_ready_async()), "this is another outage"
    found.append(KafkaConnectionError("away"))
    now += 10.0
    with pytest.raises(KafkaConnectionError):
        asyncio.run(member.ensure_coordinator_ready_async())


@pytest.mark.parametrize("kept", [ALL[:5], ALL], ids=["some are given up", "none is"])
def test_who_gives_partitions_up_joins_again_when_the_others_have_learned_what_they_got(
    kept: list[TopicPartition], monkeypatch: pytest.MonkeyPatch
) -> None:
    now, began = 100.0, time.monotonic()
    monkeypatch.setattr(group, "time", SimpleNamespace(monotonic=lambda: now))
    holds = SubscriptionState()
    holds.subscribe([TOPIC])
    holds.assign_from_subscribed(ALL)
    member = coordinator(
        _subscription=holds,
        _joined_subscription=holds.subscription,
        _is_leader=False,
        _lookup_assignor=lambda name: ClaimingAssignor(),
        _rebalance_protocol=RebalanceProtocol.COOPERATIVE,
        auto_commit_interval=5.0,
        heartbeat=Heartbeat(),
    )
    consumer: Any = SimpleNamespace(_coordinator=member)
    assert accepted_at(consumer) == -math.inf
    got = ConsumerProtocolAssignment(1, [(TOPIC, [tp.partition for tp in kept])], b"").encode()
    asyncio.run(member._on_join_complete_async(7, "member", "cooperative-sticky", got))
    assert holds.assigned_partitions() == set(kept)
    assert began <= accepted_at(consumer), "the coordinator has let it join"
    assert member.rejoin_needed == (kept != ALL)
    assert not member.need_rejoin()
    member.state = MemberState.UNJOINED  # the group has lost it
    assert member.need_rejoin() == (kept != ALL)
    member.state = MemberState.STABLE
    now += group.SECOND_ROUND_S
    assert member.need_rejoin() == (kept != ALL)
