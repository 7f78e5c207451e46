"""A process that this package started: known by pid and birth, ended by pid, never by name.

A pid alone may have been given to another program since; pid and start time together name one process, also across
runs of the launcher (the state file keeps both).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from localstack.wait import NotReady, until

GRACE_S = 15.0
"""How long an orderly stop may take before the process is killed."""
_CLOCK_SLACK_S = 2.0
"""A process's start time is computed from the clock, which may have been set a little in between."""


class Ended(RuntimeError):
    """A process that should run has ended; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One process, for ever: a pid and when it was born (seconds since 1970)."""

    pid: int
    born: float

    @classmethod
    def of(cls, pid: int) -> Identity:
        """The identity of the running process `pid`.

        Raises:
            Ended: there is no such process.
        """
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            raise Ended(f"process {pid} has ended") from None

    def alive(self) -> bool:
        """Whether this very process still runs (a zombie does not)."""
        return self._process() is not None

    def send(self, sign: signal.Signals) -> None:
        """Signal this process; nothing happens when it has ended."""
        if self._process() is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sign)

    def end(self, grace_s: float = GRACE_S) -> bool:
        """End the process and return whether it went in good order: SIGTERM, and SIGKILL after `grace_s` seconds."""
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
            same = abs(process.create_time() - self.born) <= _CLOCK_SLACK_S
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class Child:
    """A started process that logs to a file, in a session of its own: Ctrl-C reaches the launcher alone."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
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
        """End it in good order (SIGTERM), by SIGKILL after `grace_s`; return the exit status (negative: the signal)."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """SIGKILL, as a crash would; return the exit status."""
        self.send(signal.SIGKILL)
        return self._process.wait(10)

    def listens(self, port: int) -> bool:
        """Whether this very process, and not another program that came first, listens on `port`."""
        try:
            connections = psutil.Process(self.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)

    def freeze(self) -> None:
        """SIGSTOP: alive, but silent."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self.send(signal.SIGCONT)

    def send(self, sign: signal.Signals) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.alive():
            self._process.send_signal(sign)

    def tail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except FileNotFoundError:
            return ""

    def _ended(self) -> Ended:
        return Ended(f"{self.name} ended with status {self._process.poll()}; the end of {self.log}:\n{self.tail()}")
