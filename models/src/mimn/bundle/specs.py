"""What a bundle's manifest says: names of files, rules, and the parts of `manifest.json` as msgspec reads them.

`mimn.bundle.manifest` checks that the parts fit each other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from mimn.bundle.fields import FieldSpec, Specs
from mimn.bundle.item_table import FILES as TABLE
from mimn.bundle.item_table import NEIGHBOR_FILES
from mimn.bundle.members import FILES as MEMBERS
from mimn.calibration import UNCALIBRATED, Calibration
from mimn.state.actions import ActionName, Actions
from mimn.state.layout import Block, BlockType, LayoutError, StateLayout
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
IdKind = Literal["string"] | None
"""What ids are in training data: texts, or None for whole numbers."""
TABLES = (ITEM_IDS, ITEM_VECTORS, CATEGORY_IDS, CATEGORY_VECTORS)
FILES: dict[Kind, tuple[str, ...]] = {
    "recurrent": (STEP, HEAD, INITIAL_STATE, *TABLES, GOLDEN),
    "sequence": (HEAD, INITIAL_STATE, *TABLES, GOLDEN),
    "ledger": (HEAD, INITIAL_STATE, *TABLES, GOLDEN),
}
"""The files of a bundle; those of its fields come on top (`field_files`)."""
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


NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z"
"""What a bundle's name and its version may be: each is a folder, a metric's label and a part of the rollout record."""


class BundleError(Exception):
    """A bundle that cannot be used; the message names the file or field and the fix."""


def check_name(what: str, text: str) -> str:
    """`text`, which is to be a bundle's `what`: its name or its version.

    Raises:
        BundleError: it does not match `NAME`.
    """
    if re.search(NAME, text) is None:
        raise BundleError(
            f"{what} {text!r}: it may have 1 to 128 of the letters A to Z and a to z, digits, '_', '-' and '.', and "
            "must not begin with '-' or '.'"
        )
    return text


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


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How an event, or a candidate, becomes the vector that the graphs read."""

    rule: str
    item_width: int
    category_width: int
    ids: IdKind = None
    """An event may name items and categories by text only if `string`. It is left out where it is None."""


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


def files_of(manifest: Manifest) -> tuple[str, ...]:
    """The files that the bundle must have, besides the manifest."""
    table: tuple[str, ...] = () if manifest.item_table is None else tuple(TABLE.values())
    if manifest.item_table is not None and "neighbors" in manifest.item_table.reads:
        table += tuple(NEIGHBOR_FILES.values())
    members = () if manifest.members is None else tuple(MEMBERS.values())
    return (*FILES[manifest.state.kind], *field_files(manifest.fields), *table, *members)
