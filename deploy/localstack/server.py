"""A server process in a folder: the part that Valkey, the broker, UIC and RTP have in common.

Its pid file is written as soon as it is spawned, so that the next launcher can find and end what a killed one has left
running.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from localstack.ports import free_ports
from localstack.process import GRACE_S, Child, Ended, Identity
from localstack.signals import signals_wait
from localstack.wait import NotReady, until

READY_S = 20.0
_ATTEMPTS = 4
_LOOK_S = 0.05
"""Between two looks at whether a server is ready, in seconds."""
_PID_FILE = "pid.json"


class Server(ABC):
    """One server: `start`, then `stop` (orderly) or `kill` (a crash), then `start` again, on the same ports.

    Port 0 means a free one; if another program takes that one first, the next free one.
    """

    ready_s = READY_S
    """How long it may take to become ready, in seconds."""
    outlives = False
    """Whether it keeps running when its launcher has ended, as `ctr up` wants."""

    def __init__(self, name: str, folder: Path, ports: Mapping[str, int], *, logs: Path | None = None) -> None:
        """Nothing runs yet.

        Args:
            name:   of the member and of its log file.
            folder: its data and pid file; made when it starts.
            ports:  by purpose; 0 takes a free one. The server is ready only once it listens on each of them.
            logs:   folder of the log file; default `folder`.
        """
        self.name = name
        self.folder = folder
        self.ports = dict(ports)
        self.log = (logs or folder) / f"{name}.log"
        self.child: Child | None = None
        self._listens = False
        """Whether `child` was seen to listen on all ports."""
        self._free = [purpose for purpose, port in ports.items() if not port]

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect."""

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers; an OSError means not yet."""

    def says(self) -> str:
        """What it answers instead of being ready, beginning with a semicolon; empty if it says nothing."""
        return ""

    def environment(self) -> Mapping[str, str]:
        """The variables of its process."""
        return os.environ

    def pass_fds(self) -> Sequence[int]:
        """Descriptors that it inherits."""
        return ()

    @property
    def port(self) -> int:
        """The first of its ports."""
        return next(iter(self.ports.values()))

    def start(self) -> str:
        """Start it, wait until it is ready, and return its address.

        Raises:
            Ended: it ended while starting, and not because a free port was taken in the meantime.
            NotReady: it does not answer in time, and has been stopped; the message has what it said and the end of its
                log.
        """
        self.spawn()
        return self.wait_ready()

    def spawn(self) -> None:
        """Start its process without waiting for it, so that slow members can start at the same time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [purpose for purpose, port in self.ports.items() if not port]
        self.ports.update(zip(missing, free_ports(len(missing)), strict=True))
        command, environment = self.command(), self.environment()
        self._listens = False
        with signals_wait():
            self.child = Child(
                self.name,
                command,
                log=self.log,
                env=environment,
                pass_fds=self.pass_fds(),
                outlives=self.outlives,
            )
            write_pid(self.folder, self.name, self.child.identity)

    def wait_ready(self) -> str:
        """Wait until the spawned process is ready, then as `start`."""
        for attempt in range(1, _ATTEMPTS + 1):
            child = self.child
            if child is None:
                raise Ended(f"{self.name} was not started")
            try:
                where = ", ".join(f"{purpose} {port}" for purpose, port in self.ports.items())
                what = f"{self.name} is ready (ports: {where}; log: {self.log})"
                until(partial(self._answers, child), what, within_s=self.ready_s, every_s=_LOOK_S, alive=child.check)
                break
            except NotReady as late:  # its folder may be gone when the message is read, so that says it all
                told = f"{late}{self.says()}; the end of its log:\n{child.tail()}"
                self.stop()
                raise NotReady(told) from None
            except BaseException as failure:
                self.stop()
                if not isinstance(failure, Ended) or not self._free or attempt == _ATTEMPTS or not _port_taken(child):
                    raise
                self.ports.update(dict.fromkeys(self._free, 0))
                self.spawn()
        self._free = []
        return self.address

    def stop(self, grace_s: float = GRACE_S) -> int | None:
        """Stop it with SIGTERM; its data stays. Returns the exit status, or None if it was never started."""
        if self.child is None:
            return None
        status = self.child.stop(grace_s)
        remove_pid(self.folder)
        return status

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.child:
            self.child.kill()
            remove_pid(self.folder)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        if self.child:
            self.child.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self.child:
            self.child.thaw()

    def restart(self) -> str:
        """Stop it, then start it again on the same ports."""
        self.stop()
        return self.start()

    def alive(self) -> bool:
        """Whether its process runs."""
        return self.child is not None and self.child.alive()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self, child: Child) -> bool:
        self._listens = self._listens or child.listens(self.ports.values())
        return self._listens and self.ready()


def write_pid(folder: Path, name: str, identity: Identity) -> None:
    """Write the pid file of `folder`, whole or not at all."""
    partial_file = folder / f".{_PID_FILE}.tmp"
    partial_file.write_text(json.dumps({"name": name, "pid": identity.pid, "born": identity.born}), "utf-8")
    partial_file.replace(folder / _PID_FILE)


def read_pid(folder: Path) -> Identity | None:
    """The identity in the pid file of `folder`, whether it runs or not; None without a pid file."""
    try:
        stored = json.loads((folder / _PID_FILE).read_text("utf-8"))
        return Identity(int(stored["pid"]), float(stored["born"]))
    except FileNotFoundError:
        return None


def remove_pid(folder: Path) -> None:
    """Forget the process of `folder`."""
    (folder / _PID_FILE).unlink(missing_ok=True)


def _port_taken(child: Child) -> bool:
    words = child.tail().lower()
    return "address already in use" in words or "failed to bind" in words or "errno 98" in words
