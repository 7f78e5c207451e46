"""RTP and the engines that could be taken in its place, on one store, one after the other in each round.

    ctr load --compare rtp,ray,bentoml,triton

Each peer is a small service (`loadtest.peers`): one GET of the user's state, the same inputs, the same `head.onnx`, an
answer with the same scores, which is checked before anything is timed. In each round every engine is started and asked
alone: flat out, at a fixed rate, then in a search for the highest rate whose p99 stays within a limit. Figures are
medians over the rounds; a run whose folder has a report adds its rounds to it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import uvloop
from numpy.typing import NDArray

from loadtest import knee
from loadtest.bare_loop import saturate
from loadtest.cpu import cpu_s_of
from loadtest.engines_report import Engine, Found, Turn
from loadtest.peers.catalog import PEERS, Peer, Setup, require
from loadtest.peers.process import Served, serving
from loadtest.peers.wire import PLAIN
from loadtest.peers.work import check_servable
from loadtest.population import Population
from loadtest.sending import send
from loadtest.stacks import CANDIDATES, NotMeasured, publish, running
from localstack.stack import Stack
from localstack.web import open_client
from mimn.bundle import load_bundle

RTP = Setup("rtp", False, PLAIN, "one process")
USERS, EVENTS = 50, 50
BODIES = 200
CHECKED = 20
"""Requests whose scores are compared before anything is timed."""
CLOSE = 1e-5
"""How far a score may be from RTP's."""
DEADLINE_MS = 10_000
"""A slow answer must show as slow, not as cut off."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    rounds: int = 3
    rate: float = 100.0
    """Requests a second at which latencies and CPU time are compared, and the first of the search: the slowest must
    keep up with it."""
    most: float = 6_400.0
    step_s: float = 8.0
    """At each rate."""
    factor: float = 2.0
    halvings: int = 3
    limit_ms: float = 10.0
    """p99 at a rate that holds."""
    busy_s: float = 5.0
    """Of eight connections that send without a pause."""
    idle_s: float = 2.0
    """How long a server is watched without a request."""

    @classmethod
    def reduced(cls) -> Sizes:
        """One round, shorter: about five minutes for all engines."""
        return cls(rounds=1, step_s=3.0, halvings=2, busy_s=3.0, idle_s=1.0)


def names(text: str) -> tuple[str, ...]:
    """The engines of a list such as `rtp,ray`, RTP first.

    Raises:
        argparse.ArgumentTypeError: one is not known, or there is nothing to compare RTP with.
    """
    given = [name.strip() for name in text.split(",") if name.strip()]
    known = (RTP.name, *PEERS)
    for name in given:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not an engine; there are {', '.join(known)}")
    peers = tuple(name for name in PEERS if name in given)
    if not peers:
        raise argparse.ArgumentTypeError(f"name an engine to compare RTP with: {', '.join(PEERS)}")
    return peers


def compare(
    chosen: Sequence[str],
    bundle: Path,
    environments: Path,
    sizes: Sizes,
    *,
    before: Found | None = None,
    keep: Callable[[Found], None],
    say: Callable[[str], None],
) -> None:
    """Measure RTP and the chosen peers, each without and with batching, and add the rounds to those of `before`.

    After each round `keep` is given all that is known, so that a run that is ended loses one round at most.

    Raises:
        NotInstalled: a peer is missing.
        OtherFigures: `before` is of other engines or another rate.
        BundleError: the peers cannot score with the bundle.
        StackError, Ended, NotReady: a server did not come up.
        NotMeasured, NotSent: an engine answered wrongly, or not at all.
    """
    require(chosen, environments)
    check_servable(load_bundle(bundle))
    peers = [PEERS[name] for name in chosen]
    setups: list[tuple[Peer | None, Setup]] = [(None, RTP), *((p, setup) for p in peers for setup in p.setups)]
    found = Found(
        [Engine(s.name, p.title if p else "RTP", s.why, p.version if p else "", []) for p, s in setups],
        sizes.rate,
        sizes.limit_ms,
        CANDIDATES,
    ).after(before)
    turns = {engine.name: engine.turns for engine in found.engines}
    deadlines = {"RTP_DEADLINE__DEFAULT_MS": str(DEADLINE_MS), "RTP_DEADLINE__MAX_MS": str(DEADLINE_MS)}
    with running(bundle=bundle, rtp=deadlines) as stack, tempfile.TemporaryDirectory() as folder:
        publish(stack, [(f"user-{i}", EVENTS) for i in range(USERS)])
        population = Population(bundle, USERS, candidates=CANDIDATES)
        bodies = population.bodies(BODIES)
        done = len(turns[RTP.name])
        for number in range(done, done + sizes.rounds):
            first = number % len(setups)
            for peer, setup in setups[first:] + setups[:first]:
                requests = Path(folder) / f"{setup.name}.json"
                requests.write_text(setup.wire.requests(bodies), "utf-8")
                with served_by(peer, setup, stack, environments, bodies[0]) as served:
                    check(setup, served.url, bodies, stack.addresses.predict)
                    turn = measure(served, setup, population, requests, sizes)
                turns[setup.name].append(turn)
                say(f"round {number + 1}, {setup.name}: {turn}")
            keep(found)


@contextmanager
def served_by(peer: Peer | None, setup: Setup, stack: Stack, environments: Path, body: bytes) -> Iterator[Served]:
    """A server of its own for a peer; RTP of the stack, which does nothing while a peer is asked."""
    at = stack.addresses
    if peer is None:
        child = stack.rtp[0].child
        if child is None:
            raise NotMeasured("RTP does not run")
        yield Served(at.predict, child.pid)
        return
    told = {"PEER_BUNDLE": at.bundle, "PEER_PREFIX": at.prefix, "PEER_REDIS_URL": at.redis_url}
    with serving(
        peer, setup, environments=environments, told=told, body=body, logs=stack.options.folder / "logs"
    ) as served:
        yield served


def measure(served: Served, setup: Setup, population: Population, requests: Path, sizes: Sizes) -> Turn:
    """One engine's turn of one round."""
    pids, wire = served.pids(), setup.wire
    idle = served.idle_cpu(sizes.idle_s)
    bodies = [wire.body(body) for body in population.bodies(BODIES)]
    cpu_s = cpu_s_of(pids)
    before = cpu_s()
    try:
        busy_per_s = uvloop.run(saturate(served.url + wire.path, bodies, sizes.busy_s, headers=wire.headers))
    except RuntimeError as refused:
        raise NotMeasured(f"{setup.name}, flat out: {refused}") from refused
    busy_us = 1e6 * (cpu_s() - before) / (busy_per_s * sizes.busy_s)
    asked = {"requests": requests, "gaps": "poisson", "server_pid": pids}
    search = {"start": sizes.rate, "most": sizes.most, "factor": sizes.factor, "halvings": sizes.halvings}
    tried = send(served.url, population, "knee", limit_ms=sizes.limit_ms, seconds=sizes.step_s, **search, **asked)
    (fixed,) = tried[0].phases
    limits = knee.Limits(sizes.limit_ms)
    highest = max((run for run in tried if limits.hold(run)), key=lambda run: run.phases[0].offered_per_s, default=None)
    return Turn(
        cpu_us=1000 * (fixed.server_cpu_ms or 0.0),
        busy_us=busy_us,
        busy_per_s=busy_per_s,
        idle_cpu=idle,
        processes=len(pids),
        answered=fixed.count,
        failed=fixed.failed + fixed.dropped,
        p50_ms=None if fixed.saturated else fixed.quantile_ms(0.5),
        p99_ms=None if fixed.saturated else fixed.quantile_ms(0.99),
        highest_per_s=highest.phases[0].offered_per_s if highest else 0.0,
        generator_cpu=highest.generator_cpu if highest else 0.0,
    )


def check(setup: Setup, url: str, bodies: Sequence[bytes], rtp: str) -> None:
    """Compare an engine's scores with RTP's, for the first bodies; the others warm it up.

    A ledger is read by the minute. One that ends meanwhile changes scores, so RTP is asked before and after.

    Raises:
        NotMeasured: a score is further than `CLOSE` from both of RTP's.
    """
    with open_client(timeout_s=30) as client:
        for body in bodies[:CHECKED]:
            before = asked_once(client, rtp, RTP, body)
            scores = asked_once(client, url, setup, body)
            after = asked_once(client, rtp, RTP, body)
            if not any(scores.shape == ours.shape and np.allclose(scores, ours, 0, CLOSE) for ours in (before, after)):
                raise NotMeasured(f"{setup.name} gives other scores than RTP: {scores[:5]} against {after[:5]}")
        for body in bodies[CHECKED:]:
            asked_once(client, url, setup, body)


def asked_once(client: httpx.Client, url: str, setup: Setup, body: bytes) -> NDArray[np.float32]:
    """The scores of one request.

    Raises:
        NotMeasured: the answer is not 200.
    """
    wire = setup.wire
    answer = client.post(f"{url}{wire.path}", content=wire.body(body), headers=dict(wire.headers))
    if answer.status_code != httpx.codes.OK or b'"unavailable"' in answer.content:
        raise NotMeasured(f"{setup.name} answered {answer.status_code}: {answer.text[:200]}")
    return wire.scores(answer.content)
