"""`ctr state`: shows one user's stored state, decoded: what was folded, and of a memory bundle what it remembers."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from ctr.uic.v1 import uic_service_pb2 as pb
from mimn.bundle import Bundle, BundleError, Reads, load_bundle
from mimn.bundle.item_table import KeyIndex
from mimn.options import whole_number
from mimn.state.ledger import SCALARS
from uic.settings import ClientSettings, read_client_settings
from uic.tools.grpc_client import Refused, add_options, connected, user_id
from uic.tools.in_service import elsewhere
from uic.tools.table import table

TOP: Final = 5
Floats = NDArray[np.float32]


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: shown; 1: no state, refused, or no answer; 2: called wrongly."""
    parser = argparse.ArgumentParser(prog="ctr state", description="One user's stored state, decoded.")
    parser.add_argument("user", type=user_id, help="the user's id")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--top", type=whole_number(1), default=TOP, metavar="N", help="counters to show (default %(default)s)"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=os.environ.get("UIC_BUNDLE__PATH"),
        help="names the items and categories of counters (default: UIC_BUNDLE__PATH)",
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    settings = read_client_settings()
    try:
        bundle = None if options.bundle is None else load_bundle(Path(options.bundle))
        with connected(options, settings) as uic:
            stored = uic.call(uic.stub.GetUserState, pb.GetUserStateRequest(user_id=options.user))
    except (Refused, BundleError) as refusal:
        print(f"ctr state: {refusal}", file=sys.stderr)
        _say_elsewhere(settings)
        return 1
    _say_elsewhere(settings)
    view = summary(stored, bundle, options.top)
    if options.json:
        print(json.dumps(view, indent=2), file=out)
    else:
        for line in report(view):
            print(line, file=out)
    return 0


def _say_elsewhere(settings: ClientSettings) -> None:
    """Say if users are answered from another namespace than the settings name: there they may have another state."""
    if (serving := elsewhere(settings.redis, settings.bundle)) is not None:
        print(
            f"ctr state: this is of the namespace of the UIC that was asked. {serving.said}: ask one of its own UIC "
            "workers (--grpc), too",
            file=sys.stderr,
        )


def summary(stored: pb.GetUserStateResponse, bundle: Bundle | None, top: int) -> dict[str, Any]:
    """What the command shows of a state. `bundle` names items and categories, if it is the state's own."""
    blocks = {
        block.name: np.array(block.values, np.float32).reshape(tuple(block.shape) or (-1,))
        for block in stored.blocks
        if block.dtype != "uint32"
    }
    view: dict[str, Any] = {
        "partition": stored.partition,
        "events": stored.event_count,
        "last_offset": stored.last_offset,
        "last_event": datetime.fromtimestamp(stored.last_event_time / 1000, UTC).isoformat(timespec="milliseconds"),
        "digest": stored.digest.hex(),
        "partial": stored.partial,
        "bundle": stored.fingerprint,
        "lineage": f"{stored.lineage:016x}",
        "era": stored.era,
        "blocks": {block.name: list(block.shape) for block in stored.blocks},
    }
    utilization = blocks.get("utilization", blocks.get("shares"))
    if "memory" in blocks and utilization is not None:
        view["memory"] = {
            "slots": len(blocks["memory"]),
            "utilization": [round(float(share), 4) for share in utilization / max(float(utilization.sum()), 1e-12)],
        }
    if "channels" in blocks:
        view["channels"] = len(blocks["channels"])
    named = bundle if bundle is not None and bundle.manifest.fingerprint.startswith(stored.fingerprint[:16]) else None
    words = next((block.words for block in stored.blocks if block.dtype == "uint32"), None)
    if words is not None and named is not None and named.reads is not None:
        view["ledger"] = _top_entries(np.array(words, np.uint32), named.reads, named.items.ids, top)
    if "counters" in blocks:
        view["counters"] = [_top_counters(row, named, top) for row in blocks["counters"]]
    return view


def _top_entries(words: NDArray[np.uint32], reads: Reads, items: NDArray[np.uint64], top: int) -> dict[str, Any]:
    """What a ledger says of the user, and its entries with most baskets: those of items whose ids the bundle holds, in
    the table of items that heads read, or as `items` with an embedding. An index of members holds no ids of theirs.
    """
    keys, entries = reads.ledger.known(words)
    ids = np.union1d(reads.table.ids, items)
    index = KeyIndex(reads.ledger, ids)
    rows = index.rows[index.of(keys)]
    order = [i for i in np.argsort(-entries.n, kind="stable").tolist() if rows[i]][:top]
    scalars = dict(zip(SCALARS, reads.ledger.scalars(words).tolist(), strict=True))
    return {
        "entries": len(entries.n),
        "baskets": scalars["baskets"],
        "evicted": scalars["evicted"],
        "items": [
            {
                "id": int(ids[rows[i] - 1]),
                "baskets": int(entries.n[i]),
                "last": (date(1970, 1, 1) + timedelta(days=int(entries.day[i]))).isoformat(),
                "gap_days": float(entries.gap[i]) / 16,
            }
            for i in order
        ],
    }


def _top_counters(counters: Floats, bundle: Bundle | None, top: int) -> dict[str, Any]:
    """The largest counters of one half-life: by category and item where the bundle names them, else by cell."""
    if bundle is None or bundle.sketch is None:
        return {"cells": _largest(np.arange(len(counters)), counters, top)}
    sketch, categories = bundle.sketch.sketch, bundle.categories.ids
    found: dict[str, Any] = {}
    if sketch.category_cells and len(categories):
        cells = bundle.categories.rows(categories) % sketch.category_cells
        found["categories"] = _largest(categories, counters[cells], top)
    if sketch.item_cells and len(bundle.items.ids):
        items = bundle.items.ids
        cells = sketch.addresses_of(items, np.zeros(len(items), np.intp))[:, -2:]
        found["items"] = _largest(items, counters[cells].min(1), top)
    return found


def _largest(ids: NDArray[Any], values: Floats, top: int) -> list[dict[str, Any]]:
    order = np.argsort(-values, kind="stable")[:top]
    return [{"id": int(ids[i]), "count": round(float(values[i]), 3)} for i in order if values[i] > 0]


def report(view: dict[str, Any]) -> Iterator[str]:
    """The summary, as lines for people."""
    plain = [(name, view[name]) for name in view if name not in ("blocks", "memory", "channels", "ledger", "counters")]
    blocks = ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in view["blocks"].items())
    rows: list[tuple[str, object]] = [*plain, ("blocks", blocks)]
    if memory := view.get("memory"):
        shares = "  ".join(f"{share:.0%}" for share in memory["utilization"])
        rows.append(("memory", f"{memory['slots']} slots, share of writes each: {shares}"))
    if channels := view.get("channels"):
        rows.append(("channels", channels))
    if ledger := view.get("ledger"):
        rows.append(
            ("ledger", f"{ledger['entries']} items in {ledger['baskets']} baskets, {ledger['evicted']} evicted")
        )
        text = ", ".join(f"{one['id']} ({one['baskets']}, last {one['last']})" for one in ledger["items"])
        rows.append(("most baskets", text or "no item whose id the bundle holds"))
    for number, counters in enumerate(view.get("counters", []), 1):
        for kind, largest in counters.items():
            text = ", ".join(f"{one['id']} ({one['count']:g})" for one in largest) or "all zero"
            rows.append((f"top {kind}" + (f", half-life {number}" if len(view["counters"]) > 1 else ""), text))
    yield from table(("", ""), rows)
