"""A stack to measure: started in a folder that is removed afterwards, fed through its log, asked over HTTP."""

from __future__ import annotations

import http.client
import json
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import httpx
import redis

from loadtest.cpu import cpu_s_of
from loadtest.feeder import produce
from loadtest.population import measured_bundle
from localstack.stack import Options, Stack
from localstack.wait import until
from mimn.bundle import Bundle, load_bundle
from mimn.state import Keys, decode_progress, namespace

CANDIDATES = 100
QUIET = {"UIC_LOG__LEVEL": "warning"}


class NotMeasured(Exception):
    """The figure cannot be taken here; the message says why."""


@contextmanager
def running(**options: Any) -> Iterator[Stack]:
    """A stack in a folder that is removed afterwards: one UIC, one RTP, the bundle that budgets are for, a topic and a
    prefix of its own; `options` are fields of `Options` that say otherwise.

    Raises:
        NotMeasured: the bundle is not there.
    """
    own = f"load-{uuid.uuid4().hex[:8]}"
    defaults = {
        "bundle": measured_bundle(),
        "topic": own,
        "prefix": own,
        "uic_workers": 1,
        "rtp_processes": 1,
        "uic": QUIET,
    }
    with tempfile.TemporaryDirectory() as folder:
        made = replace(Options.from_environment(), **{"folder": Path(folder), **defaults, **options})
        if not (made.bundle / "manifest.json").exists():
            raise NotMeasured(f"no bundle at {made.bundle}: run from the repository's root")
        with Stack(made) as stack:
            yield stack


class Client:
    """One kept-alive connection to RTP; seconds of each request by its own clock."""

    def __init__(self, url: str) -> None:
        address = httpx.URL(url)
        self._connection = http.client.HTTPConnection(address.host, address.port or 80, timeout=10)

    def post(self, body: bytes) -> float:
        """Seconds until the answer was read whole."""
        began = time.perf_counter()
        self._answer(body)
        return time.perf_counter() - began

    def events(self, body: bytes) -> int:
        """Events folded into the user's state, as the answer says."""
        return int(json.loads(self._answer(body))["state"]["events"] or 0)

    def _answer(self, body: bytes) -> bytes:
        self._connection.request("POST", "/predict", body, {"content-type": "application/json"})
        response = self._connection.getresponse()
        answer = response.read()
        if response.status != 200:
            raise NotMeasured(f"/predict answered {response.status}: {answer[:200]!r}")
        if b'"unavailable"' in answer:
            raise NotMeasured("/predict answered without the user's state")
        return answer


def server_cpu_in_turn(
    asked: Sequence[tuple[Stack, bytes]], requests: int, *, turns: int, connections: int = 1
) -> list[list[float]]:
    """CPU seconds that RTP takes for one request: by stack, one figure for each turn of `requests` requests on each of
    `connections` connections, which ask one request after another.

    The stacks take turns, so that a busy machine slows all of them equally.

    Raises:
        NotMeasured: an RTP does not run, or an answer was not a score from a state.
    """
    prepared = []
    for stack, body in asked:
        child = stack.rtp[0].child
        if child is None:
            raise NotMeasured("RTP does not run")
        clients = [Client(stack.addresses.predict) for _ in range(connections)]
        prepared.append((clients, body, cpu_s_of([child.pid])))
    taken: list[list[float]] = [[] for _ in asked]
    with ThreadPoolExecutor(connections) as pool:
        for turn in range(turns + 1):
            for (clients, body, cpu_s), costs in zip(prepared, taken, strict=True):
                before = cpu_s()
                list(pool.map(partial(_post_each, body=body, requests=requests), clients))
                if turn:  # the first one warms
                    costs.append((cpu_s() - before) / (requests * connections))
    return taken


def _post_each(client: Client, body: bytes, requests: int) -> None:
    for _ in range(requests):
        client.post(body)


def known_items(bundle: Bundle, count: int) -> list[tuple[int, int]]:
    """The first `count` items of the vocabulary, with some category."""
    items, categories = bundle.items.ids, bundle.categories.ids
    return [(int(items[i % len(items)]), int(categories[i % len(categories)])) for i in range(count)]


def predict_body(stack: Stack, user: str, candidates: int = CANDIDATES) -> bytes:
    """A request body with known candidates."""
    asked = known_items(load_bundle(stack.options.bundle), candidates)
    return json.dumps(
        {"user_id": user, "candidates": [{"item_id": item, "category_id": category} for item, category in asked]}
    ).encode()


def feed(stack: Stack, users: Iterator[str]) -> None:
    """One event for each user id, in order, acknowledged."""
    produce(stack.addresses.bootstrap, stack.addresses.topic, users, stack.options.bundle)


def publish(stack: Stack, histories: list[tuple[str, int]], within_s: float = 120) -> None:
    """Events for each user, and the wait until all of them are folded."""
    before = absorbed(stack)
    feed(stack, (user for user, events in histories for _ in range(events)))
    total = before + sum(events for _, events in histories)
    until(lambda: absorbed(stack) >= total, "every event is folded", within_s=within_s, every_s=0.01)


@cache
def _namespace_of(bundle: Path) -> str:
    return namespace(load_bundle(bundle).fingerprint.hex())


@cache
def _store_at(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2)


def absorbed(stack: Stack) -> int:
    """Records that the progress of all partitions covers.

    Asked many times a second while something is measured on the same cores, so it costs 0.1 ms: reading the bundle and
    connecting took 7 ms each time.
    """
    keys = Keys(_namespace_of(stack.options.bundle), stack.options.prefix)
    records = _store_at(stack.addresses.redis_url).mget([keys.progress(p) for p in range(stack.options.partitions)])
    return sum(
        decode_progress(record).next_offset for record in cast("list[bytes | None]", records) if record is not None
    )
