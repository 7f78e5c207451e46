"""Numbers of the commands' arguments: those that would end a command later are refused as such."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from uic.bulk.commands import backfill
from uic.tools import doctor
from uic.tools.arguments import count, positive


def test_numbers_are_read() -> None:
    assert (count("12"), positive("0.5"), positive("32e6")) == (12, 0.5, 32e6)


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "", "many", "²"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        count(text)


@pytest.mark.parametrize("text", ["0", "-3", "nan", "inf", "", "much"])
def test_what_is_not_positive_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        positive(text)


@pytest.mark.parametrize("option", ["--workers", "--memory-mib", "--bytes-per-s", "--latency-ms", "--sample"])
def test_a_backfill_does_not_begin_with_them(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        backfill.main(["--work", "work", option, "0"])
    assert option in capsys.readouterr().err


def test_the_doctor_needs_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--timeout", "-1"])
    assert "--timeout" in capsys.readouterr().err
