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


@pytest.mark.parametrize(("given", "in_effect"), [(None, "NONE"), ("INFO", "INFO")])
def test_grpcs_core_is_silent_unless_an_operator_lets_it_speak(given: str | None, in_effect: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    if given is not None:
        environment["GRPC_VERBOSITY"] = given
    looks = (
        "import sys, os, uic.__main__; assert 'grpc' not in sys.modules, 'it would have read the variable'; "
        "print(os.environ['GRPC_VERBOSITY'])"
    )
    ended = subprocess.run([sys.executable, "-c", looks], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == in_effect
