"""Requests and events from processes of their own, so cheap that the servers have the cores to themselves.

Bodies are made before the run, answers are kept as bytes, and what they say is read when the run is over.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from loadtest.feeder import produce
from localstack.ports import LOOPBACK
from localstack.wait import until
from support.rollouts import BODY_CANDIDATES, Answered

CONNECTIONS = 8
_SPAWN = multiprocessing.get_context("spawn")  # the parent has threads of a Kafka client
_Kept = tuple[float, float, str, int, bytes]
"""Sent, answered (seconds of the monotonic clock), user, status, body."""


@dataclass
class Requests:
    """Requests that go on in another process."""

    _answered: Any
    answers: list[Answered] = field(default_factory=list)
    """Known when the requests have ended."""

    def answered(self) -> int:
        """How many answers there are so far."""
        return int(self._answered.value)

    def wait_answers(self, more: int) -> None:
        """Wait until so many more have come."""
        before = self.answered()
        until(lambda: self.answered() >= before + more, f"{more} more requests are answered", within_s=60)


@contextmanager
def requests(port: int, users: Sequence[str], per_second: float) -> Iterator[Requests]:
    """`/predict` for these users in turn, over eight kept-alive connections, until the block ends."""
    ours, theirs = _SPAWN.Pipe()
    told = Requests(_SPAWN.Value("q", 0))
    process = _SPAWN.Process(
        target=_ask, args=(theirs, port, list(users), per_second, told._answered), daemon=True
    )  # fmt: skip
    process.start()
    theirs.close()
    try:
        yield told
    finally:
        ours.send_bytes(b"over")
        told.answers.extend(map(_read, ours.recv()))
        process.join(30)


@contextmanager
def events(bootstrap: str, topic: str, users: Sequence[str], per_second: float, bundle: Path) -> Iterator[None]:
    """Events of random ones of these users, until the block ends; those on their way then may be lost."""
    process = _SPAWN.Process(target=_feed, args=(bootstrap, topic, list(users), per_second, bundle), daemon=True)
    process.start()
    try:
        yield
        if not process.is_alive():
            raise RuntimeError(f"the sender of events ended with {process.exitcode}")
    finally:
        process.terminate()
        process.join(30)


def _feed(bootstrap: str, topic: str, users: list[str], per_second: float, bundle: Path) -> None:
    chosen = random.Random(5)
    produce(bootstrap, topic, (chosen.choice(users) for _ in itertools.count()), bundle, per_second)


def _ask(parent: Connection, port: int, users: list[str], per_second: float, answered: Any) -> None:
    wires = [(user, _request(user)) for user in users]
    kept: list[list[_Kept]] = [[] for _ in range(CONNECTIONS)]
    over = threading.Event()
    threads = [
        threading.Thread(target=_ask_on, args=(port, wires[i::CONNECTIONS], CONNECTIONS / per_second, i, over, kept[i]))
        for i in range(CONNECTIONS)
    ]
    for thread in threads:
        thread.start()
    while not parent.poll(0.1):
        answered.value = sum(map(len, kept))
    over.set()
    for thread in threads:
        thread.join(30)
    parent.send(sorted(itertools.chain.from_iterable(kept)))


def _request(user: str) -> bytes:
    body = json.dumps({"user_id": user, "candidates": BODY_CANDIDATES}).encode()
    head = (
        f"POST /predict HTTP/1.1\r\nHost: {LOOPBACK}\r\nContent-Type: application/json\r\n"
        f"X-Request-Deadline-Ms: 1000\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _ask_on(
    port: int, wires: list[tuple[str, bytes]], every_s: float, number: int, over: threading.Event, kept: list[_Kept]
) -> None:
    """One connection: a request each `every_s`; a late one is sent at once, and the lateness of the sender is not made
    up for beyond a tenth of a second."""
    connection: socket.socket | None = None
    due = time.monotonic() + every_s * number / CONNECTIONS
    for user, wire in itertools.cycle(wires):
        if over.wait(max(0.0, due - time.monotonic())):
            break
        due = max(due + every_s, time.monotonic() - 0.1)
        at = time.monotonic()
        try:
            if connection is None:
                connection = socket.create_connection((LOOPBACK, port), timeout=10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(wire)
            status, body = _answer(connection)
        except OSError as error:
            status, body = 599, type(error).__name__.encode()
            if connection is not None:
                connection.close()
            connection = None
        kept.append((at, time.monotonic(), user, status, body))
    if connection is not None:
        with suppress(OSError):
            connection.close()


def _answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of an answer that says how long it is."""
    got = b""
    while (end := got.find(b"\r\n\r\n")) < 0:
        got += _more(connection)
    head = got[:end].lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    while len(got) < end + 4 + length:
        got += _more(connection)
    return int(head.split(b" ", 2)[1]), got[end + 4 :]


def _more(connection: socket.socket) -> bytes:
    if not (some := connection.recv(65536)):
        raise ConnectionResetError
    return some


def _read(kept: _Kept) -> Answered:
    """What an answer says."""
    at, done, user, status, body = kept
    if status != 200:
        return Answered(at, done, user, status, model=body[:100].decode(errors="replace"))
    told = json.loads(body)
    model = f"{told['model']['name']}/{told['model']['version']}"
    return Answered(at, done, user, 200, model, told["arm"], told["state"]["status"], tuple(told["scores"]))
