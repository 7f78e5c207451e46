"""Which numbers of a source a topic has, and how those that it lacks are told."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from uic.bulk.history import Place
from uic.bulk.importing import There
from uic.bulk.numbers_there import BLOCK, Numbers

NUMBERS = st.integers(0, 3 * BLOCK)


@given(st.sets(NUMBERS), st.sets(NUMBERS))
def test_numbers_are_a_set(added: set[int], asked: set[int]) -> None:
    numbers = Numbers()
    for number in added:
        numbers.add(number)
    assert {number for number in added | asked if number in numbers} == added


def test_numbers_that_lie_far_apart_take_no_room_between_them() -> None:
    numbers = Numbers()
    for number in (0, 10**15):
        numbers.add(number)
    assert 10**15 in numbers
    assert 10**14 not in numbers
    assert len(numbers._blocks) == 2


def test_a_record_is_missing_between_others_and_not_behind_the_last_one_or_where_the_topic_was_cut() -> None:
    there = There("source", lanes={0: {0: 10}, 1: {0: 4}}, numbers={0: Numbers()})
    for number in (2, 4, 10):
        there.numbers[0].add(number)
    found = {(p, n) for p in range(3) for n in range(12) if there.should_have(p, Place(0, n))}
    assert found == {(0, n) for n in (0, 1, 3, 5, 6, 7, 8, 9)} | {(1, n) for n in (0, 1, 3)}
    there.cut = {0}
    assert not any(there.should_have(0, Place(0, n)) for n in range(12)), "the erasure may be gone that left it out"
    assert there.should_have(1, Place(0, 3))
    assert not there.should_have(1, Place(1, 3)), "nothing of its lane is there"
