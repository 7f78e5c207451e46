"""When a topic counts as another one than a command began with, and when as grown."""

from __future__ import annotations

import pytest

from mimn.state import NO_TOPIC_ID
from uic.core.same_topic import Identity, has_grown, made_again

ID, OTHER = b"1" * 16, b"2" * 16


@pytest.mark.parametrize(
    ("begun", "now", "again", "grown"),
    [
        ((ID, 8), (ID, 8), False, False),
        ((ID, 8), (OTHER, 8), True, False),
        ((ID, 8), (OTHER, 9), True, False),
        ((ID, 8), (ID, 9), False, True),
        ((ID, 8), (ID, 4), False, False),
        ((NO_TOPIC_ID, 8), (NO_TOPIC_ID, 4), True, False),
        ((NO_TOPIC_ID, 8), (ID, 8), False, False),
        ((NO_TOPIC_ID, 8), (ID, 9), False, True),
    ],
)
def test_an_id_decides_and_only_without_one_the_number_of_partitions(
    begun: tuple[bytes, int], now: tuple[bytes, int], again: bool, grown: bool
) -> None:
    """With the same id and fewer partitions, a broker has not heard yet that the topic has grown."""
    at_first, later = Identity("events", *begun), Identity("events", *now)
    assert (made_again(at_first, later), has_grown(at_first, later)) == (again, grown)
