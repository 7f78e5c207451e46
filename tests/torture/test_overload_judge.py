"""The fast size of the overload finds refusals that wait and an RTP that stays slow, and not a machine that stalls."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from localstack.wait import until
from torture.overload import recovered, slow
from torture.traffic import Answer
from torture.watching import Stalls

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


def test_a_stall_counts_for_the_part_that_lies_between_two_times() -> None:
    stalls = Stalls()
    stalls._seen = [(1.0, 2.0), (5.0, 5.5)]
    assert stalls.within(0.0, 1.0) == 0.0
    assert stalls.within(1.5, 5.25) == 0.75
    assert stalls.within(0.0, 9.0) == 1.5


def test_a_process_that_is_stopped_has_seen_a_stall() -> None:
    code = "import sys; from torture.watching import Stalls\n"
    code += "with Stalls() as stalls:\n    print('looks', flush=True); sys.stdin.readline()\nprint(bool(stalls._seen))"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout
        assert watching.stdin
        assert watching.stdout.readline() == "looks\n"
        began = time.monotonic()
        watching.send_signal(signal.SIGSTOP)
        until(lambda: time.monotonic() - began > 5 * Stalls.SHORTEST_S, "it was stopped for long", within_s=60)
        watching.send_signal(signal.SIGCONT)
        watching.stdin.write("\n")
        watching.stdin.flush()
        assert watching.stdout.readline() == "True\n"
