"""Hostile clients of RTP, and one that behaves."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import statistics
import threading
import time
from types import TracebackType
from typing import Any, Self

HEAD = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-deadline-ms: 30000\r\n"
IDLE = 200
EACH = 3
EXPECTED = {"head": 431, "body": 413, "packed": 415, "slow": 422, "faults": 422}
PAUSE_S = 0.1


def body(candidates: int = 2) -> bytes:
    return json.dumps({"user_id": "u", "candidates": [{"item_id": 3, "category_id": 2}] * candidates}).encode()


class Line:
    """A raw connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._stream = self.socket.makefile("rb")

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self.socket.close()

    def send(self, data: bytes) -> bool:
        """Send; returns whether the other side still accepts data."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def answer(self) -> tuple[int, Any]:
        """Status and JSON of the next answer; (0, None) if the connection is closed without one."""
        try:
            line = self._stream.readline()
            if not line:
                return 0, None
            headers = http.client.parse_headers(self._stream)
            return int(line.split()[1]), json.loads(self._stream.read(int(headers["content-length"])))
        except ConnectionError:
            return 0, None

    def closed(self) -> bool:
        """Whether the other side closes; waits for it."""
        try:
            return self._stream.read(1) == b""
        except ConnectionError:
            return True


class Healthy:
    """A well-behaved client: sequential requests on one connection, each timed."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def median_s(self, requests: int) -> float:
        """Median latency of `requests` requests."""
        return statistics.median(self.times_s(requests))

    def times_s(self, requests: int) -> list[float]:
        """The latency of each of `requests` requests; each must be answered 200."""
        took = []
        headers = {"content-type": "application/json", "x-request-deadline-ms": "30000"}
        for _ in range(requests):
            began = time.perf_counter()
            self._connection.request("POST", "/predict", body(), headers)
            response = self._connection.getresponse()
            answer = response.read()
            took.append(time.perf_counter() - began)
            assert (response.status, json.loads(answer)["state"]["status"]) == (200, "warm")
        return took


class HostileClients:
    """Silent connections, trickling heads, heads and bodies over the limit, and bodies that are compressed, slow to
    decode, or full of errors: `EACH` clients of every kind, repeatedly."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.done = dict.fromkeys(("trickled", *EXPECTED), 0)
        """How often each kind was refused."""
        self.wrong: list[tuple[str, int]] = []
        """Kind and status of answers that were not the expected ones."""
        kinds = [kind for kind in self.done for _ in range(EACH)]
        self._threads = [threading.Thread(target=self._run, args=(kind,), daemon=True) for kind in kinds]

    def __enter__(self) -> Self:
        self._idle = [socket.create_connection(("127.0.0.1", self._port)) for _ in range(IDLE)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        for connection in self._idle:
            connection.close()

    def _run(self, kind: str) -> None:
        while not self._over.wait(PAUSE_S):
            with contextlib.suppress(OSError), Line(self._port) as line:
                if kind == "trickled":
                    self._trickle(line)
                else:
                    line.send(SENT[kind])
                    if (got := line.answer()[0]) != EXPECTED[kind]:
                        self.wrong.append((kind, got))
                self.done[kind] += 1

    def _trickle(self, line: Line) -> None:
        line.send(HEAD)
        while line.send(b"x: y\r\n") and not self._over.wait(0.2):
            line.socket.settimeout(0.01)
            with contextlib.suppress(TimeoutError):
                if line.socket.recv(1):
                    break


def _post(content: bytes) -> bytes:
    return HEAD + b"content-length: %d\r\n\r\n" % len(content) + content


SENT = {
    "head": HEAD + b"x: " + b"y" * 20000,
    "body": HEAD + b"content-length: 70000\r\n\r\n",
    "packed": HEAD + b"content-encoding: gzip\r\ncontent-length: 5\r\n\r\n12345",
    "slow": _post(b'{"user_id":"u","candidates":[' + b"1e308," * 10_000 + b"1]}"),
    "faults": _post(body(512).replace(b'"item_id": 3, "category_id": 2', b'"item_id": 0, "category_id": -1')),
}
"""What a client of each kind sends."""
