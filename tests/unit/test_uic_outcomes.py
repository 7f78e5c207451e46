"""How a record's transaction ended is what its producer's next marker in the partition says."""

from __future__ import annotations

from uic.log.outcomes import Outcomes


def test_a_record_shares_the_fate_of_the_next_marker_of_its_producer() -> None:
    outcomes = Outcomes()
    outcomes.note("p", 7, 10, commits=True)
    outcomes.note("p", 7, 20, commits=False)
    assert outcomes.committed("p", 7, 9)
    assert not outcomes.committed("p", 7, 11), "aborted at 20"
    assert not outcomes.committed("p", 7, 21), "still open"


def test_a_marker_says_nothing_of_other_producers_and_partitions() -> None:
    outcomes = Outcomes()
    outcomes.note("p", 7, 10, commits=True)
    assert not outcomes.committed("p", 8, 5)
    assert not outcomes.committed("q", 7, 5)


def test_markers_that_are_read_again_change_nothing() -> None:
    outcomes = Outcomes()
    for _ in range(2):
        outcomes.note("p", 7, 10, commits=True)
        outcomes.note("p", 7, 20, commits=False)
    assert outcomes.committed("p", 7, 5)
    assert not outcomes.committed("p", 7, 15)
