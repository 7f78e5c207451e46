"""A command that no broker answers says that the same command goes on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from support.bulk_running import run


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
    assert "no broker answers at 127.0.0.1:" in last
    assert "the same command goes on" in last
