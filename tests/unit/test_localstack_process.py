"""Processes are known by pid and birth, and ended by pid; waiting has a deadline and says what it waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from localstack.process import Child, Ended, Identity
from localstack.wait import until

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


def test_an_identity_holds_when_the_clock_is_set(
    sleeper: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux moves its boot time when the clock is set, and computes start times from it."""
    set_forward = [
        f"btime {int(line.split()[1]) + 3600}" if line.startswith("btime") else line
        for line in Path("/proc/stat").read_text().splitlines()
    ]
    (tmp_path / "stat").write_text("\n".join(set_forward))
    (tmp_path / str(sleeper.pid)).symlink_to(f"/proc/{sleeper.pid}")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
    assert sleeper.identity.alive()


def test_an_identity_ends_a_process_that_is_not_its_child(tmp_path: Path) -> None:
    # The launcher that started the process is gone, as after `up`; only the pid file is left.
    script = f"from subprocess import *; print(Popen({SLEEPER!r}, stdout=DEVNULL, stderr=DEVNULL).pid)"
    pid = int(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
    identity = Identity.of(pid)
    assert identity.alive()
    assert identity.end(grace_s=10)
    assert not identity.alive()


def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    child = started(DEAF, tmp_path)
    assert child.identity.end(grace_s=0.2) is False
    assert not child.alive()
    child = started(DEAF, tmp_path / "again")
    assert child.stop(grace_s=0.2) == -signal.SIGKILL


def test_a_frozen_process_can_be_stopped_in_good_order(sleeper: Child) -> None:
    sleeper.freeze()
    assert sleeper.stop(grace_s=10) == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: its /proc says of each thread that it stopped")
def test_a_process_has_stopped_with_all_its_threads_when_it_is_frozen(tmp_path: Path) -> None:
    work = "threading.Thread(target=lambda: [pow(3, 10**6) for _ in iter(int, 1)]).start()"
    busy = f"import threading\nfor _ in range(3): {work}"
    child = Child("busy", [sys.executable, "-c", busy], log=tmp_path / "log")
    tasks = Path(f"/proc/{child.pid}/task")
    try:
        until(lambda: len(list(tasks.iterdir())) == 4, "the threads run", within_s=30, alive=child.check)
        for _ in range(10):
            child.freeze()
            states = {(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks.iterdir()}
            assert states == {"T"}
            child.thaw()
    finally:
        child.kill()
    child.freeze()  # one that has ended


def test_a_child_lives_in_a_session_of_its_own(sleeper: Child) -> None:
    assert os.getsid(sleeper.pid) == sleeper.pid != os.getsid(0)


LAUNCHER = """
import sys, threading, time
from pathlib import Path
from localstack.process import Child
folder, outlives, thread = Path(sys.argv[1]), sys.argv[2] == "outlives", sys.argv[3] == "thread"
program = [sys.executable, "-c", "import time; time.sleep(600)"]
children = []
def start():
    for name in ("older", "newer"):
        children.append(Child(name, program, log=folder / (name + ".log"), outlives=outlives))
if thread:
    Child("first", program, log=folder / "first.log")
    starting = threading.Thread(target=start)
    starting.start()
    starting.join()
else:
    start()
print(*(f"{child.identity.pid} {child.identity.born}" for child in children), flush=True)
time.sleep(600)
"""


def launched(folder: Path, *how: str) -> tuple[subprocess.Popen[str], list[Identity]]:
    """A launcher that handles no signal itself, and the two children that it has started."""
    command = ["env", "--default-signal=TERM,HUP,INT", sys.executable, "-c", LAUNCHER, str(folder), *how]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout
    words = launcher.stdout.readline().split()
    return launcher, [Identity(int(pid), float(born)) for pid, born in zip(words[::2], words[1::2], strict=True)]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_children_and_then_their_launcher(tmp_path: Path, sign: signal.Signals) -> None:
    launcher, children = launched(tmp_path, "ends", "main")
    assert all(child.alive() for child in children)
    launcher.send_signal(sign)
    assert launcher.wait(60) == -sign  # as its parent expects: dead of the signal
    assert not any(child.alive() for child in children)


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: only its kernel tells a child that its parent died")
def test_children_end_when_their_launcher_is_killed(tmp_path: Path) -> None:
    launcher, children = launched(tmp_path, "ends", "main")
    launcher.kill()
    launcher.wait(60)
    until(lambda: not any(child.alive() for child in children), "the children have ended", within_s=60)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL])
def test_children_that_outlive_their_launcher_keep_running(tmp_path: Path, sign: signal.Signals) -> None:
    launcher, children = launched(tmp_path, "outlives", "main")
    launcher.send_signal(sign)
    launcher.wait(60)
    try:
        assert all(child.alive() for child in children)
    finally:
        assert all(child.end(grace_s=10) for child in children)


def test_a_child_of_a_thread_outlives_the_thread(tmp_path: Path) -> None:
    """The kernel counts a thread as the parent, and threads end before their launcher does."""
    launcher, children = launched(tmp_path, "ends", "thread")
    assert all(child.alive() for child in children)
    launcher.terminate()
    launcher.wait(60)


def test_a_child_starts_with_the_signals_and_variables_that_it_was_given(tmp_path: Path) -> None:
    program = "import os; print(os.environ['GIVEN'], os.getppid())"
    child = Child("one", [sys.executable, "-c", program], log=tmp_path / "one.log", env={**os.environ, "GIVEN": "yes"})
    until(lambda: not child.alive(), "it has ended", within_s=60)
    assert child.tail() == f"yes {os.getpid()}"
    plain = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=False)
    if plain.returncode == 0:  # Linux: the set of ignored signals is an ordinary child's
        shown = Child("two", ["cat", "/proc/self/status"], log=tmp_path / "two.log")
        until(lambda: not shown.alive(), "it has ended", within_s=60)
        ignored = [line for line in plain.stdout.splitlines() if line.startswith("SigIgn")]
        assert ignored == [line for line in shown.log.read_text().splitlines() if line.startswith("SigIgn")]


def test_the_end_of_a_child_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    child = Child("broken", [sys.executable, "-c", "raise SystemExit('no such bundle')"], log=tmp_path / "broken.log")
    with pytest.raises(Ended, match=r"(?s)broken ended with status 1.*no such bundle"):
        until(lambda: False, "never", within_s=60, alive=child.check)


def test_waiting_counts_a_refused_connection_as_not_yet() -> None:
    answers = iter([ConnectionRefusedError("refused"), False, True])

    def condition() -> bool:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return bool(answer)

    until(condition, "it answers", within_s=60, every_s=0)
    assert next(answers, "exhausted") == "exhausted"
