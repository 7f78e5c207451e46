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
        (rollout.main, "canary r1 --percent inf"),
        (rollout.main, "shadow r1 --percent -1"),
        (rollout.main, "plan bundle --rate 0"),
        (rollout.main, "plan bundle --generation -1"),
        (rollout.main, "wait r1 --whole -1"),
        (rollout.main, "promote r1 --keep-for 9999999d"),
        (rollout.main, f"wait r1 --timeout {'9' * 400}"),
        (rollout.main, "wait r1 --sample half"),
        (backfill.main, "--work folder --bytes-per-s 0"),
        (backfill.main, "--work folder --workers 0"),
        (backfill.main, "--work folder --verify --sample 0"),
        (backfill.main, "--work folder --memory-mib -5"),
        (backfill.main, "--work folder --workers many"),
        (doctor.main, "--timeout nan"),
        (state.main, "ann --top -3"),
        (state.main, "ann --top some"),
        (localstack.main, "up --empty --uic -1 --rtp 0"),
        (localstack.main, "up --rtp 0"),
        (snapshot.main, "create --to folder --days -1"),
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
