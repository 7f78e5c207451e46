"""Writes a bundle into a partial folder and renames it, so a half-written bundle is never visible."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import specs as m
from mimn.bundle.fields import FieldSpec
from mimn.bundle.golden import Golden
from mimn.bundle.item_table import FILES as TABLE
from mimn.bundle.item_table import NEIGHBOR_FILES, ItemTable
from mimn.bundle.manifest import decode_manifest, encode_manifest, fingerprint_of
from mimn.bundle.members import FILES as MEMBERS
from mimn.bundle.members import MemberIndex
from mimn.bundle.request_fields import RequestFields
from mimn.bundle.seal import SEAL, seal_of
from mimn.bundle.specs import (
    ActionSpec,
    BundleError,
    GraphSpec,
    IdKind,
    InputSpec,
    ItemTableSpec,
    LedgerSpec,
    Manifest,
    MembersSpec,
    SketchSpec,
    StateSpec,
    check_name,
)
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.calibration import UNCALIBRATED, Calibration
from mimn.state.actions import ActionName
from mimn.whole_file import making


@dataclass(frozen=True)
class FieldData:
    """The fields of a bundle, and their tables."""

    specs: tuple[FieldSpec, ...] = ()
    """Those of the request in the head's order, then those of the item."""
    codes: Mapping[str, NDArray[np.uint64]] = field(default_factory=dict)
    """Of listed fields of the request: the codes of their values, rising."""
    vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 1), np.float32))
    """[R, E]: the tables of the request's fields behind one another."""
    item_vectors: NDArray[np.float32] | None = None
    """[items + 1, W]: by row, the vectors of the item's fields; None without any."""

    @property
    def request(self) -> RequestFields:
        """What encodes a request."""
        return RequestFields(self.specs, self.codes, self.vectors)

    def asked_items(self, items: EmbeddingTable) -> EmbeddingTable:
        """Items as candidates: the vectors of their fields in front of their own."""
        if self.item_vectors is None:
            return items
        return EmbeddingTable(items.ids, np.concatenate([self.item_vectors, items.vectors], -1))

    def files(self, items: EmbeddingTable) -> dict[str, bytes]:
        """The bundle's files of its fields."""
        listed = [self.codes[spec.name] for spec in self.specs if spec.listed and spec.source != "item"]
        made = {
            m.FIELD_CODES: lambda: _npy(np.concatenate(listed)),
            m.FIELD_VECTORS: lambda: _npy(self.vectors),
            m.ITEM_CANDIDATES: lambda: _npy(self.asked_items(items).vectors),
        }
        return {file: made[file]() for file in m.field_files(self.specs)}


NO_FIELDS = FieldData()


class GraphFile(NamedTuple):
    """A graph, and what the manifest says of it."""

    onnx: bytes
    spec: GraphSpec


@dataclass(frozen=True, kw_only=True)
class StateData:
    """What a user's state is, and what an event makes of it."""

    spec: StateSpec
    initial: NDArray[np.float32]
    """[F]: the state of a user without events."""
    step: GraphFile | None = None
    """None where no graph folds events: in a sequence bundle, and with a ledger alone."""
    sketch: SketchSpec | None = None
    ledger: LedgerSpec | None = None
    actions: dict[ActionName, ActionSpec] | None = None
    ids: IdKind = None
    """What the ids of the training data were."""


@dataclass(frozen=True, kw_only=True)
class HeadData:
    """What the head reads beside state and candidates, and what its scores mean."""

    graph: GraphFile
    context: tuple[str, ...] = ()
    """Features of a request that are plain numbers."""
    fields: FieldData = NO_FIELDS
    item_table: tuple[ItemTableSpec, ItemTable] | None = None
    members: tuple[MembersSpec, MemberIndex] | None = None
    calibration: Calibration = UNCALIBRATED
    negatives_kept: float = 1.0


@dataclass(frozen=True, kw_only=True)
class About:
    """What the manifest tells people; the services do not read it."""

    opset: int
    """Of the graphs."""
    model: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


def write_bundle(
    root: str | Path,
    name: str,
    version: str,
    *,
    state: StateData,
    head: HeadData,
    tables: tuple[EmbeddingTable, EmbeddingTable],
    golden: Golden,
    about: About,
) -> Path:
    """Write `<root>/<name>/<version>` and return its path. `tables`: of items and of categories.

    Raises:
        BundleError: a name or version that is not allowed, the target exists (bundles are immutable: choose another
            version), or the parts do not match.
    """
    target = Path(root) / check_name("name", name) / check_name("version", version)
    if target.exists():
        raise BundleError(f"{target} exists and a bundle never changes: choose another version")
    items, categories = tables
    items.check("items")
    categories.check("categories")
    contents = {} if state.step is None else {m.STEP: state.step.onnx}
    contents |= {
        m.HEAD: head.graph.onnx,
        m.INITIAL_STATE: _npy(state.initial),
        m.ITEM_IDS: _npy(items.ids),
        m.ITEM_VECTORS: _npy(items.vectors),
        m.CATEGORY_IDS: _npy(categories.ids),
        m.CATEGORY_VECTORS: _npy(categories.vectors),
        m.GOLDEN: golden.to_bytes(),
    }
    if head.item_table is not None:
        table = head.item_table[1]
        contents |= {file: _npy(getattr(table, name)) for name, file in TABLE.items()}
        if table.neighbors is not None:
            contents |= {file: _npy(getattr(table.neighbors, name)) for name, file in NEIGHBOR_FILES.items()}
    if head.members is not None:
        contents |= {file: _npy(getattr(head.members[1], name)) for name, file in MEMBERS.items()}
    contents |= head.fields.files(items)
    files = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    input_spec = InputSpec(m.INPUT_RULE, items.width, categories.width, state.ids)
    manifest = Manifest(
        schema_version=m.SCHEMA_VERSION,
        name=name,
        version=version,
        state=state.spec,
        input=input_spec,
        fold_version=m.FOLD_VERSION,
        step=None if state.step is None else state.step.spec,
        head=head.graph.spec,
        context=head.context,
        opset=about.opset,
        model=about.model,
        training=about.training,
        files=files,
        sizes={file: len(data) for file, data in contents.items()},
        fingerprint=fingerprint_of(
            state.spec,
            input_spec,
            m.FOLD_VERSION,
            files,
            state.sketch,
            actions=state.actions,
            ledger=state.ledger,
        ),
        ledger=state.ledger,
        item_table=None if head.item_table is None else head.item_table[0],
        members=None if head.members is None else head.members[0],
        sketch=state.sketch,
        actions=state.actions,
        fields=head.fields.specs,
        calibration=head.calibration,
        negatives_kept=head.negatives_kept,
    )
    contents[m.MANIFEST] = encode_manifest(manifest)
    decode_manifest(contents[m.MANIFEST])
    contents[SEAL] = seal_of(contents[m.MANIFEST])
    try:
        with making(target) as partial:
            for file, data in contents.items():
                (partial / file).write_bytes(data)
    except OSError as error:
        raise BundleError(
            f"{target} cannot be written ({error.strerror or error}): choose another output folder, or make room"
        ) from error
    return target


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
