"""`uic` itself: how it ends when its reader or its operator has had enough."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from uic import __main__ as uic


def test_a_reader_that_has_gone_ends_it_without_a_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        ended = subprocess.run([sys.executable, "-m", "uic", "--help"], stdout=out, stderr=subprocess.PIPE, check=False)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_ends_it_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(verb: str, arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(uic.COMMANDS, "state", interrupted)
    assert uic.main(["state", "ann"]) == 128 + signal.SIGINT
