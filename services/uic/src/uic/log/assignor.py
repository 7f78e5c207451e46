"""Who gets which partition: cooperative-sticky, with members that claim what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kafka import TopicPartition
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor


class HonestAssignor(CooperativeStickyAssignor):  # type: ignore[misc]  # kafka-python has no types
    """On joining, a member claims the partitions that it holds then.

    kafka-python (seen in 3.0.12) claims what it was last assigned, also after the group had given it up and it has let
    go of everything. The leader keeps a claimed partition from its next owner until the claimant gives it up, which one
    that does not hold it never does: it was nobody's until the group changed again. Java's client claims what it holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.holds: Callable[[], Iterable[TopicPartition]] = tuple
        """Told once there is a consumer: its `assignment`."""

    def metadata(self, topics: Iterable[str]) -> Any:
        """What the member says of itself when it joins."""
        self.member_assignment = sorted(self.holds())
        return super().metadata(topics)
