"""Reads and writes `manifest.json`. Reading is strict: it gives a value in which every field has been checked, alone
and against the others, or a `BundleError` that names the field.
"""

from __future__ import annotations

import json

import msgspec

from mimn.bundle.fields import check_fields
from mimn.bundle.fingerprint import STATE_FILES, fingerprint_of, fingerprints_of_parts, shared_blocks
from mimn.bundle.members import read_width
from mimn.bundle.reads import GROUPS, width
from mimn.bundle.specs import (
    FILES,
    FOLD_VERSION,
    HEAD,
    INPUT_RULE,
    LEDGER_RULE,
    MANIFEST,
    MOST_HALF_LIVES,
    SCHEMA_VERSION,
    SKETCH_RULE,
    ActionSpec,
    BlockSpec,
    BundleError,
    Manifest,
    SketchSpec,
    files_of,
)
from mimn.calibration import UNCALIBRATED
from mimn.state.actions import LARGEST_WEIGHT, ActionName
from mimn.state.event_list import MAX_ROWS, EventList
from mimn.state.layout import MAX_FLOATS, LayoutError, StateLayout

__all__ = [
    "FILES",
    "HEAD",
    "STATE_FILES",
    "BundleError",
    "Manifest",
    "check_countable",
    "decode_manifest",
    "encode_manifest",
    "fingerprint_of",
    "fingerprints_of_parts",
    "shared_blocks",
]


def encode_manifest(manifest: Manifest) -> bytes:
    """The manifest as indented JSON."""
    return json.dumps(msgspec.to_builtins(manifest), indent=2).encode() + b"\n"


_decode = msgspec.json.Decoder(Manifest, float_hook=float).decode  # msgspec's float parser can be slow: 8 µs for 1e308


def decode_manifest(data: bytes) -> Manifest:
    """Decode a manifest and check that its fields are consistent (`load_bundle` checks the files).

    Raises:
        BundleError: not JSON, a field missing, unknown or of the wrong type, an unsupported schema, kind, rule or fold
            version, or a fingerprint that does not follow from the rest.
    """
    try:
        manifest = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST}: {error}") from error
    if not 1 <= manifest.schema_version <= SCHEMA_VERSION:
        raise BundleError(
            f"{MANIFEST}: schema_version {manifest.schema_version}; this program reads 1 to {SCHEMA_VERSION}: "
            "export the bundle again, or install the program version that wrote it"
        )
    since_2 = manifest.fields or manifest.actions or manifest.calibration is not UNCALIBRATED
    if manifest.schema_version == 1 and since_2:
        raise BundleError(f"{MANIFEST}: schema_version 1 has no `actions`, no `fields` and no `calibration`")
    _check_fields(manifest)
    if manifest.input.rule != INPUT_RULE:
        raise BundleError(f"{MANIFEST}: input.rule {manifest.input.rule!r}; this program knows {INPUT_RULE!r}")
    if manifest.fold_version != FOLD_VERSION:
        raise BundleError(
            f"{MANIFEST}: fold_version {manifest.fold_version}; this program folds by version {FOLD_VERSION}: "
            "export the bundle again and rebuild the states"
        )
    kind = manifest.state.kind
    wanted = set(files_of(manifest))
    missing = sorted(wanted - set(manifest.files))
    if missing:
        raise BundleError(f"{MANIFEST}: `files` lacks the hash of {', '.join(missing)}")
    foreign = sorted(set(manifest.files) - wanted)
    if foreign:
        raise BundleError(f"{MANIFEST}: `files` names unknown files: {', '.join(foreign)}")
    if (manifest.step is None) != (kind != "recurrent"):
        raise BundleError(f"{MANIFEST}: `step` belongs to state.kind `recurrent` and to no other")
    if kind == "sequence":
        _check_sequence(manifest)
    _check_ledger(manifest)
    if manifest.sketch is not None:
        _check_sketch(manifest.sketch, manifest.layout, 0 if manifest.ledger is None else 1)
    expected = fingerprint_of(
        manifest.state,
        manifest.input,
        manifest.fold_version,
        manifest.files,
        manifest.sketch,
        actions=manifest.actions,
        ledger=manifest.ledger,
    )
    if manifest.actions is not None:
        _check_actions(manifest.actions, manifest)
    if manifest.fingerprint != expected:
        raise BundleError(f"{MANIFEST}: fingerprint {manifest.fingerprint[:16]}… does not follow from the other fields")
    if manifest.sizes is not None and (
        manifest.sizes.keys() != manifest.files.keys() or min(manifest.sizes.values()) < 0
    ):
        raise BundleError(f"{MANIFEST}: `sizes` must give a size for each of `files`")
    names = [*manifest.context, *(spec.name for spec in manifest.fields)]
    if len(set(names)) != len(names):
        raise BundleError(f"{MANIFEST}: `context` names a feature twice, or one of `fields`")
    return manifest


def _check_fields(manifest: Manifest) -> None:
    try:
        check_fields(manifest.fields)
    except ValueError as error:
        raise BundleError(f"{MANIFEST}: `fields`: {error}") from error
    if not 0.0 < manifest.negatives_kept <= 1.0:
        raise BundleError(f"{MANIFEST}: `negatives_kept` must be above 0 and at most 1, not {manifest.negatives_kept}")


def _check_sequence(manifest: Manifest) -> None:
    for name in ("sketch", "ledger"):
        if getattr(manifest, name) is not None:
            raise BundleError(f"{MANIFEST}: `{name}` does not go with state.kind `sequence`")
    try:
        EventList.of(manifest.layout)
    except LayoutError as error:
        raise BundleError(f"{MANIFEST}: `state.blocks`: {error}") from error


def check_countable(what: str, rows: int) -> None:
    """Raises BundleError when a table has more rows than a list of events can represent exactly."""
    if rows > MAX_ROWS:
        raise BundleError(f"{what}: {rows} rows; a list of events can name {MAX_ROWS}: take a smaller vocabulary")


def _check_ledger(manifest: Manifest) -> None:
    spec, table, members = manifest.ledger, manifest.item_table, manifest.members
    if manifest.state.kind == "ledger":
        others = [block for block in manifest.state.blocks if block.name not in ("counters", "periods", "ledger")]
        if spec is None or others != [BlockSpec("count", (1,), "float32")]:
            raise BundleError(
                f"{MANIFEST}: state.kind `ledger` needs `ledger`, and `count` [1] besides it and a sketch"
            )
    if (spec is None) != (table is None and members is None):
        raise BundleError(f"{MANIFEST}: `ledger` goes together with `item_table` or `members`")
    if spec is None:
        if any(block.dtype == "uint32" for block in manifest.state.blocks):
            raise BundleError(f"{MANIFEST}: `state.blocks` has a block of uint32, which only a `ledger` writes")
        return
    if spec.rule != LEDGER_RULE:
        raise BundleError(f"{MANIFEST}: ledger.rule {spec.rule!r}; this program knows {LEDGER_RULE!r}")
    if not 1 <= spec.buckets <= MAX_FLOATS or not 2 <= spec.ways <= 64 or spec.ways % 2:
        raise BundleError(f"{MANIFEST}: `ledger` needs 1 to {MAX_FLOATS} buckets, and an even number of 2 to 64 ways")
    if [block.dtype for block in manifest.layout.blocks].count("uint32") != 1 or (
        manifest.layout.blocks[-1] != spec.ledger.block
    ):
        raise BundleError(f"{MANIFEST}: `state.blocks` must end with {spec.ledger.block}, by `ledger`")
    values = 0
    if table is not None:
        if table.reads != tuple(group for group in GROUPS if group in table.reads) or not table.reads:
            raise BundleError(
                f"{MANIFEST}: item_table.reads {list(table.reads)}; it is some of {list(GROUPS)}, in this order"
            )
        values += width(table.reads, len(table.types))
    if members is not None:
        if not 0 < len(members.half_lives) <= MOST_HALF_LIVES or min(members.half_lives) < 1:
            raise BundleError(f"{MANIFEST}: members.half_lives must be 1 to {MOST_HALF_LIVES} numbers of days above 0")
        values += read_width(members.half_lives)
    wanted = ("candidates", values)
    if not any(tensor.name == "reads" and tensor.shape == wanted for tensor in manifest.head.inputs):
        raise BundleError(
            f"{MANIFEST}: the head must have an input `reads` of shape {list(wanted)}, by `item_table` and `members`"
        )


def _check_actions(actions: dict[ActionName, ActionSpec], manifest: Manifest) -> None:
    width = manifest.input.item_width + manifest.input.category_width
    for name, spec in actions.items():
        what = f"{MANIFEST}: actions.{name}"
        if not 0.0 <= spec.weight <= LARGEST_WEIGHT:
            raise BundleError(f"{what}: weight {spec.weight}; it must be 0 to {LARGEST_WEIGHT:g}")
        if spec.vector is not None and (len(spec.vector) != width or spec.weight != 1.0):
            raise BundleError(f"{what}: `vector` needs {width} values, as wide as an event, and no `weight`")
        if manifest.state.kind == "sequence" and (spec.vector is not None or spec.weight not in (0.0, 1.0)):
            raise BundleError(f"{what}: a list of events holds no action, so the weight must be 0 or 1")
    if not any(spec.weight for spec in actions.values()):
        raise BundleError(f"{MANIFEST}: `actions` names none that is folded")


def _check_sketch(spec: SketchSpec, layout: StateLayout, behind: int) -> None:
    """`behind`: blocks behind the sketch's last one."""
    if spec.rule != SKETCH_RULE:
        raise BundleError(f"{MANIFEST}: sketch.rule {spec.rule!r}; this program knows {SKETCH_RULE!r}")
    if (
        min(spec.category_cells, spec.item_cells) < 0
        or not spec.category_cells + spec.item_cells
        or min(spec.half_lives, default=-1) < 0
    ):
        raise BundleError(f"{MANIFEST}: `sketch` needs cells and half-lives, and neither may be negative")
    if max(spec.category_cells, spec.item_cells) > MAX_FLOATS:
        raise BundleError(f"{MANIFEST}: `sketch` has more cells than the {MAX_FLOATS} values that a state may have")
    first, last = spec.sketch.first_block, spec.sketch.last_block
    if len(layout.blocks) < 3 + behind or (layout.blocks[0], layout.blocks[-1 - behind]) != (first, last):
        raise BundleError(f"{MANIFEST}: `state.blocks` must begin with {first} and end with {last}, by `sketch`")
