"""What one run of the head costs: MIMN's, DIN's and DIEN's, in one process, in turn.

    python -m loadtest.heads --history 1000 --candidates 100

CPU time of one thread, from a user's state to scores, with the same objects that RTP scores with: no store, HTTP or
JSON. The heads take turns, so that a busy machine slows all of them equally; medians over the rounds, and the 5th to
95th percentile.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, BundleError, load_bundle
from mimn.bundle.graph import open_head, open_step
from mimn.state.sketch import DAY_MS

BUNDLES = Path("models/bundles")
DEFAULT = tuple(BUNDLES / name / "1" for name in ("online-retail", "online-retail-din", "online-retail-dien"))
EPOCH_DAY = 20_000
LEAST_S = 0.01
"""CPU time of one round of one head: many clock ticks."""


@dataclass(frozen=True)
class Timing:
    """CPU time of one call, in seconds."""

    name: str
    median: float
    low: float
    high: float


def folded(bundle: Bundle, history: int, random: np.random.Generator) -> NDArray[np.float32]:
    """The state of a user with `history` random events. [F]"""
    step, state = open_step(bundle), bundle.initial_state[np.newaxis]
    items, categories = (random.choice(table.ids, history) for table in (bundle.items, bundle.categories))
    rest = bundle.rest
    done = None if bundle.actions is None else random.choice(np.flatnonzero(bundle.actions.folded), history)
    events, state = bundle.events(items, categories, done), state.copy()
    ledger = bundle.ledger
    for event in events:
        state[:, rest] = step(event[np.newaxis], np.ascontiguousarray(state[:, rest]))
    if ledger is not None:
        for number, item in enumerate(items):
            ledger.add(state, ledger.keys(np.array([item])), np.array([DAY_MS * (EPOCH_DAY + number // 4)]))
    folded_once: NDArray[np.float32] = state[0]
    return folded_once


def scoring(path: Path, history: int, candidates: int) -> Callable[[], NDArray[np.float32]]:
    """A call that scores `candidates` candidates for a user with `history` events.

    Raises:
        BundleError: no bundle at `path`.
    """
    bundle, random = load_bundle(path), np.random.default_rng(0)
    head, state = open_head(bundle), folded(bundle, history, random)
    items, categories = (random.choice(table.ids, candidates) for table in (bundle.items, bundle.categories))
    vectors, context = bundle.candidates(items, categories), bundle.request.vector({}, {}).values
    known: dict[str, NDArray[Any]] = {}
    now_ms = time.time_ns() // 10**6
    if (sketch := bundle.sketch) is not None:
        known["addresses"] = sketch.addresses(items, categories)
        known["now"] = sketch.sketch.moments(np.array([now_ms]))[0]
    if (reads := bundle.reads) is None:
        return lambda: head(vectors, state, context, **known)
    words = reads.ledger.of(state)
    return lambda: head(vectors, state, context, **known, reads=reads.read(words, items, now_ms))


def in_turn(calls: Mapping[str, Callable[[], object]], rounds: int) -> list[Timing]:
    """How long each call takes, in CPU time of this thread."""
    repeats = {}
    for name, call in calls.items():
        for _ in range(3):
            call()
        repeats[name] = max(1, round(LEAST_S / _seconds(call, 3)))
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            taken[name].append(_seconds(call, repeats[name]))
    return [Timing(name, *np.percentile(seconds, (50, 5, 95)).tolist()) for name, seconds in taken.items()]


def table(timings: Sequence[Timing]) -> str:
    """Markdown; the first is what the others are compared with."""
    first = timings[0].median
    lines = ["| head | CPU time a call, ms | 5 % to 95 % | times the first |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {t.name} | {t.median * 1e3:.3f} | {t.low * 1e3:.3f} to {t.high * 1e3:.3f} | {t.median / first:.1f} |"
        for t in timings
    ]
    return "\n".join(lines)


def _seconds(call: Callable[[], object], repeats: int) -> float:
    began = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - began) / repeats


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.heads", description=__doc__.partition("\n")[0])
    parser.add_argument("bundles", type=Path, nargs="*", default=DEFAULT, help="the first is compared with the others")
    parser.add_argument("--history", type=int, default=1000, help="events of the user (default: 1000)")
    parser.add_argument("--candidates", type=int, default=100, help="(default: 100)")
    parser.add_argument("--rounds", type=int, default=50, help="(default: 50)")
    args = parser.parse_args(arguments)
    try:
        calls = {str(path): scoring(path, args.history, args.candidates) for path in args.bundles}
    except BundleError as error:
        print(f"heads: {error}", file=sys.stderr)
        return 1
    print(f"{args.candidates} candidates, {args.history} events, {args.rounds} rounds in turn\n")
    print(table(in_turn(calls, args.rounds)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
