"""How a command that trains ends."""

from __future__ import annotations

import pytest

from mimn.training.command import resumable
from mimn.training.folder import TrainingFailed

pytestmark = pytest.mark.torch


def ended(raised: BaseException | None = None) -> int:
    with resumable(TrainingFailed, OSError) as ended:
        if raised is not None:
            raise raised
    return ended.status


def test_a_command_without_trouble_ends_with_0_and_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended() == 0
    assert capsys.readouterr() == ("", "")


def test_a_failure_that_it_names_is_a_message_and_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(TrainingFailed("the loss is not finite")) == 1
    assert capsys.readouterr() == ("", "error: the loss is not finite\n")


def test_ctrl_c_is_130_and_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "interrupted; the same command continues from here\n")


def test_an_error_that_it_does_not_name_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError())
