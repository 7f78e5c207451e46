"""How long no broker has answered: when that is told, when a worker counts as out of its group, and what ends it."""

from __future__ import annotations

from uic.core.ports import BrokersSilent
from uic.log.silence import PATIENCE_S, SESSIONS, Silence

WHY = "no broker answers"
SESSION_S = 10.0
OUT_S = SESSIONS * SESSION_S


def silent_for(seconds: float) -> Silence:
    """As its last question, the first one since an answer was not answered at 100.1."""
    silence = Silence(SESSION_S)
    assert silence.answered(100.0) is None
    assert silence.unanswered(WHY, 100.1) is None
    silence.unanswered(WHY, 100.0 + seconds)
    return silence


def test_one_question_without_an_answer_is_not_told() -> None:
    silence = Silence(SESSION_S)
    assert silence.unanswered(WHY, 1.0) is None, "there was no answer yet, and the wait begins here"
    assert silence.answered(2.0) is None
    assert silence.unanswered(WHY, 2.0 + 3 * PATIENCE_S) is None, "nothing was asked before"
    assert silence.answered(2.0 + 4 * PATIENCE_S) is None


def test_silence_is_told_once_and_again_when_its_reason_changes() -> None:
    silence = silent_for(PATIENCE_S - 1)
    assert silence.unanswered(WHY, 100.1 + PATIENCE_S) == BrokersSilent(WHY)
    assert silence.unanswered(WHY, 101.0 + PATIENCE_S) is None
    assert silence.unanswered("refused", 102.0 + PATIENCE_S) == BrokersSilent("refused")
    assert silence.answered(103.0 + PATIENCE_S) == BrokersSilent("")
    assert silence.is_member(104.0 + PATIENCE_S) is None


def test_after_several_sessions_a_worker_is_out_of_the_group_until_the_coordinator_has_it() -> None:
    silence = silent_for(OUT_S - 1)
    assert silence.unanswered(WHY, 100.0 + OUT_S) == BrokersSilent(WHY, out_of_group=True)
    assert silence.answered(101.0 + OUT_S) == BrokersSilent("", out_of_group=True), "a broker alone is no coordinator"
    assert silence.is_member(102.0 + OUT_S) == BrokersSilent("")
    assert silence.is_member(103.0 + OUT_S) is None


def test_what_the_coordinator_accepts_ends_the_silence_and_begins_its_time_again() -> None:
    silence = silent_for(OUT_S)
    assert silence.is_member(101.0 + OUT_S) == BrokersSilent("")
    assert silence.unanswered(WHY, 102.0 + OUT_S) is None, "a question of before"
    assert silence.unanswered(WHY, 102.0 + OUT_S + PATIENCE_S) == BrokersSilent(WHY)
    assert silence.unanswered(WHY, 100.0 + 2 * OUT_S) is None
    assert silence.unanswered(WHY, 101.0 + 2 * OUT_S) == BrokersSilent(WHY, out_of_group=True)
