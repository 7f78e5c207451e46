"""The fast size of the overload finds refusals that wait and an RTP that stays slow, and not a machine that stalls."""

from __future__ import annotations

import math

import pytest

from torture.overload import recovered, slow
from torture.traffic import Answer

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


@pytest.mark.parametrize(
    ("failed_s", "fast_s", "full_s"),
    [
        ([], 0.0, 0.0),
        ([0.2, 0.9, 1.3], 1.3, 1.3),
        ([0.2, 5.6], 0.2, 5.6),  # a stall of the machine
        ([tenth / 2 for tenth in range(13)], math.inf, 6.0),  # some fail all the time
    ],
    ids=["nothing failed", "it recovers", "a later stall", "never"],
)
def test_it_is_itself_again_once_a_whole_second_is_scored(failed_s: list[float], fast_s: float, full_s: float) -> None:
    ended = 1000.0
    due_s = sorted({*failed_s, *(tenth / 10 for tenth in range(61))})
    answers = [Answer(ended + at, 0.1, 0.1, 503 if at in failed_s else 200, "", True) for at in due_s]
    assert recovered(answers, ended, "fast") == pytest.approx(fast_s)
    assert recovered(answers, ended, "full") == pytest.approx(full_s)
