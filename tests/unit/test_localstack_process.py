"""Processes are known by pid and birth, and ended by pid; waiting has a deadline and says what it waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localstack.process import Child, Ended, Identity
from localstack.wait import NotReady, until

SLEEPER = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


def started(command: list[str], folder: Path) -> Child:
    child = Child("sleeper", command, log=folder / "sleeper.log")
    until(lambda: "up" in child.tail(), "the child runs", within_s=60, alive=child.check)
    return child


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Child]:
    child = started(SLEEPER, tmp_path)
    yield child
    child.kill()


def test_an_identity_is_alive_only_while_its_process_runs(sleeper: Child) -> None:
    identity = Identity.of(sleeper.pid)
    assert identity == sleeper.identity
    assert identity.alive()
    sleeper.kill()
    assert not identity.alive()
    with pytest.raises(Ended):
        Identity.of(sleeper.pid)


def test_a_pid_that_was_given_to_another_program_is_neither_alive_nor_signaled(sleeper: Child) -> None:
    stale = Identity(sleeper.pid, sleeper.identity.born - 3600)
    assert not stale.alive()
    assert stale.end(grace_s=1)
    assert sleeper.alive()


def test_an_identity_ends_a_process_that_is_not_its_child(tmp_path: Path) -> None:
    # The launcher that started the process is gone, as after `up`; only the pid file is left.
    script = f"from subprocess import *; print(Popen({SLEEPER!r}, stdout=DEVNULL, stderr=DEVNULL).pid)"
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    identity = Identity.of(pid)
    assert identity.alive()
    assert identity.end(grace_s=10)
    assert not identity.alive()


def test_a_process_that_ignores_sigterm_is_killed_after_the_grace_and_that_is_reported(tmp_path: Path) -> None:
    child = started(DEAF, tmp_path)
    assert child.identity.end(grace_s=0.2) is False
    assert not child.alive()
    child = started(DEAF, tmp_path / "again")
    assert child.stop(grace_s=0.2) == -signal.SIGKILL


def test_a_frozen_process_can_be_stopped_in_good_order(sleeper: Child) -> None:
    sleeper.freeze()
    assert sleeper.stop(grace_s=10) == -signal.SIGTERM


def test_a_child_lives_in_a_session_of_its_own_so_that_ctrl_c_reaches_the_launcher_alone(sleeper: Child) -> None:
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


def test_the_end_of_a_child_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "raise SystemExit('no such bundle')"], log=tmp_path / "broken.log")
    with pytest.raises(Ended, match=r"(?s)broken ended with status 1.*no such bundle"):
        until(lambda: False, "never", within_s=60, alive=child.check)


def test_waiting_returns_when_the_condition_holds_and_counts_a_refused_connection_as_not_yet() -> None:
    answers = iter([ConnectionRefusedError("refused"), False, True])

    def condition() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return bool(answer)

    until(condition, "it answers", within_s=60, every_s=0)
    assert next(answers, "exhausted") == "exhausted"


def test_waiting_ends_at_the_deadline_and_names_what_was_awaited_and_seen() -> None:
    def condition() -> bool:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(NotReady, match=r"not after 0.05 s: the store answers \(last: nobody listens\)"):
        until(condition, "the store answers", within_s=0.05)
