"""Latency against the length of histories and against the rate, one model after the other on one log: `make load`.

A stack is started for it, and one log produced through the real path. Then each model has its turn: UIC folds the log
into the states of this model, RTP serves it, and requests name users with histories of each length. All else is the
same.

    python -m loadtest.comparison              about seven minutes on two quiet cores
    python -m loadtest.comparison --reduced    under five

With `--compare rtp,ray,bentoml,triton` it compares engines in place of models, see `loadtest.engines`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from loadtest import engines, engines_report, knee, report, wrk
from loadtest.cpu import cpu_s_of
from loadtest.engines_report import OtherFigures
from loadtest.feeder import produce
from loadtest.origin import RESULTS, commit, dated, machine
from loadtest.peers.catalog import ENVIRONMENTS, NotInstalled
from loadtest.population import Population
from loadtest.report import Comparison, Measured
from loadtest.result import Result
from loadtest.sending import NotSent, send
from loadtest.stacks import CANDIDATES, Client, NotMeasured, absorbed, running
from localstack.process import Ended
from localstack.signals import signals_unwind
from localstack.stack import Stack, StackError
from localstack.wait import NotReady, until
from mimn.bundle import BundleError, load_bundle

BUNDLES = Path("models/bundles")
MODELS = {
    "MIMN": BUNDLES / "online-retail-ledger/2",
    "DIN": BUNDLES / "online-retail-din/1",
    "DIEN": BUNDLES / "online-retail-dien/1",
}
DEADLINE_MS = 10_000
LEAST = 20
"""Requests of each length that are sent one at a time, however long they take."""
"""Of every request to every model: a slow model must show as slow, not as cut off."""
EXPECTED = (
    StackError,
    Ended,
    NotReady,
    NotSent,
    NotMeasured,
    NotInstalled,
    OtherFigures,
    BundleError,
    subprocess.CalledProcessError,
)
"""Failures whose message is for the reader."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    lengths: tuple[int, ...] = (10, 100, 1_000, 10_000)
    """Events in a history."""
    users: int = 8
    """With each length; two with the longest, which are most of the log."""
    lengths_s: float = 40.0
    """Requests of all lengths in turn, a model."""
    rate_s: float = 8.0
    """At each rate of the search for the knee."""
    least: int = 50
    """Requests at each rate, within six times `rate_s`."""
    factor: float = 1.5
    """From one rate of the search to the next."""
    halvings: int = 3
    at_length: int = 1_000
    """History of the users in the requests at a rate: the paper's."""
    at_rate: float = 500.0
    """A rate that every model is measured at: the paper's."""

    @classmethod
    def reduced(cls) -> Sizes:
        """For a laptop, in under five minutes."""
        return cls(users=3, lengths_s=10.0, rate_s=3.0, least=30, halvings=1)

    def users_of(self, length: int) -> int:
        """How many users have a history of this length."""
        return min(self.users, 2) if length == max(self.lengths) else self.users

    def histories(self) -> list[tuple[str, int]]:
        """Every user, and the number of events in their history."""
        return [(pattern(n).format(i), n) for n in self.lengths for i in range(self.users_of(n))]


def pattern(length: int) -> str:
    """Ids of the users with histories of this length."""
    return f"history-{length}-{{}}"


def compare(models: Mapping[str, Path], sizes: Sizes, *, say: Callable[[str], None]) -> Comparison:
    """Measure every model on one log.

    Raises:
        StackError, Ended, NotReady: the stack did not come up, or did not fold in time.
        NotMeasured, NotSent: requests were not answered correctly.
        BundleError: a bundle cannot be used.
    """
    for name, bundle in models.items():
        if not (bundle / "manifest.json").is_file():
            raise BundleError(f"no bundle at {bundle}: name {name}'s with --model {name}=PATH, or leave it out")
    histories = sizes.histories()
    total = sum(events for _, events in histories)
    measured: list[Measured] = []
    checked: report.Checked | None = None
    with running(uic_workers=0, rtp_processes=0) as shared:
        began = time.monotonic()
        # All users' histories grow side by side, as they would.
        rounds = (user for i in range(max(sizes.lengths)) for user, events in histories if i < events)
        produce(shared.addresses.bootstrap, shared.addresses.topic, rounds, next(iter(models.values())))
        say(f"{total:,} events of {len(histories)} users produced in {time.monotonic() - began:.1f} s")
        for name, bundle in models.items():
            with serving(shared, bundle) as stack:
                began = time.monotonic()
                until(lambda s=stack: absorbed(s) >= total, "every event is folded", within_s=180, every_s=0.05)  # type: ignore[misc]
                say(f"{name}: folded {time.monotonic() - began:.1f} s after both services were ready")
                measured.append(measure(name, bundle, stack, sizes, say))
                if not measured[1:] and wrk.installed():
                    checked = cross_check(measured[0], stack, sizes)
    return Comparison(measured, total, checked)


def measure(name: str, bundle: Path, stack: Stack, sizes: Sizes, say: Callable[[str], None]) -> Measured:
    """One model, on a stack that has folded everything."""
    host, pid = stack.addresses.predict, rtp_pid(stack)
    bodies = {n: population(bundle, n, sizes).bodies(50) for n in sizes.lengths}
    lengths = one_at_a_time(host, pid, bodies, sizes.lengths_s)
    for n, result in lengths.items():
        say(f"{name}, {n:,} events: p50 {result.quantile_ms(0.5):.2f} ms, server CPU {result.server_cpu_ms:.2f} ms")
    asked = population(bundle, sizes.at_length, sizes)
    # What one process can do at most with nothing else to do: the search begins well below it.
    capacity = lengths[sizes.at_length].achieved_per_s
    common = {"gaps": "poisson", "seconds": sizes.rate_s, "server_pid": pid, "deadline_ms": DEADLINE_MS}
    search = {"least": sizes.least, "factor": sizes.factor, "halvings": sizes.halvings}
    start, most = f"{0.2 * capacity:.3g}", f"{4 * capacity:.3g}"
    rates = send(host, asked, "knee", start=start, most=most, **search, **common)
    (paper,) = send(host, asked, "fixed", rate=sizes.at_rate, **common)
    held = [run.phases[0].offered_per_s for run in (*rates, paper) if knee.Limits().hold(run)]
    say(f"{name}, {sizes.at_length:,} events: {max(held, default=0):.1f} requests/s hold; {paper.phases[0]}")
    return Measured(name, load_bundle(bundle).name, kept(bundle), lengths, rates, max(held, default=None), paper)


def one_at_a_time(host: str, pid: int, bodies: Mapping[int, Sequence[bytes]], seconds: float) -> dict[int, Result]:
    """A result for each length: one request after the other, all lengths in turn, so that nothing waits for another.

    What is measured is the service of one request. How requests wait for each other is what the rates are for.

    Args:
        host:    of RTP.
        pid:     RTP's process.
        bodies:  by length, sent in turn.
        seconds: all together; a tenth more comes first, to warm up.

    Raises:
        NotMeasured: an answer was not 200, or was given without the user's state.
    """
    client, server_cpu_s = Client(host), cpu_s_of([pid])
    spent: dict[int, list[tuple[float, float]]] = {}
    for duration, most in ((seconds / 10, 1), (seconds, LEAST)):
        spent = {length: [] for length in bodies}
        ends = time.perf_counter() + duration
        for turn in itertools.count():
            if turn >= most and time.perf_counter() >= ends:
                break
            order = list(bodies)[turn % len(bodies) :] + list(bodies)[: turn % len(bodies)]
            # The server goes on for a moment after its answer: its CPU time counts until the next request is sent.
            before = server_cpu_s()
            for length in order:
                latency_s = client.post(bodies[length][turn % len(bodies[length])])
                after = server_cpu_s()
                spent[length].append((latency_s, after - before))
                before = after
    results = {}
    for length, requests in spent.items():
        busy_s = sum(latency_s for latency_s, _ in requests)
        results[length] = Result(f"{length} events", len(requests), busy_s, busy_s)
        results[length].server_cpu_s = sum(cpu_s for _, cpu_s in requests)
        for latency_s, _ in requests:
            results[length].answered(latency_s)
    return results


def cross_check(measured: Measured, stack: Stack, sizes: Sizes) -> report.Checked:
    """wrk on the stack that `measured` comes from, where both measure the same."""
    bodies = population(stack.options.bundle, sizes.at_length, sizes).bodies(50)
    url = f"{stack.addresses.predict}/predict"
    seconds = max(2, round(sizes.rate_s))
    return report.Checked(
        measured.name, sizes.at_length, wrk.ask(url, bodies, seconds), wrk.ask(url, bodies, seconds, 8)
    )


def population(bundle: Path, length: int, sizes: Sizes) -> Population:
    """The users whose histories have this length."""
    return Population(bundle, sizes.users_of(length), pattern(length), CANDIDATES)


def kept(bundle: Path) -> int | None:
    """How many events of a history a sequence bundle keeps at most; None where a state absorbs all of them."""
    state = json.loads((bundle / "manifest.json").read_text("utf-8"))["state"]
    return int(state["blocks"][-1]["shape"][0]) if state["kind"] == "sequence" else None


def rtp_pid(stack: Stack) -> int:
    """The process that answers."""
    child = stack.rtp[0].child
    if child is None:
        raise StackError("RTP was not started")
    return child.pid


def serving(shared: Stack, bundle: Path) -> AbstractContextManager[Stack]:
    """UIC and RTP with `bundle`, on the servers and the log of `shared`."""
    at = shared.addresses
    deadlines = {"RTP_DEADLINE__DEFAULT_MS": str(DEADLINE_MS), "RTP_DEADLINE__MAX_MS": str(DEADLINE_MS)}
    on = {"redis_url": at.redis_url, "bootstrap": at.bootstrap, "topic": at.topic, "prefix": at.prefix}
    return running(bundle=bundle, rtp=deadlines, **on)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the report; 0 when it is written."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.comparison", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reduced", action="store_true", help="fewer users and shorter: under five minutes")
    parser.add_argument(
        "--model", action="append", type=_named, help="NAME=BUNDLE, repeatable (default: MIMN, DIN and DIEN)"
    )
    parser.add_argument(
        "--compare", type=engines.names, metavar="ENGINES", help="engines in place of models: rtp,ray,bentoml,triton"
    )
    parser.add_argument("--rate", type=float, help=f"requests/s of that comparison (default {engines.Sizes.rate:g})")
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="folder of their environments (%(default)s)")
    parser.add_argument("--name", help="of the results' folder, after the date (default: comparison, or engines)")
    parser.add_argument("--output", type=Path, help=f"the folder itself (default: {RESULTS}/<date>_<name>)")
    given = parser.parse_args(arguments)
    models = dict(given.model or MODELS.items())
    if given.compare and len(given.model or ()) > 1:
        parser.error("--compare takes one --model: all engines run the same head")
    folder = given.output or dated(given.name or ("engines" if given.compare else "comparison"))
    began = time.monotonic()
    say = partial(print, flush=True)
    told = ["python -m loadtest.comparison", *(sys.argv[1:] if arguments is None else arguments)]

    def origin() -> report.Origin:
        return report.Origin(machine(), commit(), " ".join(told), datetime.now(UTC), time.monotonic() - began)

    try:
        with signals_unwind():
            if given.compare:
                sizes = engines.Sizes.reduced() if given.reduced else engines.Sizes()
                sizes = replace(sizes, rate=given.rate or sizes.rate)
                bundle = next(iter(models.values()))
                before = engines_report.read(folder)

                def keep(found: engines_report.Found) -> None:
                    engines_report.write(folder, found, origin())

                engines.compare(given.compare, bundle, given.peers, sizes, before=before, keep=keep, say=say)
            else:
                if not wrk.installed():
                    print(wrk.MISSING)
                report.write(folder, compare(models, Sizes.reduced() if given.reduced else Sizes(), say=say), origin())
    except EXPECTED as failure:
        print(f"loadtest: {failure}", file=sys.stderr)
        return 2
    print(f"{folder / 'report.md'}, after {time.monotonic() - began:.0f} s")
    return 0


def _named(text: str) -> tuple[str, Path]:
    name, found, path = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BUNDLE")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
