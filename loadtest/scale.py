"""What UIC and RTP cost and how they scale on this machine, as one JSON file: the prices of `loadtest.capacity`.

    python -m loadtest.scale                     about twelve minutes; KAFKA_BOOTSTRAP_SERVERS names a real Kafka
    python -m loadtest.scale --only predict      one phase of it
    python -m loadtest.scale --bundle DIR        with a bundle of your own (default: the one that is shipped)

Costs are microseconds of a core an event or a request, summed over the processes of a kind, so that they mean
something on a machine where everything shares two cores. `others_us` is what this program and the broker took. A broker
that was given counts only if `--broker-pid` names its process. `elsewhere_cores` is what else the
machine did, interrupts and stolen time included: those cores were not available.

Phases that take times run in turn, round after round, because a neighbor on the machine can double a time for a
minute. The record has the median of each figure, and the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
import uvloop

from loadtest.bare_loop import saturate
from loadtest.cpu import cpu_s_of
from loadtest.feeder import feeding, zipf_users
from loadtest.origin import commit, dated, machine
from loadtest.stacks import QUIET, absorbed, feed, predict_body, publish, running
from localstack.server import Server
from localstack.signals import signals_unwind
from localstack.stack import BUNDLE, Options, Stack
from localstack.valkey import Valkey
from localstack.wait import until
from localstack.web import web
from mimn.bundle import load_bundle
from mimn.state.codec import HEADER_BYTES

COUNTS = (1, 2, 3)
"""Workers and processes that are tried."""
RATES = (500, 2_000, 8_000)
"""Events a second of the steady phases."""
CANDIDATES = (1, 25, 100, 400)
FLAT_OUT, PLANNED = 8, 2
"""Connections to each RTP process: so many that it always has much to do, and as many requests as are there on the
average in a process that is as busy as `loadtest.capacity` plans (60 %) whenever it is busy. Requests that meet share
their reads, so each costs less flat out."""
HISTORY, LONGER = 20, (100, 1000)
"""Events of each user whose snapshot is measured, and of those whose values are measured besides."""
SAMPLED = 100
"""Users with each of the longer histories."""
DURABILITY = ("off", "everysec", "always")
ROUNDS = 3
PATIENT = {"UIC_FOLD__LEASE_S": "120"}
"""So that workers which stand still keep their partitions."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    backlog: int = 200_000
    """Events for each worker."""
    users: int = 100_000
    seconds: float = 10.0
    """Of each phase at a fixed rate, and of each closed loop."""
    starts: int = 3
    """Of each service, for its seconds to ready."""
    bundle: Path = BUNDLE
    broker_pid: int | None = None
    """Of a broker that was given, for its costs."""


def fold(sizes: Sizes) -> list[dict[str, Any]]:
    """A backlog, by number of workers, from its first tenth to its last fifth: before, they begin to fetch, and at the
    end some have nothing left. Several need a real Kafka: the small broker does not reliably assign a topic to members
    that start together."""
    rows = []
    for count in COUNTS if Options.from_environment().bootstrap else COUNTS[:1]:
        with running(bundle=sizes.bundle, uic_workers=count, rtp_processes=0, uic={**QUIET, **PATIENT}) as stack:
            until(lambda s=stack: shared_out(s), "every worker has its part", within_s=120, every_s=0.1)  # type: ignore[misc]
            total = count * sizes.backlog
            with standing_still(stack.uic):
                feed(stack, zipf_users(sizes.users, total))
            covered(stack, total // 10, 120)
            with spending(stack, sizes) as spent:
                before = absorbed(stack)
                covered(stack, total - total // 5, 300)
                events = absorbed(stack) - before
            rows.append(
                {"processes": count, "events": events, **spent.row(events), "uic_rss_mib": rss_mib(stack.uic) / count}
            )
    return rows


def steady(sizes: Sizes) -> list[dict[str, float]]:
    """Events that arrive at a rate, by rate."""
    rows = []
    for rate in RATES:
        with running(bundle=sizes.bundle, rtp_processes=0) as stack, events_at(stack, rate):
            covered(stack, 2 * rate, 60)
            with spending(stack, sizes) as spent:
                before = absorbed(stack)
                time.sleep(sizes.seconds)
                events = absorbed(stack) - before
            rows.append({"rate_per_s": rate, **spent.row(events)})
    return rows


def persistence(sizes: Sizes) -> list[dict[str, Any]]:
    """Bytes that the store writes to its file for an event, by durability, at the middle one of the rates."""
    rows: list[dict[str, Any]] = []
    for appendfsync in DURABILITY:
        with (
            tempfile.TemporaryDirectory() as folder,
            Valkey(Path(folder), appendfsync=appendfsync) as store,
            running(bundle=sizes.bundle, rtp_processes=0, redis_url=store.address) as stack,
            events_at(stack, RATES[1]),
        ):
            covered(stack, 2 * RATES[1], 60)
            began, before = appended(store), absorbed(stack)
            time.sleep(sizes.seconds)
            events = absorbed(stack) - before
            rows.append({"appendfsync": appendfsync, "bytes_an_event": (appended(store) - began) / events})
    return rows


def snapshot(sizes: Sizes) -> dict[str, Any]:
    """Memory and snapshot file of the store, a user of `HISTORY` events; and the bytes of a value by events, because
    a value's zeros are left out. The users' items are drawn at random, so few of them come again."""
    with running(bundle=sizes.bundle, rtp_processes=0) as stack:
        client = redis.Redis.from_url(stack.addresses.redis_url, protocol=2)
        empty: Any = client.info("memory")
        users = sizes.users // 10
        publish(stack, [(f"user-{i}", HISTORY) for i in range(users)], within_s=300)
        full: Any = client.info("memory")
        client.bgsave()
        until(lambda: not client.info("persistence")["rdb_bgsave_in_progress"], "the snapshot is written", within_s=60)
        directory: Any = client.config_get("dir")
        size = (Path(directory["dir"]) / "dump.rdb").stat().st_size
        for events in LONGER:
            publish(stack, [(f"user-of-{events}-{i}", events) for i in range(SAMPLED)], within_s=300)
        of = {HISTORY: "user", **{events: f"user-of-{events}" for events in LONGER}}
        state_bytes = {str(events): mean_value(client, f"*:s:{name}-[0-9]*") for events, name in of.items()}
        client.close()
        return {
            "store_bytes_a_user": (full["used_memory"] - empty["used_memory"]) / users,
            "snapshot_bytes_a_user": size / users,
            "state_bytes_by_events": state_bytes,
        }


def mean_value(client: redis.Redis, pattern: str) -> float:
    """Mean length of the values whose keys match."""
    pipeline = client.pipeline(transaction=False)
    for key in client.scan_iter(pattern, count=1000):
        pipeline.strlen(key)
    return statistics.fmean(pipeline.execute())


def predict(sizes: Sizes) -> list[dict[str, Any]]:
    """Requests of 100 candidates as fast as they are answered, by number of processes; each one's share of a core."""
    rows = []
    for count in COUNTS:
        with running(bundle=sizes.bundle, rtp_processes=count) as stack:
            publish(stack, [(f"user-{i}", 50) for i in range(50)])
            stack.uic[0].stop()
            bodies = [predict_body(stack, f"user-{i}") for i in range(50)]
            measured = closed_loop(stack, bodies, sizes, FLAT_OUT * count)
            rows.append({"processes": count, **measured, "rtp_rss_mib": rss_mib(stack.rtp) / count})
    return rows


def candidates(sizes: Sizes) -> list[dict[str, Any]]:
    """The same with one process and few requests at a time, by candidates a request."""
    rows = []
    with running(bundle=sizes.bundle) as stack:
        publish(stack, [("reader", 50)])
        stack.uic[0].stop()
        for count in CANDIDATES:
            bodies = [predict_body(stack, "reader", count)]
            rows.append({"candidates": count, "connections": PLANNED, **closed_loop(stack, bodies, sizes, PLANNED)})
    return rows


def starting(sizes: Sizes) -> dict[str, float]:
    """Seconds from the start of a process until it is ready, median."""
    with running(bundle=sizes.bundle) as stack:
        return {
            f"{kind}_ready_s": statistics.median(seconds_to_ready(member) for _ in range(sizes.starts))
            for kind, member in (("uic", stack.uic[0]), ("rtp", stack.rtp[0]))
        }


PHASES: dict[str, Callable[[Sizes], Any]] = {
    "starting": starting,
    "fold": fold,
    "steady": steady,
    "persistence": persistence,
    "memory": snapshot,
    "predict": predict,
    "candidates": candidates,
}
IN_ROUNDS = ("fold", "steady", "predict", "candidates")
"""The phases that take times; the others count bytes, or take the median of several starts."""


# --- What they share -----------------------------------------------------------------------------------------------


@dataclass
class Spent:
    """Processor time of a stack's processes, and of the whole machine, while something ran."""

    seconds: float = 0.0
    busy_s: float = 0.0
    cpu_s: dict[str, list[float]] = field(default_factory=dict)
    """Of each process of each kind."""

    def row(self, units: float) -> dict[str, float]:
        """Rate, microseconds a unit of each kind, and cores that were busy with anything else."""
        known_s = {name: sum(each) for name, each in self.cpu_s.items()}
        elsewhere_s = max(0.0, self.busy_s - sum(known_s.values()))
        return {
            "per_s": units / self.seconds,
            **{f"{name}_us": cpu_s / units * 1e6 for name, cpu_s in known_s.items()},
            "elsewhere_cores": elsewhere_s / self.seconds,
        }


def busy_s() -> float:
    """Seconds in which a core of this machine was not idle."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - times.iowait - times.guest - times.guest_nice)  # user has guest's already


@contextmanager
def spending(stack: Stack, sizes: Sizes) -> Iterator[Spent]:
    """What the stack's services, its store and everything else of it spend while the body runs."""
    processes = {
        "uic": pids(stack.uic),
        "rtp": pids(stack.rtp),
        "store": pids([stack.valkey]),
        "others": [os.getpid(), *pids([stack.broker]), *([sizes.broker_pid] if sizes.broker_pid else [])],
    }
    clocks = {name: [cpu_s_of([pid]) for pid in some] for name, some in processes.items()}
    began, busy, before = time.perf_counter(), busy_s(), {n: [read() for read in some] for n, some in clocks.items()}
    yield (spent := Spent())
    spent.seconds, spent.busy_s = time.perf_counter() - began, busy_s() - busy
    for name, some in clocks.items():
        spent.cpu_s[name] = [read() - at for read, at in zip(some, before[name], strict=True)]


def pids(members: Iterable[Server | None]) -> list[int]:
    """The processes of members that run; none for servers that are not ours."""
    return [member.child.pid for member in members if member and member.child and member.alive()]


def closed_loop(stack: Stack, bodies: Sequence[bytes], sizes: Sizes, connections: int) -> dict[str, Any]:
    """Rate and costs of RTP when every connection asks as soon as it is answered."""
    url = f"{stack.addresses.predict}/predict"
    uvloop.run(saturate(url, bodies, 1.0))
    with spending(stack, sizes) as spent:
        rate = uvloop.run(saturate(url, bodies, sizes.seconds, connections=connections))
    shares = [round(cpu_s / spent.seconds, 3) for cpu_s in spent.cpu_s["rtp"]]
    return {**spent.row(rate * sizes.seconds), "shares_of_a_core": shares}


@contextmanager
def standing_still(workers: Sequence[Server]) -> Iterator[None]:
    """Workers do nothing while the body runs, and go on together: those of a group get their parts one after another,
    and the first would have folded its own before the last one begins."""
    processes = [psutil.Process(pid) for pid in pids(workers)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def shared_out(stack: Stack) -> bool:
    """Whether every partition is folded, and every worker folds some."""
    answers = (web().get(f"{worker.admin_url}/partitions", timeout=5).json()["partitions"] for worker in stack.uic)
    owned = [sum(one["phase"] == "folding" for one in partitions) for partitions in answers]
    return all(owned) and sum(owned) == stack.options.partitions


def events_at(stack: Stack, rate: float) -> AbstractContextManager[object]:
    """Events at a rate, as long as the body runs."""
    return feeding(stack.addresses.bootstrap, stack.addresses.topic, rate, stack.options.bundle)


def covered(stack: Stack, events: int, within_s: float) -> None:
    """Wait until `events` records are committed."""
    until(lambda: absorbed(stack) >= events, f"{events:,} events are folded", within_s=within_s, every_s=0.02)


def appended(store: Valkey) -> int:
    """Bytes that the store has written to its storage, those of its ended children included."""
    return sum(int(psutil.Process(pid).io_counters().write_bytes) for pid in pids([store]))


def rss_mib(members: Iterable[Server]) -> float:
    """Resident memory of members, together."""
    return float(sum(psutil.Process(pid).memory_info().rss for pid in pids(members))) / 2**20


def seconds_to_ready(member: Server) -> float:
    """Of one restart."""
    member.stop()
    began = time.perf_counter()
    member.start()
    return time.perf_counter() - began


def measure(sizes: Sizes, phases: Sequence[str], rounds: int = 1) -> dict[str, Any]:
    """The record of some phases; those of `IN_ROUNDS` are measured in turn, that many times."""
    bundle = load_bundle(sizes.bundle)
    record: dict[str, Any] = {
        "machine": machine(),
        "commit": commit(),
        "broker": "given" if os.environ.get("KAFKA_BOOTSTRAP_SERVERS") else "the small one",
        "bundle": f"{bundle.manifest.name}/{bundle.manifest.version}",
        "state_bytes": HEADER_BYTES + bundle.layout.stored_bytes,
    }
    record |= {name: measured(sizes, name) for name in phases if name not in IN_ROUNDS}
    repeated = [name for name in phases if name in IN_ROUNDS]
    record["rounds"] = [{name: measured(sizes, name) for name in repeated} for _ in range(rounds)]
    record |= median_of(record["rounds"])
    return record


def measured(sizes: Sizes, name: str) -> Any:
    """What a phase gives. Says so, because a phase takes a minute."""
    began = time.monotonic()
    print(f"{name} ...", flush=True)
    found = PHASES[name](sizes)
    print(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(found)}", flush=True)
    return found


def median_of(rounds: Sequence[Any]) -> Any:
    """What several rounds have in common, each number as the median of theirs."""
    first = rounds[0]
    if isinstance(first, dict):
        return {name: median_of([one[name] for one in rounds]) for name in first}
    if isinstance(first, list):
        return [median_of(row) for row in zip(*rounds, strict=True)]
    return statistics.median_low(rounds)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.scale", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(PHASES), help="measure these only; nothing is written")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of what takes times (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="folder of the JSON file (default: results/<date>_scale)")
    parser.add_argument("--bundle", type=Path, default=BUNDLE, help="folder (default: %(default)s)")
    parser.add_argument("--broker-pid", type=int, help="of the Kafka of KAFKA_BOOTSTRAP_SERVERS, where it runs here")
    asked = parser.parse_args(arguments)
    if asked.rounds < 1:
        parser.error("--rounds must be at least 1")
    with signals_unwind():
        sizes = Sizes(bundle=asked.bundle, broker_pid=asked.broker_pid)
        record = measure(sizes, asked.only or list(PHASES), asked.rounds)
    if not asked.only:
        written = (asked.output or dated("scale")) / "scale.json"
        written.parent.mkdir(parents=True, exist_ok=True)
        written.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        print(f"written to {written}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
