"""The fast size of the overload finds a refusal that waits, and not a machine that stalls."""

from __future__ import annotations

import pytest

from torture.overload import slow

HEAD_S = 0.005
SCORES_S = [0.5] * 100
AT_ONCE, STALLED = 10e-6, 0.2


@pytest.mark.parametrize(
    ("refusals_s", "wrong"),
    [
        ([AT_ONCE] * 95 + [STALLED] * 5, 0),
        ([0.006] * 100, 1),  # each waits for one score
        ([AT_ONCE] * 60 + [0.4] * 40, 1),  # some wait in the line
        ([0.5] * 100, 2),  # all do
    ],
    ids=["stalls", "wait for a score", "some wait in the line", "all wait in the line"],
)
def test_refusals_are_held_against_the_scores_of_the_same_run(refusals_s: list[float], wrong: int) -> None:
    assert len(slow("fast", refusals_s, SCORES_S, HEAD_S)) == wrong


def test_in_full_all_but_one_in_a_hundred_take_5_ms() -> None:
    assert slow("full", [AT_ONCE] * 100 + [STALLED], SCORES_S, HEAD_S) == []
    assert slow("full", [AT_ONCE] * 95 + [0.0054] * 5, SCORES_S, HEAD_S) != []
