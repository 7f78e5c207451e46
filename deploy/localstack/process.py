"""A process that this package started: known by pid and birth, ended by pid, never by name.

A pid alone may since have been given to another program; pid and start time together name one process, also across
runs of the launcher (the pid file keeps both).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from localstack.signals import end_with_us, has_ended
from localstack.wait import NotReady, until

GRACE_S = 15.0
"""How long an orderly stop may take before the process is killed."""
_SLACK_S = 0.1
"""The kernel counts start times in hundredths of a second."""
_END_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the launcher has ended")
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Asks Linux for SIGTERM when the parent dies, then becomes the program, under the same pid. Not a `preexec_fn`: that
runs Python between fork and exec, which can deadlock once the launcher has threads. Python ignores SIGPIPE and SIGXFSZ,
which the program would inherit."""


class Ended(RuntimeError):
    """A process that should run has ended; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process: its pid, and when it was born, in seconds since the system booted: a clock that is set meanwhile
    changes nothing."""

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of the running process `pid`.

        Raises:
            Ended: there is no such process.
        """
        try:
            return cls(pid, _born(psutil.Process(pid)))
        except psutil.NoSuchProcess:
            raise Ended(f"process {pid} has ended") from None

    def alive(self) -> bool:
        """Whether this same process still runs (a zombie does not)."""
        return self._process() is not None

    def send(self, sign: signal.Signals) -> None:
        """Signal this process; nothing happens when it has ended."""
        if self._process() is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    def end(self, grace_s: float = GRACE_S) -> bool:
        """End the process: SIGTERM, and SIGKILL after `grace_s` seconds. Returns whether SIGTERM was enough."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            until(lambda: not self.alive(), f"process {self.pid} ends", within_s=grace_s)
        except NotReady:
            self.send(signal.SIGKILL)
            until(lambda: not self.alive(), f"process {self.pid} is killed", within_s=10)
            return False
        return True

    def _process(self) -> psutil.Process | None:
        try:
            process = psutil.Process(self.pid)
            same = abs(_born(process) - self.born) <= _SLACK_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def _born(process: psutil.Process) -> float:
    born: float = round(process.create_time() - psutil.boot_time(), 2)
    return born


class Child:
    """A started process that logs to a file, in a session of its own: Ctrl-C reaches the launcher alone.

    It ends with its launcher, however that ends: SIGTERM and SIGHUP end it first (`signals.end_with_us`), and on Linux
    the kernel sends it SIGTERM when the launcher dies of anything else. The kernel watches the thread that started the
    process, so it is asked only where that is the main thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        outlives: bool = False,
    ) -> None:
        """Start it.

        Args:
            name:     for messages.
            command:  the program and its arguments.
            log:      file that its output is appended to.
            env:      its variables; None: ours.
            pass_fds: descriptors that it inherits.
            outlives: it keeps running when the launcher has ended.

        Raises:
            Ended: it ended at once.
            OSError: the program does not exist or cannot be run.
        """
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        watched = not outlives and sys.platform == "linux" and threading.current_thread() is threading.main_thread()
        if watched:
            command = [sys.executable, "-I", "-S", "-c", _END_WITH_PARENT, str(os.getpid()), *command]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=dict(env) if env is not None else None,
                start_new_session=True,
                pass_fds=pass_fds,
            )
        try:
            self.identity = Identity.of(self._process.pid)
        except Ended:
            raise self._ended() from None
        if not outlives:
            end_with_us(self.identity.end)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def check(self) -> None:
        """Raise Ended, with the end of the log, unless the process runs."""
        if not self.alive():
            raise self._ended()

    def stop(self, grace_s: float = GRACE_S) -> int:
        """SIGTERM, and SIGKILL after `grace_s` seconds; return the exit status (negative: the signal)."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            status = self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            return self.kill()
        has_ended(self.identity.end)
        return status

    def kill(self) -> int:
        """SIGKILL, as a crash would; return the exit status."""
        self.send(signal.SIGKILL)
        status = self._process.wait(10)
        has_ended(self.identity.end)
        return status

    def listens(self, ports: Iterable[int]) -> bool:
        """Whether this process, and not another program that was there first, listens on all of `ports`. Reads the
        machine's whole table of connections, which takes milliseconds."""
        try:
            connections = psutil.Process(self.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}.issuperset(ports)

    def freeze(self) -> None:
        """SIGSTOP: alive, but silent. Returns when all of its threads have stopped, or when it has ended."""
        self.send(signal.SIGSTOP)
        if hasattr(os, "waitid"):  # not on macOS
            with contextlib.suppress(ChildProcessError):  # its end was waited for
                os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self.send(signal.SIGCONT)

    def send(self, sign: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.alive():
            self._process.send_signal(sign)

    def tail(self) -> str:
        """The last 20 lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace", encoding="utf-8").splitlines()[-20:])
        except FileNotFoundError:
            return ""

    def _ended(self) -> Ended:
        return Ended(f"{self.name} ended with status {self._process.poll()}; the end of {self.log}:\n{self.tail()}")
