"""A bundle's description of itself: `manifest.json`, decoded strictly, and the fingerprint that follows from it.

Reading a manifest gives a value in which every field has been checked, or a `BundleError` that names the field. The
file is long because the checks compare parts with each other: each part stands beside the checks of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mimn.bundle.fields import FieldSpec, Specs, check_fields
from mimn.bundle.item_table import FILES as TABLE
from mimn.bundle.item_table import NEIGHBOR_FILES
from mimn.bundle.members import FILES as MEMBERS
from mimn.bundle.members import read_width
from mimn.bundle.reads import GROUPS, width
from mimn.calibration import UNCALIBRATED, Calibration
from mimn.state.actions import LARGEST_WEIGHT, ActionName, Actions
from mimn.state.event_list import MAX_ROWS, EventList
from mimn.state.layout import MAX_FLOATS, Block, BlockType, LayoutError, StateLayout
from mimn.state.ledger import Ledger
from mimn.state.sketch import Sketch

SCHEMA_VERSION = 2
"""What is written. 1 is read as well: it has no actions, no fields and no calibrator."""
MANIFEST = "manifest.json"
STEP = "step.onnx"
HEAD = "head.onnx"
INITIAL_STATE = "initial_state.npy"
ITEM_IDS, ITEM_VECTORS = "items.ids.npy", "items.vectors.npy"
CATEGORY_IDS, CATEGORY_VECTORS = "categories.ids.npy", "categories.vectors.npy"
GOLDEN = "golden.npz"
FIELD_CODES, FIELD_VECTORS = "fields.codes.npy", "fields.vectors.npy"
ITEM_CANDIDATES = "items.candidates.npy"
Kind = Literal["recurrent", "sequence", "ledger"]
_TABLES = (ITEM_IDS, ITEM_VECTORS, CATEGORY_IDS, CATEGORY_VECTORS)
FILES: dict[Kind, tuple[str, ...]] = {
    "recurrent": (STEP, HEAD, INITIAL_STATE, *_TABLES, GOLDEN),
    "sequence": (HEAD, INITIAL_STATE, *_TABLES, GOLDEN),
    "ledger": (HEAD, INITIAL_STATE, *_TABLES, GOLDEN),
}
"""The files of a bundle; those of its fields come on top (`field_files`)."""
STATE_FILES: dict[Kind, tuple[str, ...]] = {
    "recurrent": (STEP, INITIAL_STATE, *_TABLES),
    "sequence": (INITIAL_STATE, ITEM_IDS, CATEGORY_IDS),
    "ledger": (INITIAL_STATE,),
}
"""The files that give a state its meaning: the fingerprint covers their hashes. The head is not one of them, so states
stay valid under a new head. A list of events holds row numbers of the vocabularies and nothing learned, so it also
stays valid under new vectors."""
INPUT_RULE = "item++category"
"""The one rule from event to graph input today: item vector ++ category vector, unknown ids as row 0."""
SKETCH_RULE = "category row, two halves of mixed item id; periods of a half-life; float16"
"""The one rule from event to counters today (`mimn.state.sketch`)."""
LEDGER_RULE = "distinct items by hash: baskets, day, gap, basket; evicts the least last + 30 log2 n; uint32"
"""The one rule from event to ledger today (`mimn.state.ledger`)."""
MOST_HALF_LIVES = 16
"""In `members`."""
FOLD_VERSION = 1
"""Increased when the fold code gives other results although no file of the bundle has changed."""


class BundleError(Exception):
    """A bundle that cannot be used; the message names the file or field and the fix."""


class BlockSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named tensor of the state."""

    name: str
    shape: tuple[int, ...]
    dtype: BlockType


class StateSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`kind: recurrent` is a state that a step graph updates; `sequence` is the list of a user's last events
    (`mimn.state.EventList`), which the head reads as a whole; `ledger` is a count of events and a ledger."""

    kind: Kind
    blocks: tuple[BlockSpec, ...]


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an event, or a candidate, becomes the vector that the graphs read."""

    rule: str
    item_width: int
    category_width: int


class SketchSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an event is added to the counters of a state, which no graph writes; see `mimn.state.sketch.Sketch`."""

    rule: str
    category_cells: int
    item_cells: int
    half_lives: tuple[int, ...]

    @property
    def sketch(self) -> Sketch:
        """The `Sketch` with these sizes."""
        return Sketch(self.category_cells, self.item_cells, self.half_lives)


class LedgerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an event is written into the ledger of a state, which no graph writes; see `mimn.state.ledger.Ledger`."""

    rule: str
    buckets: int
    ways: int

    @property
    def ledger(self) -> Ledger:
        """The `Ledger` with these sizes."""
        return Ledger(self.buckets, self.ways)


class ItemTableSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the head reads of a ledger and of the table of items; see `mimn.bundle.reads`."""

    reads: tuple[str, ...]
    """Groups of values, in order."""
    types: tuple[str, ...]
    """Names of the kinds of types that the table has, for readers."""


class MembersSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the head reads of a ledger about the items that a candidate stands for; see `mimn.bundle.members`."""

    half_lives: tuple[int, ...]
    """In days."""


class ActionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an action makes of an event (`mimn.state.actions`): a weight, or a vector."""

    weight: float = 1.0
    """0: events of the action are not folded, and are counted."""
    vector: tuple[float, ...] | None = None
    """[D], added to the event's vector."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph; a string in `shape` names a free axis."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"


class GraphSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graph's file, inputs and outputs, in order."""

    file: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """The whole manifest. `model` and `training` are for people: the services do not read them."""

    schema_version: int
    name: str
    version: str
    state: StateSpec
    input: InputSpec
    fold_version: int
    step: GraphSpec | None = None
    """None in a sequence bundle: appending an event needs no graph."""
    head: GraphSpec
    context: tuple[str, ...]
    opset: int
    model: dict[str, Any]
    training: dict[str, Any]
    files: dict[str, str]
    fingerprint: str
    sketch: SketchSpec | None = None
    """Absent without counters."""
    ledger: LedgerSpec | None = None
    """Absent without a ledger."""
    item_table: ItemTableSpec | None = None
    """With a ledger only."""
    members: MembersSpec | None = None
    """With a ledger only, which goes with `item_table`, with this, or with both."""
    actions: dict[ActionName, ActionSpec] | None = None
    """The actions of the wire that the bundle names. Absent: all events are folded alike."""
    sizes: dict[str, int] | None = None
    """Bytes of each of `files`. Absent in bundles exported before it was introduced."""
    fields: Specs = ()
    """What the head reads of user, context and item. Like `calibration` it says nothing about a state."""
    calibration: Calibration = UNCALIBRATED
    """From the head's scores to click probabilities."""
    negatives_kept: float = 1.0
    """The share of unclicked impressions that training read."""

    @property
    def request_fields(self) -> tuple[FieldSpec, ...]:
        """The fields of a request in the head's order: those that `context` names are plain numbers, 0 by default."""
        named = tuple(FieldSpec(name=name, source="context", kind="numeric") for name in self.context)
        return named + tuple(spec for spec in self.fields if spec.source != "item")

    @property
    def named_actions(self) -> Actions | None:
        """`actions` as arrays."""
        if self.actions is None:
            return None
        vectors = {name: np.array(of.vector, np.float32) for name, of in self.actions.items() if of.vector is not None}
        return Actions.of({name: of.weight for name, of in self.actions.items()}, vectors)

    @property
    def layout(self) -> StateLayout:
        """The state's layout.

        Raises:
            BundleError: the blocks do not describe a state.
        """
        try:
            return StateLayout(tuple(Block(b.name, b.shape, b.dtype) for b in self.state.blocks))
        except LayoutError as error:
            raise BundleError(f"manifest field `state.blocks`: {error}") from error


def field_files(specs: Sequence[FieldSpec]) -> tuple[str, ...]:
    """The files that a bundle with these fields has besides `FILES`."""
    request = [spec for spec in specs if spec.source != "item"]
    has = {
        FIELD_CODES: any(spec.listed for spec in request),
        FIELD_VECTORS: any(spec.tabled for spec in request),
        ITEM_CANDIDATES: len(request) < len(specs),
    }
    return tuple(file for file, there in has.items() if there)


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
    return {name: _sha256({"fold_version": fold_version, **meaning}) for name, meaning in parts.items()}


def _sha256(meaning: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """The files that the bundle must have, besides the manifest."""
    table: tuple[str, ...] = () if manifest.item_table is None else tuple(TABLE.values())
    if manifest.item_table is not None and "neighbors" in manifest.item_table.reads:
        table += tuple(NEIGHBOR_FILES.values())
    members = () if manifest.members is None else tuple(MEMBERS.values())
    return (*FILES[manifest.state.kind], *field_files(manifest.fields), *table, *members)


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
