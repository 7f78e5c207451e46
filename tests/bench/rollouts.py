"""Many rollouts one after another under load: what users notice of them, which should be nothing.

    PYTHONPATH=tests python -m bench.rollouts [--rollouts 50] [--requests 300] [--events 1000] [--cluster]

Every other rollout changes the head alone; the others change the fingerprint, and a UIC fleet of its own builds the new
namespace from the log while the old one goes on. A third is aborted as a canary, a third is promoted and rolled back, a
third stays. Each answer is judged by itself: the scores must be those that the named model gives to the user's state,
which is known for users without events. Servers are real: Valkey (one, or with --cluster three masters with a replica
each), UIC, RTP, and a broker (KAFKA_BOOTSTRAP_SERVERS, or the small one). Requests and events come from processes of
their own (senders.py), and are judged when the run is over.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis
from kafka import KafkaConsumer, TopicPartition

from bench import senders
from conftest import RedisForTest, TopicsForTest
from localstack.dev_broker import DevBroker
from localstack.topics import create_topics, topics
from localstack.uic_and_rtp import UicWorker
from localstack.valkey import Valkey
from mimn.release import Record
from support.bundles import with_scaled_head
from support.one_node_cluster import replicated
from support.rollouts import Answered, Deployment, deployed

USERS = [f"user-{i}" for i in range(2000)]
QUIET, BUSY = USERS[:500], USERS[500:]
GATES = ("--allowed-lag", "20s", "--steady-for", "2s", "--whole", "2", "--sample", "500")
PARTITIONS = 16
CANARY_ANSWERS = 300
"""How many answers go by while a canary serves its share."""
LATE_ANSWERS = 100
"""How many go by after RTP follows a command: more than were on their way, so that no late answer is cut off."""


class Fleets:
    """UIC workers, one for each namespace that is folded."""

    def __init__(self, running: Deployment) -> None:
        self._running = running
        self._workers: dict[str, UicWorker] = {running.old.keys.namespace: running.old.workers[0]}
        self.cpu: Counter[str] = Counter()

    def fold(self, path: Path, namespace: str) -> None:
        """Have a worker for a namespace."""
        if namespace in self._workers:
            return
        running, generation = self._running, int(namespace.rpartition("-")[2])
        surroundings = replace(running.surroundings, bundle=path, generation=generation)
        name = f"uic-{len(self._workers)}"
        worker = UicWorker(name, running.folder / name, surroundings)
        worker.start()
        self._workers[namespace] = worker

    def keep(self, record: Record) -> None:
        """Stop the workers of namespaces that nothing serves or may have to serve again."""
        needed = {release.namespace for release in record.held}
        for namespace in self._workers.keys() - needed:
            self._workers.pop(namespace).stop()

    def close(self) -> None:
        """Stop all but the first, which is the deployment's."""
        for worker in self._workers.values():
            if worker.alive():
                worker.stop()


class Judge:
    """What each model says of users whose states do not change."""

    def __init__(self, running: Deployment) -> None:
        self._running = running
        self._known: dict[tuple[str, str], Any] = {}

    def learn(self, paths: Sequence[Path]) -> None:
        """Work out the scores of every user without events; their namespaces must be folded."""
        for path in paths:
            for user in QUIET:
                self._known[f"{path.parent.name}/{path.name}", user] = self._running.expected(path, user)

    def mixed(self, answers: Sequence[Answered]) -> tuple[int, int]:
        """How many answers are not what their model says, and how many were looked at."""
        seen = [(one, self._known.get((one.model, one.user))) for one in answers if one.status == 200]
        judged = [(one, scores) for one, scores in seen if scores is not None]
        return sum(not np.allclose(one.scores, scores, atol=2e-3) for one, scores in judged), len(judged)


@dataclass
class Commands:
    """When commands began and ended the answers of models, in seconds of the monotonic clock."""

    begins: list[tuple[str, float]] = field(default_factory=list)
    """A model, and when the command was given."""
    ends: list[tuple[str, float]] = field(default_factory=list)
    """A model, and when the command was done."""

    def last_answers(self, answers: Sequence[Answered]) -> list[float]:
        """How long each model that was ended still answered, in seconds."""
        found = []
        for model, at in self.ends:
            until_s = min((began for other, began in self.begins if other == model and began > at), default=math.inf)
            found.append(
                max((one.done - at for one in answers if one.model == model and at < one.done < until_s), default=0.0)
            )
        return found


def turn(
    running: Deployment, fleets: Fleets, path: Path, fate: str, traffic: senders.Requests, commands: Commands
) -> dict[str, Any]:
    """One rollout with a fate; `commands` hears what begins and ends by it."""
    began = time.monotonic()
    started = running.done("start", str(path))
    identity, name = started["id"], started["bundle"]
    fleets.fold(path, started["namespace"])
    running.done("wait", identity, "--timeout", "240s", *GATES)
    ready_s = time.monotonic() - began
    running.wait_loaded(name)
    commands.begins.append((name, time.monotonic()))
    running.done("canary", identity, "--percent", "10", *GATES)
    before = running.record().serving.bundle
    running.wait_revision()
    traffic.wait_answers(CANARY_ANSWERS)

    def ended(model: str, *command: str) -> None:
        running.done(*command)
        commands.ends.append((model, time.monotonic()))
        running.wait_revision()
        traffic.wait_answers(LATE_ANSWERS)

    if fate == "aborted":
        ended(name, "abort", identity)
    else:
        ended(before, "promote", identity, *GATES)
        if fate == "rolled back":
            commands.begins.append((before, time.monotonic()))
            ended(name, "rollback", identity)
    fleets.keep(running.record())
    running.rollout("gc")  # a later one removes what was folded just now
    return {
        "id": identity,
        "bundle": name,
        "head_only": started["head_only"],
        "fate": fate,
        "ready_s": round(ready_s, 1),
        "took_s": round(time.monotonic() - began, 1),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print one JSON document, and return 0 if no user noticed anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rollouts", type=int, default=50)
    parser.add_argument("--requests", type=float, default=300, help="a second")
    parser.add_argument("--events", type=float, default=1000, help="a second")
    parser.add_argument("--cluster", action="store_true", help="the store is three masters with a replica each")
    options = parser.parse_args(arguments)
    with ExitStack() as ending:
        folder = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="rollouts-")))
        bootstrap = (
            os.environ.get("KAFKA_BOOTSTRAP_SERVERS") or ending.enter_context(DevBroker(folder / "broker")).address
        )
        named = TopicsForTest(bootstrap, f"events-{os.getpid()}", PARTITIONS)
        create_topics(bootstrap, topics(named.events, PARTITIONS))
        store = ending.enter_context(clustered(folder) if options.cluster else single(folder))
        mode = "cluster" if options.cluster else "single"
        running = ending.enter_context(deployed(folder, store, named, USERS, MODE=mode))
        told = {"store": mode, **play(running, ending, options)}
    print(json.dumps(told, indent=2))
    return 0 if not (told["failed"] or told["mixed"] or told["cold"]) and told["last_answer_s"]["max"] <= 2 else 1


@contextmanager
def single(folder: Path) -> Iterator[RedisForTest]:
    """One Valkey."""
    with Valkey(folder / "valkey", appendfsync="no") as store:
        client = redis.Redis.from_url(store.address, protocol=2, socket_timeout=10)
        yield RedisForTest(store.address, "shop", client)


@contextmanager
def clustered(folder: Path) -> Iterator[RedisForTest]:
    """Three masters with a replica each."""
    with replicated(folder) as nodes:
        client = redis.RedisCluster.from_url(nodes[0].address, protocol=2, socket_timeout=10)
        yield RedisForTest(nodes[0].address, "shop", client)  # type: ignore[arg-type] # the cluster's client


def play(running: Deployment, ending: ExitStack, options: argparse.Namespace) -> dict[str, Any]:
    """All rollouts under load."""
    other = with_scaled_head(running.folder / "bundles", running.new_bundle, "2", 0.5)
    heads = {"tiny": (running.old_bundle, running.other_head), "tiny-sketch": (running.new_bundle, other)}
    judge, fleets = Judge(running), Fleets(running)
    judge.learn([running.old_bundle, running.other_head, running.new_bundle, other])
    running.new.workers[0].stop()
    for key in list(running.redis.client.scan_iter(match=f"*{running.new.keys.namespace}*")):
        running.redis.client.delete(key)
    ending.callback(fleets.close)
    topic, bootstrap = running.topics.events, running.topics.bootstrap
    fates = ("aborted", "rolled back", "kept")
    turns: list[dict[str, Any]] = []
    commands = Commands()
    rtp_child = running.rtp.child
    assert rtp_child is not None
    with (
        senders.requests(running.rtp.ports["http"], USERS, options.requests) as traffic,
        senders.events(bootstrap, topic, BUSY, options.events, running.old_bundle),
    ):
        traffic.wait_answers(100)
        began, cpu = time.monotonic(), sum(psutil.Process(rtp_child.pid).cpu_times()[:2])
        first, folded = traffic.answered(), _logged(running)
        for number in range(options.rollouts):
            serving = running.record().serving if turns else None
            name, version = ("tiny", "1") if serving is None else (serving.name, serving.version)
            if number % 2 == 0:  # another head of the same fingerprint
                path = heads[name][1 if version == "1" else 0]
            else:
                path = heads["tiny" if name == "tiny-sketch" else "tiny-sketch"][int(version) - 1]
            turns.append(turn(running, fleets, path, fates[number % 3], traffic, commands))
            print(json.dumps(turns[-1]), file=sys.stderr, flush=True)
        took_s = time.monotonic() - began
        requests, sent = traffic.answered() - first, _logged(running) - folded
        used_s = sum(psutil.Process(rtp_child.pid).cpu_times()[:2]) - cpu
    failed = [one for one in traffic.answers if one.status != 200]
    mixed, judged = judge.mixed(traffic.answers)
    waited_ms = [1000 * (one.done - one.at) for one in traffic.answers]
    last = commands.last_answers(traffic.answers)
    return {
        "rollouts": len(turns),
        "fates": Counter(one["fate"] for one in turns),
        "head_only": sum(one["head_only"] for one in turns),
        "seconds": round(took_s),
        "requests": len(traffic.answers),
        "requests_per_s": round(requests / took_s),
        "events_per_s": round(sent / took_s),
        "answered_ms": {
            "p50": round(float(np.median(waited_ms)), 2),
            "p99": round(float(np.quantile(waited_ms, 0.99)), 2),
        },
        "failed": len(failed),
        "failures": Counter(f"{one.status} {one.model}" for one in failed),
        "mixed": mixed,
        "judged": judged,
        "cold": sum(one.state in ("cold", "unavailable") for one in traffic.answers),
        "states": Counter(one.state for one in traffic.answers),
        "models": Counter(one.model for one in traffic.answers),
        "last_answer_s": {"p50": float(np.median(last)), "p99": float(np.quantile(last, 0.99)), "max": max(last)},
        "ready_s": {
            kind: float(np.median([one["ready_s"] for one in turns if one["head_only"] is flag] or [0.0]))
            for kind, flag in (("head only", True), ("migration", False))
        },
        "rtp_cpu_ms_per_request": round(1000 * used_s / requests, 3),
    }


def _logged(running: Deployment) -> int:
    """How many records the topic has had."""
    consumer = KafkaConsumer(bootstrap_servers=running.topics.bootstrap)
    places = [TopicPartition(running.topics.events, p) for p in range(running.topics.partitions)]
    try:
        return sum(consumer.end_offsets(places).values())
    finally:
        consumer.close()


if __name__ == "__main__":
    sys.exit(main())
