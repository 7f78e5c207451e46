"""When it is told that no broker answers, and what ends it."""

from __future__ import annotations

from uic.core.ports import BrokersSilent
from uic.log.silence import PATIENCE_S, Silence

WHY = "no broker answers"


def test_one_question_without_an_answer_is_not_told() -> None:
    silence = Silence()
    assert silence.unanswered(WHY, 1.0) is None, "there was no answer yet, and the wait begins here"
    assert silence.answered() is None
    assert silence.unanswered(WHY, 2.0 + 3 * PATIENCE_S) is None, "nothing was asked before"
    assert silence.answered() is None


def test_silence_is_told_once_and_again_when_its_reason_changes() -> None:
    silence = Silence()
    assert silence.unanswered(WHY, 100.1) is None
    assert silence.unanswered(WHY, 100.1 + PATIENCE_S) == BrokersSilent(WHY)
    assert silence.unanswered(WHY, 101.0 + PATIENCE_S) is None
    assert silence.unanswered("refused", 102.0 + PATIENCE_S) == BrokersSilent("refused")
    assert silence.answered() == BrokersSilent("")
    assert silence.answered() is None
