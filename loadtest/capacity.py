"""How many partitions, workers, processes and Redis nodes a load needs: arithmetic on measured costs.

    python -m loadtest.capacity --users 290e6 --events-per-s 50e3 --requests-per-s 20e3
    python -m loadtest.capacity --check            what the model predicts for the measured runs, and what they gave

The costs are those of `python -m loadtest.scale`, whose newest record under `loadtest/results` is taken unless
another is named. Workers and RTP processes count as one core each, because an interpreter runs on one.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.origin import RESULTS
from mimn.options import not_negative, positive, whole_number

PARTITIONS_A_MASTER = 32
"""Fewer would leave the masters of a cluster with unequal shares (a partition lives on one master)."""
PARTITIONS_A_WORKER = 4
"""So that a worker that leaves is shared out among the others."""
LEAST_PARTITIONS = 64


class NoCosts(Exception):
    """There is no record that costs can be taken from; the message says how to make one."""


@dataclass(frozen=True)
class Demand:
    """What has to be served, at its peak."""

    users: float
    events_per_s: float
    requests_per_s: float
    state_bytes: float
    """A user's stored value."""
    candidates: int = 100
    """Of a request."""
    history_events: float = 1000
    """A user's mean history: what a stored value holds, and for the comparison with keeping it."""
    event_bytes: float = 10
    """Of one kept event: the paper's 6 TB for 600 million users and 1,000 events."""


@dataclass(frozen=True)
class Limits:
    """What a machine may be asked for."""

    busy: float = 0.6
    """Share of a core that is planned for: queues grow without bound near 1."""
    node_gib: float = 64
    """Memory of a Redis node."""
    fill: float = 0.7
    """Share of it for data; the rest is for a fork's copies and buffers."""
    replicas: int = 1
    """Of each master."""
    catch_up: float = 3
    """A backlog drains at this many times the rate at which events arrive, at least."""


@dataclass(frozen=True)
class Costs:
    """Measured prices: microseconds of a core, and bytes."""

    fold_us: float
    """UIC, one event, at a steady rate of arrival (small batches)."""
    drain_per_s: float
    """Events of a backlog that one worker folds a second. It waits for the broker and the store meanwhile, so this is
    less than its processor time would allow."""
    store_event_us: float
    """The store, one event's commit."""
    request_us: float
    """RTP, one request without its candidates."""
    candidate_us: float
    """RTP, each candidate."""
    store_request_us: float
    """The store, one request's read."""
    entry_bytes: float
    """The store's memory for one user in addition to the value: key, entry, what its allocator rounds up."""
    written_bytes: float
    """What the store appends to its file for one event, in addition to the value."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Costs:
        """From what `loadtest.scale` has written."""
        steady = max(record["steady"], key=lambda run: float(run["rate_per_s"]))
        by_candidates = record["candidates"]  # with as few requests at a time as a process that is half idle has
        candidate_us, request_us = np.polyfit(
            [run["candidates"] for run in by_candidates], [run["rtp_us"] for run in by_candidates], 1
        )
        appended = next(run for run in record["persistence"] if run["appendfsync"] == "everysec")
        return cls(
            fold_us=steady["uic_us"],
            drain_per_s=record["fold"][0]["per_s"],
            store_event_us=steady["store_us"],
            request_us=float(request_us),
            candidate_us=float(candidate_us),
            store_request_us=statistics.median(run["store_us"] for run in by_candidates),
            entry_bytes=record["memory"]["store_bytes_a_user"] - state_bytes(record, 0),
            written_bytes=max(0.0, appended["bytes_an_event"] - state_bytes(record, 0)),
        )


def state_bytes(record: Mapping[str, Any], events: float) -> float:
    """A stored value's bytes after this many events of a user, interpolated between the histories that were measured.
    A value's zeros are left out, so it grows until every place of its ledger is taken."""
    measured = record["memory"].get("state_bytes_by_events", {"0": record["state_bytes"]})
    events_of, bytes_of = zip(*sorted((int(count), float(size)) for count, size in measured.items()), strict=True)
    return float(np.interp(events, events_of, bytes_of))


@dataclass(frozen=True)
class Need:
    """One line of a plan."""

    what: str
    amount: float
    unit: str
    because: str


@dataclass(frozen=True)
class Plan:
    """What a demand needs."""

    partitions: int
    uic_workers: int
    rtp_processes: int
    masters: int
    store_bytes: float
    needs: tuple[Need, ...]


def plan(demand: Demand, costs: Costs, limits: Limits) -> Plan:
    """Size every part for `demand`.

    Workers are sized by the steady cost of an event and by what drains a backlog in time, whichever is more; masters by
    memory or by their single thread's time, whichever is more; partitions by workers and masters, as a power of two,
    because they cannot be changed later.
    """
    fold_cores = demand.events_per_s * costs.fold_us / 1e6 / limits.busy
    draining = limits.catch_up * demand.events_per_s / costs.drain_per_s
    workers = max(1, math.ceil(max(fold_cores, draining)))
    predict_us = costs.request_us + demand.candidates * costs.candidate_us
    processes = max(1, math.ceil(demand.requests_per_s * predict_us / 1e6 / limits.busy))
    entry = demand.state_bytes + costs.entry_bytes
    stored = demand.users * entry
    by_memory = stored / (limits.node_gib * 2**30 * limits.fill)
    by_time = (
        (demand.events_per_s * costs.store_event_us + demand.requests_per_s * costs.store_request_us)
        / 1e6
        / limits.busy
    )
    masters = max(1, math.ceil(max(by_memory, by_time)))
    partitions = 1 << math.ceil(
        math.log2(max(LEAST_PARTITIONS, PARTITIONS_A_MASTER * masters, PARTITIONS_A_WORKER * workers))
    )
    written = demand.events_per_s * (demand.state_bytes + costs.written_bytes)
    read = demand.requests_per_s * demand.state_bytes
    history = demand.users * demand.history_events * demand.event_bytes
    needs = (
        Need("partitions of the topic", partitions, "", "fixed when the topic is made"),
        Need(
            "UIC workers",
            workers,
            "cores",
            f"{costs.fold_us:.0f} µs an event at {limits.busy:.0%} busy"
            if fold_cores >= draining
            else f"a backlog drains at {limits.catch_up:g} times its arrival, {costs.drain_per_s:,.0f}/s a worker",
        ),
        Need(
            "RTP processes",
            processes,
            "cores",
            f"{predict_us:.0f} µs a request of {demand.candidates} candidates at {limits.busy:.0%} busy",
        ),
        Need(
            "Redis masters",
            masters,
            "nodes",
            f"memory: {entry:,.0f} bytes a user" if by_memory >= by_time else "time of one thread a master",
        ),
        Need("Redis nodes with replicas", masters * (1 + limits.replicas), "nodes", f"{limits.replicas} replica each"),
        Need("memory of all states", stored / 1e12, "TB", "once, without replicas"),
        Need("the same histories, kept", history / 1e12, "TB", f"{demand.history_events:,.0f} events a user"),
        Need("appended to files", written / 1e6, "MB/s", "all masters together; a replica writes as much again"),
        Need("read by requests", read / 1e6, "MB/s", "all masters together"),
        Need("a million events", costs.fold_us + costs.store_event_us, "core-s", "UIC and the store"),
        Need("a million requests", predict_us + costs.store_request_us, "core-s", "RTP and the store"),
    )
    return Plan(partitions, workers, processes, masters, stored, needs)


@dataclass(frozen=True)
class Checked:
    """A measured throughput and the model's prediction."""

    what: str
    measured: float
    predicted: float
    least: float
    most: float
    """Of the rounds that `measured` is the median of."""

    @property
    def off(self) -> float:
        """Relative error of the model."""
        return self.predicted / self.measured - 1


def check(record: Mapping[str, Any]) -> list[Checked]:
    """What the model predicts for the runs of a record: each process does what one alone does, until all that takes
    part shares the machine's cores, less what other programs used."""
    cores = record["machine"]["cores"]
    rows: list[Checked] = []
    for kind, own, phase in (("UIC workers", "uic_us", "fold"), ("RTP processes", "rtp_us", "predict")):
        runs = record[phase]
        rounds = [one[phase] for one in record.get("rounds", ())] or [runs]  # old records have one round
        one = runs[0]
        everything = one[own] + one["store_us"] + one["others_us"]
        for place, run in enumerate(runs):
            count = run["processes"]
            to_be_had = cores - run.get("elsewhere_cores", 0.0)
            predicted = min(count * one["per_s"], to_be_had * 1e6 / everything)
            each = [some[place]["per_s"] for some in rounds]
            rows.append(Checked(f"{kind}: {count}", run["per_s"], predicted, min(each), max(each)))
    return rows


def newest(results: Path = RESULTS) -> Path:
    """The newest record of `loadtest.scale`.

    Raises:
        NoCosts: there is none.
    """
    found = sorted(results.glob("*_scale/scale.json"))
    if not found:
        raise NoCosts(f"no costs under {results}: measure some with `python -m loadtest.scale`")
    return found[-1]


@dataclass(frozen=True)
class Measured:
    """A record of `loadtest.scale`, read."""

    origin: str
    """The machine, the commit and the bundle that were measured."""
    costs: Costs
    checked: Sequence[Checked]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Measured:
        """From the file that `loadtest.scale` has written.

        Raises:
            NoCosts: it cannot be read, or is another kind of file.
        """
        try:
            record = json.loads(path.read_text("utf-8"))
            machine = record["machine"]
            origin = f"{machine['cpu']}, {machine['cores']} cores, commit {record['commit']}, bundle {record['bundle']}"
            state_bytes(record, 0)
            return cls(origin, Costs.of(record), check(record), record)
        except OSError as error:
            raise NoCosts(str(error)) from error
        except (LookupError, AttributeError, TypeError, ValueError, ArithmeticError, StopIteration) as error:
            raise NoCosts(
                f"{path} has no costs ({error!r}): name a scale.json that `python -m loadtest.scale` has written"
            ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan, or the check. 0: done; 2: called wrongly, or there are no costs."""
    limits, demand = Limits(), Demand(0, 0, 0, 0)
    parser = argparse.ArgumentParser(prog="python -m loadtest.capacity", description=__doc__)
    parser.add_argument("--users", type=positive, help="with a state")
    parser.add_argument("--events-per-s", type=not_negative, help="at the peak")
    parser.add_argument("--requests-per-s", type=not_negative, help="at the peak")
    parser.add_argument("--candidates", type=whole_number(1), default=demand.candidates, help="a request")
    parser.add_argument("--state-bytes", type=whole_number(1), help="of a stored value (default: as measured)")
    parser.add_argument("--history-events", type=not_negative, default=demand.history_events, help="a user")
    parser.add_argument("--busy", type=positive, default=limits.busy, help="share of a core that is planned for")
    parser.add_argument("--node-gib", type=positive, default=limits.node_gib, help="memory of a Redis node")
    parser.add_argument("--replicas", type=whole_number(0), default=limits.replicas, help="of each master")
    parser.add_argument("--costs", type=Path, help="a scale.json (default: the newest under loadtest/results)")
    parser.add_argument("--check", action="store_true", help="compare the model with the measured runs")
    asked = parser.parse_args(arguments)
    try:
        path = asked.costs or newest()
        measured = Measured.read(path)
    except NoCosts as error:
        print(f"capacity: {error}", file=sys.stderr)
        return 2
    if asked.check:
        print(f"costs: {path} ({measured.origin})")
        for row in measured.checked:
            rounds = f"{row.measured:,.0f}/s [{row.least:,.0f}, {row.most:,.0f}]"
            print(f"{row.what:<16} measured {rounds:<28} model {row.predicted:>9,.0f}/s ({row.off:+.0%})")
        return 0
    if None in (asked.users, asked.events_per_s, asked.requests_per_s):
        parser.error("--users, --events-per-s and --requests-per-s are needed, or --check")
    if asked.busy > 1:
        parser.error("--busy is a share of a core: above 0, at most 1")
    value_bytes = asked.state_bytes or state_bytes(measured.record, asked.history_events)
    wanted = Demand(
        asked.users, asked.events_per_s, asked.requests_per_s, value_bytes, asked.candidates, asked.history_events
    )
    try:
        found = plan(wanted, measured.costs, Limits(asked.busy, asked.node_gib, replicas=asked.replicas))
    except OverflowError:
        parser.error("a number is so large, or so small, that what is needed cannot be counted")
    print(f"costs: {path} ({measured.origin})")
    for need in found.needs:
        print(f"{need.what:<28} {need.amount:>12,.4g} {need.unit:<8} {need.because}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
