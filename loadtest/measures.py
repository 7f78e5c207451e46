"""How each budget is measured. One function a budget; each starts what it needs and takes it down again."""

from __future__ import annotations

import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import httpx
import numpy as np
import psutil
import redis
from kafka import KafkaProducer

from loadtest.cpu import cpu_s_of
from loadtest.feeder import event, feeding, produce, zipf_users
from loadtest.heads import in_turn, scoring
from loadtest.population import BUNDLE, Population
from loadtest.result import histogram
from loadtest.sending import send
from localstack.stack import BUNDLE as SHIPPED
from localstack.stack import Options, Stack
from localstack.wait import until
from mimn.bundle import Bundle, load_bundle
from mimn.state import Block, Keys, StateLayout, decode_progress, namespace
from mimn.state.codec import HEADER_BYTES

CANDIDATES = 100
LONG = 1_000
"""Events of the user whom DIEN is asked about: as many as its bundle keeps."""
DIEN = BUNDLE.parents[1] / "online-retail-dien" / "1"
FASTEST_FOLD = 70_000
"""Events a second that no fold here exceeds: how large a backlog has to be to outlast a measurement."""


STREAMS_PEER = "CTR_STREAMS_PEER"
STREAMS_LINE = re.compile(
    r"exactly_once_v2 .*cache=(?P<cache>\d+): folded .* to last commit (?P<rate>\d+)/s; cpu us/event (?P<cpu>[\d.]+)"
)


class NotMeasured(Exception):
    """The figure cannot be taken here; the message says why."""


@dataclass(frozen=True)
class Sizes:
    """Sample sizes."""

    requests: int = 3_000
    """A kind of user, for the ratio of latencies."""
    backlog: int = 100_000
    users: int = 100_000
    seconds: float = 10.0
    """Of each phase at a fixed rate."""

    @classmethod
    def full(cls) -> Sizes:
        """As the budgets name them."""
        return cls(requests=20_000, backlog=300_000, seconds=30.0)


@dataclass(frozen=True)
class Figure:
    """A measured value, and how far single measurements lay apart."""

    value: float
    spread: str = ""
    histogram: str = ""
    """Of single measurements in microseconds, in HdrHistogram's base64, where there are many."""


@dataclass(frozen=True)
class Folded:
    """How fast a backlog was folded, and the processor time of an event in the process that folds."""

    per_s: float
    cpu_us: float


# --- RTP -----------------------------------------------------------------------------------------------------------


def length_ratio(sizes: Sizes) -> Figure:
    """Lower end of the 95 % interval of p50(history 10,000) / p50(history 10), requests in turn."""
    with running() as stack:
        publish(stack, [("long", 10_000), ("short", 10)])
        client = Client(stack.addresses.predict)
        bodies = {user: predict_body(stack, user) for user in ("short", "long")}
        for _ in range(200):
            for body in bodies.values():
                client.post(body)
        times: dict[str, list[float]] = {"short": [], "long": []}
        for i in range(sizes.requests):
            for user in ("short", "long") if i % 2 else ("long", "short"):
                times[user].append(client.post(bodies[user]))
    pairs = np.array([times["long"], times["short"]])
    random = np.random.default_rng(0)
    ratios = []
    for _ in range(1000):
        drawn = random.integers(pairs.shape[1], size=pairs.shape[1])
        high, low = np.median(pairs[:, drawn], axis=1)
        ratios.append(high / low)
    lower, upper = np.quantile(ratios, [0.025, 0.975])
    p50 = np.median(pairs, axis=1) * 1000
    return Figure(float(lower), f"95 % [{lower:.3f}, {upper:.3f}], p50 {p50[0]:.2f} and {p50[1]:.2f} ms")


def beside_fold(sizes: Sizes) -> Figure:
    """p99 of /predict at 100 requests/s while UIC folds a backlog, over p99 while it is down; each twice, in turn."""
    quiet, busy = [], []
    seconds = sizes.seconds / 2
    with running() as stack:
        publish(stack, [("reader", 100)])
        worker = stack.uic[0]
        worker.stop()
        backlog = int(2 * FASTEST_FOLD * (seconds + 1))
        before = absorbed(stack)
        feed(stack, zipf_users(sizes.users, backlog))
        client = Client(stack.addresses.predict)
        body = predict_body(stack, "reader")
        for _ in range(2):
            quiet.append(p99_at(client, body, 100, seconds))
            began = absorbed(stack)
            worker.spawn()
            until(lambda n=began: absorbed(stack) > n, "UIC folds", within_s=60, every_s=0.02)  # type: ignore[misc]
            busy.append(p99_at(client, body, 100, seconds))
            if absorbed(stack) == before + backlog:
                raise NotMeasured(f"all {backlog:,} events were folded before the time was up: raise FASTEST_FOLD")
            worker.stop()
    ratio = statistics.median(busy) / statistics.median(quiet)
    return Figure(ratio, f"p99 without {quiet_ms(quiet)} ms, beside {quiet_ms(busy)} ms")


def open_loop_p99(sizes: Sizes) -> Figure:
    """p99 at 500 requests/s from the intended start of each request."""
    with running() as stack:
        publish(stack, [(f"user-{i}", 50) for i in range(50)])
        population = Population(stack.options.bundle, users=50, candidates=CANDIDATES)
        (run,) = send(stack.addresses.predict, population, "fixed", rate=500, seconds=sizes.seconds * 2)
    (result,) = run.phases
    if not run.trusted:
        raise NotMeasured(" ".join(str(result).split()))
    return Figure(result.quantile_ms(0.99), f"p50 {result.quantile_ms(0.5):.2f} ms, {result.count} requests")


def against_bare_loop(sizes: Sizes) -> Figure:
    """Closed-loop request rate of RTP over that of a bare ASGI app with the same JSON, GET and head."""
    from loadtest.bare_loop import rates

    with running() as stack:
        publish(stack, [("reader", 100)])
        rtp, bare = rates(stack.addresses, predict_body(stack, "reader"), sizes.seconds)
    each = [a / b for a, b in zip(rtp, bare, strict=True)]
    return Figure(
        statistics.median(each), f"{statistics.median(rtp):.0f} against {statistics.median(bare):.0f} requests/s"
    )


def dien_head(_: Sizes) -> Figure:
    """CPU time of one run of DIEN's head over one of MIMN's, a history of 1,000 events, in turn in one process."""
    mimn, dien = in_turn({str(path): scoring(path, LONG, CANDIDATES) for path in (BUNDLE, DIEN)}, rounds=50)
    spread = (f"{t.median * 1e3:.3f} [{t.low * 1e3:.3f}, {t.high * 1e3:.3f}]" for t in (dien, mimn))
    return Figure(dien.median / mimn.median, " over ".join(spread) + " ms")


def dien_request(sizes: Sizes) -> Figure:
    """RTP's CPU time for a whole request with DIEN's bundle over that with MIMN's: two stacks on one store, in turn."""
    with running() as mimn, running(bundle=DIEN, redis_url=mimn.addresses.redis_url) as dien:
        asked = []
        for stack in (mimn, dien):
            publish(stack, [("reader", LONG)])
            child = stack.rtp[0].child
            if child is None:
                raise NotMeasured("RTP does not run")
            asked.append((Client(stack.addresses.predict), predict_body(stack, "reader"), cpu_s_of([child.pid])))
        taken: list[list[float]] = [[], []]
        for turn in range(11):
            for (client, body, cpu_s), costs in zip(asked, taken, strict=True):
                before, requests = cpu_s(), max(10, sizes.requests // 100)
                for _ in range(requests):
                    client.post(body)
                if turn:  # the first one warms
                    costs.append((cpu_s() - before) / requests)
    ratios = [slow / quick for quick, slow in zip(*taken, strict=True)]
    spent = " over ".join(f"{statistics.median(costs) * 1e3:.2f}" for costs in reversed(taken))
    return Figure(statistics.median(ratios), f"{min(ratios):.1f} to {max(ratios):.1f}, {spent} ms")


# --- UIC -----------------------------------------------------------------------------------------------------------


def fold_rate(sizes: Sizes) -> Figure:
    """Events a second from a backlog that was produced before, Zipf 1 over the users, 64 partitions."""
    with running(rtp_processes=0) as stack:
        folded = fold_backlog(stack, zipf_users(sizes.users, sizes.backlog), sizes.backlog)
    return Figure(folded.per_s, f"{sizes.backlog:,} events, {folded.cpu_us:.1f} us of CPU each")


def fold_against_streams(sizes: Sizes) -> Figure:
    """Rate of the fold of a backlog over that of Kafka Streams with exactly_once_v2 on the same work, in turn.

    The peer is a script, called with a Python and a number of events. It starts a broker of its own, lets Kafka Streams
    fold that many events into states of the same size, and prints a line for each of its settings.
    """
    peer = os.environ.get(STREAMS_PEER)
    if not peer:
        raise NotMeasured(f"set {STREAMS_PEER} to the script that runs Kafka Streams on the same work")
    if not Options.from_environment().bootstrap:
        raise NotMeasured("the small broker is no log to compare on: set KAFKA_BOOTSTRAP_SERVERS")
    ours: list[Folded] = []
    theirs: dict[str, list[Folded]] = {"no cache": [], "cached": []}
    for _ in range(2):
        with running(rtp_processes=0) as stack:
            ours.append(fold_backlog(stack, zipf_users(sizes.users, sizes.backlog), sizes.backlog))
        for mode, folded in streams(peer, sizes.backlog):
            theirs[mode].append(folded)
    if not all(theirs.values()):
        raise NotMeasured(f"{peer} printed no figure with exactly_once_v2 for each of {', '.join(theirs)}")
    best = max(statistics.median(f.per_s for f in some) for some in theirs.values())
    said = "; ".join(f"{mode} {told(some)}" for mode, some in theirs.items())
    return Figure(statistics.median(f.per_s for f in ours) / best, f"{told(ours)}; Kafka Streams {said}")


def streams(peer: str, events: int) -> Iterator[tuple[str, Folded]]:
    """What the peer says of its runs with exactly_once_v2: by whether states are cached between commits."""
    done = subprocess.run([peer, sys.executable, str(events)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotMeasured(f"{peer} ended with status {done.returncode}: {done.stderr.strip()[-200:]}")
    for line in done.stdout.splitlines():
        if found := STREAMS_LINE.match(line):
            yield "cached" if int(found["cache"]) else "no cache", Folded(float(found["rate"]), float(found["cpu"]))


def one_user_rate(sizes: Sizes) -> Figure:
    """Events a second when all of them are one user's, so that no two can share a run of the step graph."""
    count = min(20_000, sizes.backlog)
    with running(rtp_processes=0) as stack:
        folded = fold_backlog(stack, ("hot" for _ in range(count)), count)
    return Figure(folded.per_s, f"{count:,} events, {folded.cpu_us:.1f} us of CPU each")


def freshness(sizes: Sizes) -> Figure:
    """p99 of produced → visible at 2,000 events/s, seen by polling /predict for a probe user's event count. Counts from
    before the producer is handed the event."""
    delays = histogram()
    with running() as stack:
        publish(stack, [("probe", 1)])
        client = Client(stack.addresses.predict)
        body = predict_body(stack, "probe", candidates=1)
        item, category = known_items(load_bundle(stack.options.bundle), 1)[0]
        producer = KafkaProducer(bootstrap_servers=stack.addresses.bootstrap, acks="all")
        count, before = client.events(body), absorbed(stack)
        with feeding(stack.addresses.bootstrap, stack.addresses.topic, 2_000):
            until(lambda: absorbed(stack) > before + 2_000, "the crowd's events are folded", within_s=30)
            began = time.monotonic()
            while time.monotonic() - began < sizes.seconds:
                sent = time.perf_counter()
                producer.send(stack.addresses.topic, key=b"probe", value=event("probe", item, category)).get(timeout=10)
                count += 1
                until(lambda n=count: client.events(body) >= n, "the event is visible", within_s=10, every_s=0.001)  # type: ignore[misc]
                delays.record_value(round((time.perf_counter() - sent) * 1e6))
        producer.close()
    p50, p90, p99, most = (delays.get_value_at_percentile(p) / 1000 for p in (50, 90, 99, 100))
    spread = f"p50 {p50:.1f}, p90 {p90:.1f}, longest {most:.1f} ms, {delays.get_total_count()} probes"
    return Figure(p99, spread, delays.encode().decode())


def takeover(sizes: Sizes) -> Figure:
    """Seconds from SIGKILL of one of two workers until events of all partitions are folded again."""
    if not Options.from_environment().bootstrap:
        raise NotMeasured("the small broker never gives a killed member's partitions away: set KAFKA_BOOTSTRAP_SERVERS")
    with running(uic_workers=2) as stack:
        publish(stack, [(f"user-{i}", 1) for i in range(300)])
        stack.uic[1].kill()
        began = time.monotonic()
        publish(stack, [(f"user-{i}", 1) for i in range(300)], within_s=60)
        return Figure(time.monotonic() - began, "default session timeout")


# --- Sizes ---------------------------------------------------------------------------------------------------------


def bytes_float32(_: Sizes) -> Figure:
    """Bytes of one stored value of MIMN's."""
    return Figure(HEADER_BYTES + load_bundle(BUNDLE).layout.stored_bytes)


def bytes_float16(_: Sizes) -> Figure:
    """The same with the recurrent blocks in float16: every block that lies in [-1, 1]."""
    layout = load_bundle(BUNDLE).layout
    recurrent = {"controller", "read", "memory", "channels"}
    halved = StateLayout(
        tuple(Block(b.name, b.shape, "float16" if b.name in recurrent else "float32") for b in layout.blocks)
    )
    return Figure(HEADER_BYTES + halved.stored_bytes)


def bytes_sketch(_: Sizes) -> Figure:
    """Bytes of one stored value of the model that is shipped, whose state has a sketch of counters."""
    return Figure(HEADER_BYTES + load_bundle(SHIPPED).layout.stored_bytes)


# --- What they share -----------------------------------------------------------------------------------------------


@contextmanager
def running(
    *, uic_workers: int = 1, rtp_processes: int = 1, bundle: Path = BUNDLE, redis_url: str | None = None
) -> Iterator[Stack]:
    """A stack in a folder that is removed afterwards, by default with the bundle that budgets are for."""
    if not (bundle / "manifest.json").exists():
        raise NotMeasured(f"no bundle at {bundle}: run from the repository's root")
    given = Options.from_environment()
    own = f"budget-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as folder:
        options = replace(
            given,
            folder=Path(folder),
            bundle=bundle,
            redis_url=redis_url or given.redis_url,
            topic=own,
            prefix=own,
            uic_workers=uic_workers,
            rtp_processes=rtp_processes,
            uic={"UIC_LOG__LEVEL": "warning"},
        )
        with Stack(options) as stack:
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


def p99_at(client: Client, body: bytes, per_s: float, seconds: float) -> float:
    """p99 in seconds at a fixed rate, from the intended start of each request."""
    began = time.perf_counter()
    delays = []
    for i in range(int(per_s * seconds)):
        intended = began + i / per_s
        if (wait := intended - time.perf_counter()) > 0:
            time.sleep(wait)
        client.post(body)
        delays.append(time.perf_counter() - intended)
    return float(np.quantile(delays, 0.99))


def quiet_ms(values: list[float]) -> str:
    """Seconds as milliseconds, for people."""
    return " / ".join(f"{value * 1000:.2f}" for value in values)


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


def absorbed(stack: Stack) -> int:
    """Records that the progress of all partitions covers."""
    bundle = load_bundle(stack.options.bundle)
    keys = Keys(namespace(bundle.fingerprint.hex()), stack.options.prefix)
    client = redis.Redis.from_url(stack.addresses.redis_url, protocol=2)
    records = client.mget([keys.progress(p) for p in range(stack.options.partitions)])
    client.close()
    return sum(
        decode_progress(record).next_offset for record in cast("list[bytes | None]", records) if record is not None
    )


def fold_backlog(stack: Stack, users: Iterator[str], count: int) -> Folded:
    """Let the worker find a backlog of `count` events, and measure between its first tenth and its last commit.

    The first tenth is left out, so that start-up and joining the group are not counted.
    """
    worker = stack.uic[0]
    worker.stop()
    feed(stack, users)
    worker.spawn()
    if worker.child is None:
        raise AssertionError("a worker that was started has a process")
    process = psutil.Process(worker.child.pid)
    seen: dict[str, tuple[float, float, int]] = {}

    def reached(name: str, target: int) -> Callable[[], bool]:
        def look() -> bool:
            folded = absorbed(stack)
            if folded >= target:
                spent = process.cpu_times()
                seen[name] = (time.perf_counter(), spent.user + spent.system, folded)
                return True
            return False

        return look

    until(reached("began", count // 10), "a tenth is folded", within_s=120, every_s=0.02)
    until(reached("ended", count), "the backlog is folded", within_s=300, every_s=0.02)
    (t0, cpu0, n0), (t1, cpu1, n1) = seen["began"], seen["ended"]
    return Folded((n1 - n0) / (t1 - t0), (cpu1 - cpu0) / (n1 - n0) * 1e6)


def told(runs: list[Folded]) -> str:
    """Runs for people."""
    return f"{'/'.join(f'{f.per_s:,.0f}' for f in runs)} a second, {statistics.median(f.cpu_us for f in runs):.1f} us"
