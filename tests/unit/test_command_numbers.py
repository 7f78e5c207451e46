"""A number that an option cannot have is wrong usage, named before anything is asked or written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from localstack import __main__ as localstack
from uic.bulk.commands import backfill, snapshot
from uic.rollout import main as rollout
from uic.tools import state
from uic.tools.doctor import command as doctor


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (rollout.main, "canary r1 --percent nan"),
        (rollout.main, "shadow r1 --percent -1"),
        (rollout.main, "wait r1 --whole -1"),
        (backfill.main, "--work folder --bytes-per-s 0"),
        (backfill.main, "--work folder --workers 0"),
        (doctor.main, "--timeout nan"),
        (state.main, "ann --top -3"),
        (localstack.main, "up --empty --uic -1 --rtp 0"),
        (snapshot.main, "restore --from folder --latency-ms nan"),
    ],
)
def test_a_number_that_an_option_cannot_have_is_wrong_usage(
    command: Callable[[list[str]], int], arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command(arguments.split())
    assert left.value.code == 2
    assert " is not a " in capsys.readouterr().err
