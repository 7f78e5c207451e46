"""RTP's CPU for a request, of several commits and bundles on one store, in turn.

    git worktree add ../before 554b3fb
    PYTHONPATH=tests python -m bench.request_cpu before=../before now=. ledger=.:models/bundles/online-retail-ledger/2

Each subject is an RTP process from a tree of this repository. In each round every one answers wrk for a second, with
eight connections and with one; ratios are against the first subject in the same round. Needs wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import redis

from loadtest import wrk
from loadtest.cpu import cpu_s_of
from loadtest.population import Population, measured_bundle
from loadtest.stacks import CANDIDATES
from localstack.uic_and_rtp import RtpProcess, Surroundings
from localstack.valkey import Valkey
from mimn.bundle import load_bundle
from support.stored import Stored, now_ms

MEMBERS = ("proto/gen", "access/src", "models/src", "services/rtp/src")
"""What RTP is imported from in a tree."""
CONNECTIONS = (8, 1)
USERS = 50
PARTITIONS = 8


@dataclass
class Subject:
    """What is measured."""

    name: str
    tree: Path
    bundle: Path
    spent_us: dict[int, list[float]] = field(default_factory=lambda: {n: [] for n in CONNECTIONS})
    """By number of connections, a figure a round."""

    @classmethod
    def named(cls, text: str) -> Subject:
        """Of `NAME=TREE` or `NAME=TREE:BUNDLE`.

        Raises:
            argparse.ArgumentTypeError: it is neither, or there is no RTP or bundle.
        """
        name, _, where = text.partition("=")
        tree, _, bundle = where.partition(":")
        made = cls(name, Path(tree).resolve(), Path(bundle or measured_bundle()).resolve())
        if not name or not (made.tree / MEMBERS[-1] / "rtp").is_dir():
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=TREE or NAME=TREE:BUNDLE with a tree that has RTP")
        if not (made.bundle / "manifest.json").is_file():
            raise argparse.ArgumentTypeError(f"no bundle at {made.bundle}")
        return made

    def process(self, folder: Path, store: str) -> RtpProcess:
        """Its RTP, not started."""
        path = os.pathsep.join(str(self.tree / member) for member in MEMBERS)
        told = {"PYTHONPATH": path, "RTP_STATE__STALE_AFTER_S": "3600"}
        at = Surroundings("", store, self.bundle, partitions=PARTITIONS, rtp=told)
        return RtpProcess(self.name, folder / self.name, at)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("subjects", nargs="+", type=Subject.named, metavar="NAME=TREE[:BUNDLE]")
    parser.add_argument("--rounds", type=int, default=14)
    parser.add_argument("--seconds", type=int, default=1, help="of each turn")
    options = parser.parse_args(arguments)
    if not wrk.installed():
        parser.error(wrk.MISSING)
    with ExitStack() as stack:
        made = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="request-cpu-")))
        store = stack.enter_context(Valkey(made / "valkey", appendfsync="no"))
        client = redis.Redis.from_url(store.address, protocol=2)
        for bundle in {subject.bundle for subject in options.subjects}:
            client.mset(states_of(bundle))
        turns = []
        for subject in options.subjects:
            process = subject.process(made, store.address)
            process.start()
            stack.callback(process.stop)
            turns.append((subject, turn(subject, process, options.seconds)))
        for number in range(options.rounds + 1):
            for subject, measure in turns:
                for connections in CONNECTIONS:
                    spent = measure(connections)
                    if number:  # the first round warms up
                        subject.spent_us[connections].append(spent)
    print(json.dumps({n: figures(options.subjects, n) for n in CONNECTIONS}, indent=1))
    return 0


def states_of(bundle: Path) -> dict[str, bytes]:
    """A namespace with the users who are asked for."""
    stored = Stored(load_bundle(bundle), partitions=PARTITIONS)
    for number in range(USERS):
        stored.state(f"user-{number}")
    for partition in range(PARTITIONS):
        stored.progress(partition, as_of_ms=now_ms())
    return stored.values


def turn(subject: Subject, process: RtpProcess, seconds: int) -> Callable[[int], float]:
    """What measures a turn: from the number of connections to microseconds of CPU a request."""
    if process.child is None:
        raise RuntimeError(f"{subject.name} did not start")
    bodies = Population(subject.bundle, USERS, "user-{}", CANDIDATES).bodies(USERS)
    cpu_s = cpu_s_of([process.child.pid])

    def measure(connections: int) -> float:
        before = cpu_s()
        found = wrk.ask(f"{process.address}/predict", bodies, seconds, connections)
        if found.failed:
            raise RuntimeError(f"{subject.name} failed {found.failed} requests")
        return (cpu_s() - before) / (found.per_s * seconds) * 1e6

    return measure


def figures(subjects: Sequence[Subject], connections: int) -> dict[str, dict[str, float]]:
    """By subject: the median, and the ratios to the first subject, round by round."""
    first = subjects[0].spent_us[connections]
    told = {}
    for subject in subjects:
        ratios = [a / b for a, b in zip(subject.spent_us[connections], first, strict=True)]
        told[subject.name] = {
            "cpu_us": round(statistics.median(subject.spent_us[connections])),
            "ratio": round(statistics.median(ratios), 2),
            "least": round(min(ratios), 2),
            "most": round(max(ratios), 2),
        }
    return told


if __name__ == "__main__":
    sys.exit(main())
