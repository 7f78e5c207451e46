"""Steady requests to RTP in the background, each answer held against what its user's state must give.

Requests come by the clock and not when an answer has come (an open loop), and are timed from when they were due. RTP's
own clock is in its answers (`Server-Timing`), so that a verdict on RTP does not depend on who else uses the machine.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import msgspec
import numpy as np
import redis
import uvloop

from loadtest.client import Connection, Target
from localstack.ports import LOOPBACK
from localstack.valkey import Valkey
from mimn.bundle import load_bundle
from mimn.bundle.graph import HeadGraph
from support.stored import Stored
from support.world import BUNDLE
from torture.stage import Tally

GIVE_UP_S = 60.0
PATIENT_MS = {"full": "5000", "fast": "30000"}
"""Deadlines for RTP where no request may fail. Fast: longer than a machine that others use stalls."""
_TOLERANCE = 1e-5


class Answer(NamedTuple):
    """What became of one request."""

    due: float
    """When it was to be sent, in seconds of `time.monotonic`."""
    took_s: float
    """From then to the answer."""
    server_s: float
    """By RTP's own clock; infinite without an answer."""
    status: int
    """Of HTTP; 0 without an answer."""
    said: str
    """The state's status, or the problem's code, or what ended the connection."""
    right: bool
    """Whether the scores are those of the user and the state; True if there are none."""


@dataclass(frozen=True)
class Case:
    """One user's request and the scores that it can get."""

    body: bytes
    warm: list[float]
    cold: list[float]

    def right(self, answer: dict[str, Any]) -> bool:
        """Whether an answer's scores are those of the state that it names."""
        due = self.warm if answer["state"]["status"] in ("warm", "stale") else self.cold
        got = answer["scores"]
        return len(due) == len(got) and all(abs(a - b) < _TOLERANCE for a, b in zip(due, got, strict=True))


class Audience:
    """Users whose states lie in a store, each with candidates of its own, so that no two answers are alike."""

    def __init__(self, users: int = 12) -> None:
        bundle = load_bundle(BUNDLE)
        head, random = HeadGraph(bundle), np.random.default_rng(1)
        self.stored = Stored(bundle)
        self.cases = []
        none = np.zeros(0, np.float32)
        for n in range(users):
            user = "u" * (n + 1)
            state = self.stored.state(user, events=n + 1)
            items = random.integers(1, 80, 3 + n).astype(np.uint64)
            categories = random.integers(0, 9, 3 + n).astype(np.uint64)
            vectors = bundle.vectors(items, categories)
            candidates = [
                {"item_id": int(i), "category_id": int(c)} for i, c in zip(items, categories, strict=True)
            ]  # fmt: skip
            self.cases.append(
                Case(
                    json.dumps({"user_id": user, "candidates": candidates}).encode(),
                    warm=head(vectors, state, none).tolist(),
                    cold=head(vectors, bundle.initial_state, none).tolist(),
                )
            )

    def settle(self, store: Valkey) -> None:
        """Put their states there."""
        with redis.Redis.from_url(store.address, protocol=2) as client:
            for key, value in self.stored.values.items():
                client.set(key, value)


class Traffic:
    """Requests of an audience's users in turn, at a rate, until it is closed."""

    def __init__(
        self,
        port: int,
        cases: Sequence[Case],
        *,
        per_s: float,
        deadline_ms: int | None = None,
        connections: int = 32,
    ) -> None:
        self.answers: list[Answer] = []
        """In the order in which they came."""
        self.due = 0
        """How many requests were due so far."""
        self.stalls_s: list[float] = []
        """How late this thread woke up for a request: what the machine alone adds to a time."""
        self.began = time.monotonic()
        self._target = Target(f"http://{LOOPBACK}:{port}/predict", deadline_ms)
        self._cases = cases
        self._per_s = per_s
        self._connections = connections
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def go_on(self, seconds: float) -> float:
        """Let it go on for so long; returns when that began."""
        began = time.monotonic()
        self._thread.join(seconds)
        return began

    def between(self, begin: float, end: float) -> list[Answer]:
        """Those that were due then."""
        return [answer for answer in self.answers if begin <= answer.due < end]

    async def _run(self) -> None:
        # Who has been idle longest is taken first, so that none is idle long enough to be closed as idle.
        idle: deque[Connection] = deque()
        slots = asyncio.Semaphore(self._connections)
        running: set[asyncio.Task[None]] = set()
        requests = [self._target.request(case.body) for case in self._cases]

        async def one(at: int, due: float) -> None:
            async with slots:
                self.answers.append(await self._ask(idle, requests[at], self._cases[at], due))

        while not self._ending.is_set():
            due = self.began + self.due / self._per_s
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            self.stalls_s.append(time.monotonic() - due)
            task = asyncio.create_task(one(self.due % len(requests), due))
            running.add(task)
            task.add_done_callback(running.discard)
            self.due += 1
        if running:
            await asyncio.wait(running)
        for connection in idle:
            connection.close()

    async def _ask(self, idle: deque[Connection], request: bytes, case: Case, due: float) -> Answer:
        connection: Connection | None = None
        try:
            while idle and connection is None:
                kept = idle.popleft()
                connection = kept if kept.open else None
            connection = connection or await self._target.connect()
            async with asyncio.timeout(GIVE_UP_S):
                status, body = await connection.post(request)
        except OSError as failure:  # TimeoutError is one
            if connection is not None:
                connection.close()
            return Answer(due, time.monotonic() - due, float("inf"), 0, f"{type(failure).__name__}: {failure}", True)
        took_s = time.monotonic() - due
        if connection.open:
            idle.append(connection)
        answer = msgspec.json.decode(body)
        said, right = (answer["state"]["status"], case.right(answer)) if status == 200 else (answer["code"], True)
        return Answer(due, took_s, server_s(connection.head), status, said, right)


def server_s(head: bytes) -> float:
    """What an answer's head (in lower case) says of the time that it took, in seconds."""
    return float(head.partition(b"server-timing: rtp;dur=")[2].partition(b"\r\n")[0]) / 1000


def quantile(values: Sequence[float], q: float) -> float:
    """The least value that is at least as large as the share `q` of them; 0 of none."""
    some = sorted(values)
    return some[min(len(some) - 1, int(q * len(some)))] if some else 0.0


def answered(answers: Sequence[Answer], *, may_fail: float = 0.0) -> Tally:
    """What does not hold of answers that are all to be 200, but for a share of them."""
    failures = [f"{answer.status} {answer.said}" for answer in answers if answer.status != 200]
    wrong = sum(not answer.right for answer in answers)
    if len(failures) <= may_fail * len(answers):
        return Tally(wrong_answers=wrong)
    return Tally(wrong_answers=wrong, failed_requests=len(failures), wrong=tuple(sorted(set(failures))[:5]))


def slope(values: Sequence[float]) -> float:
    """How much a straight line through evenly spaced values rises from the first to the last."""
    if len(values) < 2:
        return 0.0
    return float(np.polyfit(np.linspace(0, 1, len(values)), values, 1)[0])


def busiest_second(times: Sequence[float]) -> int:
    """The most of these moments that lie within one second."""
    most, first, some = 0, 0, sorted(times)
    for last, time_ in enumerate(some):
        while some[first] <= time_ - 1:
            first += 1
        most = max(most, last - first + 1)
    return most
