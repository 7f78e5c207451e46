"""The whole system as a value: servers, topics, UIC and RTP, started in order, taken down in the opposite one.

The demo, `make up`, the tests and the load generator all use this one launcher. Whatever interrupts it, nothing stays
behind: members that it knows are stopped on the way out, and members of a launcher that was itself killed are found by
their pid files.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from localstack.ports import accepts, shared_listener
from localstack.process import GRACE_S, Identity
from localstack.server import Server, read_pid, remove_pid
from localstack.servers import DevBroker, Valkey, broker_answers, redis_answers
from localstack.services import RtpProcess, Surroundings, UicWorker
from localstack.topics import EVENTS, PARTITIONS, create_topics, topics
from localstack.wait import until

FOLDER = Path(".stack")
BUNDLE = Path("models/bundles/online-retail-pooling-sketch/1")


class StackError(RuntimeError):
    """The stack cannot be started as asked; the message says what to change."""


@dataclass(frozen=True)
class Ports:
    """Where the members listen; 0 takes a free port."""

    rtp: int = 0
    rtp_admin: int = 0
    uic_grpc: int = 0
    uic_admin: int = 0
    redis: int = 0
    kafka: int = 0

    @classmethod
    def usual(cls) -> Ports:
        """The documented ports, each replaced by a free one (0) where something else listens."""
        return cls(**{name: 0 if _taken(port) else port for name, port in asdict(DOCUMENTED_PORTS).items()})


DOCUMENTED_PORTS = Ports(rtp=8000, rtp_admin=8002, uic_grpc=8001, uic_admin=8003, redis=6379, kafka=9092)


@dataclass(frozen=True)
class Options:
    """What stack to start."""

    folder: Path = FOLDER
    """Data, logs and pid files of the stack; one stack a folder."""
    bundle: Path = BUNDLE
    redis_url: str | None = None
    """A Redis that already runs; None starts a Valkey."""
    bootstrap: str | None = None
    """A Kafka that already runs; None starts a small broker."""
    topic: str = EVENTS
    partitions: int = PARTITIONS
    prefix: str = "uic"
    generation: int = 0
    uic_workers: int = 1
    rtp_processes: int = 1
    ports: Ports = field(default_factory=Ports)
    uic: Mapping[str, str] = field(default_factory=dict)
    """More variables for UIC."""
    rtp: Mapping[str, str] = field(default_factory=dict)
    """More variables for RTP."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Options:
        """Defaults, with the servers that `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` name."""
        return cls(redis_url=env.get("REDIS_URL") or None, bootstrap=env.get("KAFKA_BOOTSTRAP_SERVERS") or None)


@dataclass(frozen=True)
class Addresses:
    """Where a running stack is reached; kept in `stack.json`."""

    predict: str
    """URL of RTP: POST /predict, /readyz, /docs."""
    rtp_admin: list[str]
    """URL of each RTP process's metrics and admin calls."""
    uic: list[str]
    """gRPC address of each UIC worker."""
    uic_admin: list[str]
    bootstrap: str
    redis_url: str
    topic: str
    prefix: str
    bundle: str
    partitions: int = PARTITIONS


class Stack:
    """Servers, topics, UIC workers and RTP processes; a context manager.

    A member can be killed, stopped, frozen and started again while the others run: `stack.uic[0].kill()`.
    """

    def __init__(self, options: Options, *, say: Callable[[str], None] | None = None) -> None:
        """Nothing runs yet; `say` hears what happens, a line at a time."""
        self.options = options
        self.valkey: Valkey | None = None
        self.broker: DevBroker | None = None
        self.uic: list[UicWorker] = []
        self.rtp: list[RtpProcess] = []
        self.created_topics: list[str] = []
        """Topics that this start made: empty when the stack goes on with what it had."""
        self._listener: socket.socket | None = None
        self._say = say or (lambda _: None)

    def start(self) -> Addresses:
        """Start every member and wait until each is ready; on any failure or interruption, take down what was started.

        Raises:
            StackError: the folder holds a running stack, or the bundle is missing.
            Ended, NotReady: a member did not come up; the message has the end of its log.
        """
        options = self.options
        if not (options.bundle / "manifest.json").is_file():
            raise StackError(f"no bundle at {options.bundle}: name a directory with a manifest.json (--bundle)")
        options.folder.mkdir(parents=True, exist_ok=True)
        with _locked(options.folder):
            if running := living(options.folder):
                names = ", ".join(running)
                raise StackError(f"a stack runs in {options.folder} ({names}): `make down` ends it")
            try:
                return self._start()
            except BaseException:
                self.stop()
                raise

    def _start(self) -> Addresses:
        options, logs = self.options, self.options.folder / "logs"
        ports = options.ports
        redis_url = options.redis_url
        if redis_url is None:
            self.valkey = Valkey(options.folder / "valkey", port=ports.redis, logs=logs)
            redis_url = self.valkey.start()
            self._say(f"Valkey at {redis_url}")
        else:
            given = redis_url
            until(lambda: redis_answers(given), f"the Redis of REDIS_URL answers PING ({_bare(given)})", within_s=5)
        bootstrap = options.bootstrap
        if bootstrap is None:
            self.broker = DevBroker(options.folder / "broker", port=ports.kafka, logs=logs)
            bootstrap = self.broker.start()
            self._say(f"Kafka-protocol broker at {bootstrap}")
        else:
            given_broker = bootstrap
            until(
                lambda: broker_answers(given_broker),
                f"the Kafka of KAFKA_BOOTSTRAP_SERVERS answers ({given_broker})",
                within_s=10,
            )
        self.created_topics = create_topics(bootstrap, topics(options.topic, options.partitions))

        surroundings = Surroundings(
            bootstrap=bootstrap,
            redis_url=redis_url,
            bundle=options.bundle.resolve(),
            topic=options.topic,
            partitions=options.partitions,
            prefix=options.prefix,
            generation=options.generation,
            uic=options.uic,
            rtp=options.rtp,
        )
        for i in range(options.uic_workers):
            first = i == 0
            worker = UicWorker(
                f"uic-{i + 1}",
                options.folder / f"uic-{i + 1}",
                surroundings,
                port=ports.uic_grpc if first else 0,
                admin_port=ports.uic_admin if first else 0,
                logs=logs,
            )
            self.uic.append(worker)
            worker.spawn()
        port, fd = ports.rtp, None
        if options.rtp_processes > 1:
            self._listener = shared_listener(port)
            port, fd = self._listener.getsockname()[1], self._listener.fileno()
        for i in range(options.rtp_processes):
            process = RtpProcess(
                f"rtp-{i + 1}",
                options.folder / f"rtp-{i + 1}",
                surroundings,
                port=port,
                admin_port=ports.rtp_admin if i == 0 else 0,
                shared_fd=fd,
                logs=logs,
            )
            self.rtp.append(process)
            process.spawn()
        for member in (*self.uic, *self.rtp):
            self._say(f"{member.name} at {member.wait_ready()}")
        addresses = Addresses(
            predict=self.rtp[0].address if self.rtp else "",
            rtp_admin=[process.admin_url for process in self.rtp],
            uic=[worker.address for worker in self.uic],
            uic_admin=[worker.admin_url for worker in self.uic],
            bootstrap=bootstrap,
            redis_url=redis_url,
            topic=options.topic,
            prefix=options.prefix,
            bundle=str(options.bundle.resolve()),
            partitions=options.partitions,
        )
        (options.folder / "stack.json").write_text(json.dumps(asdict(addresses), indent=2) + "\n")
        return addresses

    def members(self) -> list[Server]:
        """Every process of the stack, in the order of taking down: doors first, stores last."""
        servers = [server for server in (self.broker, self.valkey) if server]
        return [*self.rtp, *self.uic, *servers]

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Take every member down, also when one of them resists; data stays in the folder."""
        with contextlib.ExitStack() as ending:
            # An ExitStack runs all of its callbacks even if one raises, the last one pushed first.
            if self._listener:
                ending.callback(self._listener.close)
            for member in reversed(self.members()):
                ending.callback(member.stop, grace_s)
        self._listener = None
        (self.options.folder / "stack.json").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.addresses = self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def addresses_of(folder: Path) -> Addresses:
    """Where the stack of `folder` is reached.

    Raises:
        StackError: none runs there.
    """
    try:
        return Addresses(**json.loads((folder / "stack.json").read_text()))
    except FileNotFoundError:
        raise StackError(f"no stack runs in {folder}: `make up` starts one") from None


def living(folder: Path) -> dict[str, Identity]:
    """The members of the stack of `folder` that run, by name, in the order of taking down.

    A pid file whose process has ended, or whose pid now belongs to another program, does not count.
    """
    found = {path.parent.name: read_pid(path.parent) for path in folder.glob("*/pid.json")}
    order = sorted(found, key=lambda name: (not name.startswith("rtp"), not name.startswith("uic"), name))
    return {name: identity for name in order if (identity := found[name]) and identity.alive()}


def take_down(folder: Path, *, say: Callable[[str], None], grace_s: float = GRACE_S) -> int:
    """End, by pid, whatever runs of the stack of `folder`, and return how many processes that were. Data stays."""
    if not folder.is_dir():
        return 0
    with _locked(folder):
        running = living(folder)
        for name, identity in running.items():
            orderly = identity.end(grace_s)
            say(f"{name} (pid {identity.pid}) ended" + ("" if orderly else f" by SIGKILL after {grace_s:g} s"))
            remove_pid(folder / name)
        for stale in folder.glob("*/pid.json"):
            remove_pid(stale.parent)
        (folder / "stack.json").unlink(missing_ok=True)
    return len(running)


def wipe(folder: Path) -> None:
    """Remove a stack's folder with all data in it.

    Raises:
        StackError: the stack runs.
    """
    if running := living(folder):
        raise StackError(f"a stack runs in {folder} ({', '.join(running)}): `make down` ends it")
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep two launchers out of one folder."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError(f"another launcher is at work in {folder}: wait until it has finished") from None
        yield


def _taken(port: int) -> bool:
    try:
        return accepts(port)
    except OSError:
        return False


def _bare(url: str) -> str:
    """A URL without the password that it may carry."""
    scheme, _, rest = url.rpartition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
