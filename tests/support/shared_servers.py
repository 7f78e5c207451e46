"""Servers that all processes of one test run use: a Kafka takes 3 s of CPU to start.

The process that started the run starts each when a test first asks for it, and ends them with the run. It listens on a
Unix socket: a request is one line of JSON that names a server and what to do with it, and so is the answer.

`KAFKA` is for everybody, and nobody may harm it. `HARMED` and `THREE` (three nodes) may be stopped, killed and frozen,
so one test at a time has them; afterwards all nodes run again. `SECURED` asks its clients for a user and rights.
"""

from __future__ import annotations

import fcntl
import json
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from localstack.apache_kafka import ApacheKafka
from support.certificates import Certificates
from support.kafka_cluster import KafkaCluster, kafka_cluster
from support.kafka_home import kafka_home
from support.secured_kafka import SecuredKafka, secured_kafka

KAFKA, HARMED, THREE, SECURED = "kafka", "harmed", "three", "secured"
VERBS = ("start", "stop", "kill", "freeze", "thaw")
START_S = 240


class SharedServers:
    """The side of the process that owns them."""

    def __init__(self, folder: Path) -> None:
        """`folder` gets the socket and the servers' data; its path must be short, as a socket's has to be."""
        self._folder = folder
        self._servers: dict[str, KafkaCluster | SecuredKafka] = {}
        self._ending = ExitStack()
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                answer = owner._answer(json.loads(self.rfile.readline()))
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        self.door = folder / "servers"
        """Where they are asked for."""
        self._server = socketserver.UnixStreamServer(str(self.door), Handler)
        # One thread, so that nothing is started twice.
        self._thread = threading.Thread(target=self._server.serve_forever, name="shared servers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End them all."""
        self._server.shutdown()
        self._server.server_close()
        self._ending.close()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            name, verb, node = request["server"], request["verb"], request["node"]
            if name not in self._servers:
                self._servers[name] = self._started(name)
            server = self._servers[name]
            if verb in VERBS and isinstance(server, KafkaCluster):
                getattr(server, verb)(node)
        except Exception as error:  # the door: the test that asked fails with it
            return {"error": f"{type(error).__name__}: {error}"}
        ports = server.ports if isinstance(server, ApacheKafka) else {}
        return {"address": server.address, "folder": str(server.folder), "ports": ports}

    def _started(self, name: str) -> KafkaCluster | SecuredKafka:
        folder = self._folder / name
        if name == SECURED:
            return self._ending.enter_context(secured_kafka(folder, Certificates.issue(folder / "certificates")))
        return self._ending.enter_context(kafka_cluster(folder, nodes=3 if name == THREE else 1))


class SharedCluster:
    """`Brokers` that another process has started."""

    def __init__(self, door: Path, name: str) -> None:
        self._door = door
        self._name = name
        found = ask(door, name)
        self.address = str(found["address"])
        self.folder = Path(found["folder"])

    def start(self, node: int | None = None) -> None:
        ask(self._door, self._name, "start", node)

    def stop(self, node: int | None = None) -> None:
        ask(self._door, self._name, "stop", node)

    def kill(self, node: int | None = None) -> None:
        ask(self._door, self._name, "kill", node)

    def freeze(self, node: int | None = None) -> None:
        ask(self._door, self._name, "freeze", node)

    def thaw(self, node: int | None = None) -> None:
        ask(self._door, self._name, "thaw", node)


@contextmanager
def leased(door: Path, name: str, heal: Callable[[SharedCluster], None]) -> Iterator[SharedCluster]:
    """A cluster that no other test has meanwhile; `heal` makes it usable for the next one."""
    kafka_home()
    with door.with_name(f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cluster = SharedCluster(door, name)
        try:
            yield cluster
        finally:
            cluster.thaw()
            cluster.start()
            heal(cluster)


def secured(door: Path) -> SecuredKafka:
    """The shared broker that asks for users; its rights and users are each test's own."""
    found = ask(door, SECURED)
    folder = Path(found["folder"])
    kafka = SecuredKafka(kafka_home(), folder, Certificates.at(folder.with_name("certificates")))
    kafka.ports.update(found["ports"])
    return kafka


def ask(door: Path, server: str, verb: str = "find", node: int | None = None) -> dict[str, Any]:
    """The owner's answer about a server, which it starts if need be.

    Raises:
        RuntimeError: it could not be done; the message says why.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(START_S)
        connection.connect(str(door))
        connection.sendall(json.dumps({"server": server, "verb": verb, "node": node}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(connection.makefile().readline())
    if "error" in answer:
        raise RuntimeError(f"{server} could not {verb}: {answer['error']}")
    return answer
