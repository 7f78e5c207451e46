"""A partition that reads faster than the fold is left alone, and read again when half of its share is free."""

from __future__ import annotations

from uic.log.backpressure import Backpressure


def test_a_partition_is_full_above_its_share_until_half_of_it_is_free() -> None:
    pressure = Backpressure(20)
    for tag in (1, 2):
        pressure.begin(tag)
    pressure.gave(1, 10)
    assert not pressure.is_full(1)
    pressure.gave(1, 1)
    assert pressure.is_full(1)
    assert not pressure.is_full(2)
    pressure.took(1, 5)
    assert pressure.is_full(1)
    pressure.took(1, 1)
    assert not pressure.is_full(1)


def test_records_of_an_earlier_tag_do_not_count_against_the_new_one() -> None:
    pressure = Backpressure(10)
    pressure.begin(1)
    pressure.gave(1, 11)
    assert pressure.is_full(1)
    pressure.forget(1)
    pressure.begin(2)
    pressure.took(1, 11)
    pressure.gave(2, 10)
    assert not pressure.is_full(2)
