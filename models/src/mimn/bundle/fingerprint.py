"""The fingerprint of a bundle: what gives a state its meaning, as one hash.

States of one fingerprint are read under no other, so what it covers decides when states must be folded again.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from mimn.bundle.specs import (
    CATEGORY_IDS,
    INITIAL_STATE,
    ITEM_IDS,
    STEP,
    TABLES,
    ActionSpec,
    InputSpec,
    Kind,
    LedgerSpec,
    Manifest,
    SketchSpec,
    StateSpec,
)
from mimn.state.actions import ActionName

STATE_FILES: dict[Kind, tuple[str, ...]] = {
    "recurrent": (STEP, INITIAL_STATE, *TABLES),
    "sequence": (INITIAL_STATE, ITEM_IDS, CATEGORY_IDS),
    "ledger": (INITIAL_STATE,),
}
"""The files that give a state its meaning: the fingerprint covers their hashes. The head is not one of them, so states
stay valid under a new head. A list of events holds row numbers of the vocabularies and nothing learned, so it also
stays valid under new vectors."""


def fingerprint_of(
    state: StateSpec,
    input_spec: InputSpec,
    fold_version: int,
    files: dict[str, str],
    sketch: SketchSpec | None = None,
    *,
    actions: dict[ActionName, ActionSpec] | None = None,
    ledger: LedgerSpec | None = None,
) -> str:
    """sha256, in hex, over everything that gives a state its meaning; with a ledger over `part_fingerprints`."""
    if ledger is not None:
        parts = part_fingerprints(state, input_spec, fold_version, files, sketch, actions=actions, ledger=ledger)
        return _sha256(parts)
    meaning = {
        "fold_version": fold_version,
        "input": msgspec.to_builtins(input_spec),
        "state": msgspec.to_builtins(state),
        "files": {name: files[name] for name in STATE_FILES[state.kind]},
    }
    if sketch is not None:
        meaning["sketch"] = msgspec.to_builtins(sketch)
    if actions is not None:
        meaning["actions"] = msgspec.to_builtins(actions)
    return _sha256(meaning)


def part_fingerprints(
    state: StateSpec,
    input_spec: InputSpec,
    fold_version: int,
    files: dict[str, str],
    sketch: SketchSpec | None,
    *,
    actions: dict[ActionName, ActionSpec] | None,
    ledger: LedgerSpec,
) -> dict[str, str]:
    """What each part of a state with a ledger means, as sha256 in hex: parts that are equal in two bundles hold the
    same numbers for the same events, whatever was trained.

    The ledger's depends on its rule alone, the counters' also on the ids that give categories their cells, and that of
    the rest on all that the step graph reads.
    """
    of_ledger = [ledger.ledger.block.name]
    of_sketch = [] if sketch is None else [sketch.sketch.first_block.name, sketch.sketch.last_block.name]
    rest = [block for block in state.blocks if block.name not in (*of_ledger, *of_sketch)]
    parts: dict[str, Any] = {
        "ledger": {"ledger": msgspec.to_builtins(ledger)},
        "rest": {
            "input": None if state.kind == "ledger" else msgspec.to_builtins(input_spec),
            "state": msgspec.to_builtins(StateSpec(state.kind, tuple(rest))),
            "files": {name: files[name] for name in STATE_FILES[state.kind]},
        },
    }
    if sketch is not None:
        ids = [CATEGORY_IDS] if sketch.category_cells else []
        parts["sketch"] = {"sketch": msgspec.to_builtins(sketch), "files": {name: files[name] for name in ids}}
    if actions is not None:
        folded = {name: spec.weight > 0 for name, spec in actions.items()}
        parts["ledger"]["actions"] = folded
        for name in parts.keys() - {"ledger"}:
            parts[name]["actions"] = msgspec.to_builtins(actions)
    if input_spec.ids == "string":  # such a bundle folds events that name items by text, which others refuse
        for meaning in parts.values():
            meaning["ids"] = input_spec.ids
    return {name: _sha256({"fold_version": fold_version, **meaning}) for name, meaning in parts.items()}


def shared_blocks(one: Manifest, other: Manifest) -> list[str]:
    """Names of the blocks of a state that hold the same numbers for the same events under both bundles, whatever was
    trained: a ledger's, and a sketch's. None without a ledger, because such a bundle has one fingerprint for all."""
    if one.ledger is None or other.ledger is None:
        return []
    mine, theirs = fingerprints_of_parts(one, one.ledger), fingerprints_of_parts(other, other.ledger)
    shared = [one.ledger.ledger.block.name] if mine["ledger"] == theirs["ledger"] else []
    if one.sketch is not None and mine["sketch"] == theirs.get("sketch"):
        shared += [one.sketch.sketch.first_block.name, one.sketch.sketch.last_block.name]
    return shared


def fingerprints_of_parts(manifest: Manifest, ledger: LedgerSpec) -> dict[str, str]:
    """`part_fingerprints` of a bundle with this ledger."""
    return part_fingerprints(
        manifest.state,
        manifest.input,
        manifest.fold_version,
        manifest.files,
        manifest.sketch,
        actions=manifest.actions,
        ledger=ledger,
    )


def _sha256(meaning: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
