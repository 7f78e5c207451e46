"""A command that waits for brokers says so, and says that it goes on when they did not answer."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from localstack.wait import until
from support.bulk_running import run
from uic.bulk import waiting_line
from uic.bulk.commands.servers import says_it_goes_on
from uic.bulk.waiting_line import says_if_it_waits
from uic.errors import LogUnavailable, TopicRefused


def test_a_body_that_waits_is_told_and_one_that_does_not_is_quiet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with says_if_it_waits("the brokers"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(waiting_line, "EVERY_S", 0.01)
    told: list[str] = []

    def waits() -> bool:
        told.append(capsys.readouterr().err)
        return len(re.findall(r"waiting for the brokers, \d+ s\n", "".join(told))) >= 2

    with says_if_it_waits("the brokers"):
        until(waits, "it says twice that it waits", within_s=60)
    capsys.readouterr()
    assert capsys.readouterr().err == ""


def test_what_stays_as_it_is_until_it_is_corrected_is_not_told_to_go_on() -> None:
    with pytest.raises(LogUnavailable, match=r"^away\. What is written stays, and the same command goes on$"):  # noqa: SIM117
        with says_it_goes_on():
            raise LogUnavailable("away")
    with pytest.raises(TopicRefused, match=r"^topic a is refused$"), says_it_goes_on():
        raise TopicRefused("topic a is refused")


def test_an_archive_that_no_broker_answers_says_that_it_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as nothing:
        nothing.bind(("127.0.0.1", 0))  # and nothing listens
        told = {
            "UIC_KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{nothing.getsockname()[1]}",
            "UIC_KAFKA__REQUEST_TIMEOUT_MS": "2000",
        }
        assert run(told, "archive", "--to", str(tmp_path / "archive"))[0] == 1
    [*_, last] = capsys.readouterr().err.splitlines()
    assert last.startswith("ctr archive: no broker answers at 127.0.0.1:")
    assert last.endswith(". What is written stays, and the same command goes on")
