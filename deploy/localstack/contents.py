"""What one user's state holds, in words: memory, channels, averages, counters. For people; nothing computes with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, IdSketch
from mimn.state import UserState
from mimn.state.ledger import BASKETS
from mimn.state.sketch import HASHES

TOP = 5
"""Counters shown of each kind."""

MEANINGS = {
    "controller": "the controller's hidden state",
    "read": "what was last read from the memory",
    "add_mean": "the mean of the write head's add vectors",
    "history_mean": "the mean of the events' vectors",
}

Floats = NDArray[np.float32]
Ids = NDArray[np.uint64]


def contents(bundle: Bundle, state: UserState, *, items: Ids, categories: Ids, now_ms: int) -> list[str]:
    """A line for each part of `state`, as `bundle` lays it out.

    Args:
        bundle:     the bundle that the state belongs to.
        state:      the user's.
        items:      the item ids of the user's events, whose counters are looked up. [k] uint64
        categories: their category ids. [k] uint64
        now_ms:     when the counters are read, in milliseconds since 1970-01-01 UTC.
    """
    blocks = bundle.layout.view(state.tensors)
    parts = list(_tensors(bundle, blocks))
    if bundle.sketch is not None:
        parts += _counters(bundle.sketch, blocks, items, categories, now_ms)
    width = max(len(name) for name, _ in parts)
    return [f"  {name:<{width}}  {text}" for name, text in parts]


def _tensors(bundle: Bundle, blocks: dict[str, Floats]) -> Iterator[tuple[str, str]]:
    """Name and description of each part but the counters."""
    for name, block in blocks.items():
        match name:
            case "memory":
                slots, width = block.shape
                shares = 100 * blocks["shares"] if "shares" in blocks else None
                written = "" if shares is None else f"; share of all writes by slot: {_numbers(shares, '.0f', ' %')}"
                yield name, f"{slots} slots of {width} values{written}"
            case "channels":
                slots, width = block.shape
                lengths = np.linalg.norm(block, axis=-1)
                yield name, f"one per slot, {width} values; their lengths: {_numbers(lengths, '.2f')}"
            case "events" if bundle.event_list is not None:
                kept = int(blocks["length"][0])
                yield name, f"the user's last {kept:,}; at most {bundle.event_list.capacity:,} are kept"
            case "ledger" if bundle.reads is not None:
                words, ledger = bundle.reads.ledger.of(block), bundle.reads.ledger
                keys, entries = ledger.known(words)
                baskets = int(ledger.scalars(words)[BASKETS])
                yield name, f"{len(keys.tags)} of at most {ledger.entries} items, from {baskets} baskets; most often:"
                rows = bundle.reads.rows(keys)
                ids = bundle.reads.table.ids[rows[rows > 0] - 1]
                yield "", f"items {_highest(ids, entries.n[rows > 0].astype(np.float32))}"
            case "counters" | "periods" | "shares" | "count" | "length":
                continue
            case _:
                meaning = f", {MEANINGS[name]}" if name in MEANINGS else ""
                yield name, f"{block.size} values{meaning}"


def _counters(
    known: IdSketch, blocks: dict[str, Floats], items: Ids, categories: Ids, now_ms: int
) -> Iterator[tuple[str, str]]:
    """The counters, and the ids of the user that have the highest ones of the first half-life at `now_ms`."""
    sketch = known.sketch
    kinds = [f"halving every {days} days" if days else "without decay" for days in sketch.half_lives]
    yield "counters", f"{sketch.values:,}, {' and '.join(kinds)}; the highest now:"
    period, phase = sketch.moments(np.array([now_ms]))[0, :, 0]
    now = blocks["counters"][0] * np.exp2(blocks["periods"][0] - period) / phase
    cells = known.addresses(items, categories)
    if sketch.item_cells:
        yield "", f"items {_highest(items, now[cells[:, -HASHES:]].min(-1))}"
    if sketch.category_cells:
        yield "", f"categories {_highest(categories, now[cells[:, 0]])}"


def _highest(ids: Ids, counters: Floats) -> str:
    by_id = dict(zip(ids.tolist(), counters.tolist(), strict=True))
    highest = sorted(by_id.items(), key=lambda pair: (-pair[1], pair[0]))[:TOP]
    return ", ".join(f"{identity}: {counter:.1f}" for identity, counter in highest)


def _numbers(values: Floats, form: str, unit: str = "") -> str:
    return ", ".join(f"{value:{form}}{unit}" for value in values.tolist())
