"""Writes a bundle into a temporary folder and renames it, so a half-written bundle is never visible."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from mimn.bundle.specs import (
    ActionSpec,
    BundleError,
    GraphSpec,
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


def write_bundle(
    root: str | Path,
    *,
    name: str,
    version: str,
    state: StateSpec,
    step: GraphSpec | None,
    head: GraphSpec,
    step_onnx: bytes | None,
    head_onnx: bytes,
    initial_state: NDArray[np.float32],
    items: EmbeddingTable,
    categories: EmbeddingTable,
    golden: Golden,
    context: tuple[str, ...],
    opset: int,
    model: dict[str, Any],
    training: dict[str, Any],
    sketch: SketchSpec | None = None,
    ledger: LedgerSpec | None = None,
    item_table: tuple[ItemTableSpec, ItemTable] | None = None,
    members: tuple[MembersSpec, MemberIndex] | None = None,
    actions: dict[ActionName, ActionSpec] | None = None,
    fields: FieldData = NO_FIELDS,
    calibration: Calibration = UNCALIBRATED,
    negatives_kept: float = 1.0,
) -> Path:
    """Write `<root>/<name>/<version>` and return its path.

    Raises:
        BundleError: a name or version that is not allowed, the target exists (bundles are immutable: choose another
            version), or the parts do not match.
    """
    target = Path(root) / check_name("name", name) / check_name("version", version)
    if target.exists():
        raise BundleError(f"{target} exists and a bundle never changes: choose another version")
    items.check("items")
    categories.check("categories")
    contents = {} if step_onnx is None else {m.STEP: step_onnx}
    contents |= {
        m.HEAD: head_onnx,
        m.INITIAL_STATE: _npy(initial_state),
        m.ITEM_IDS: _npy(items.ids),
        m.ITEM_VECTORS: _npy(items.vectors),
        m.CATEGORY_IDS: _npy(categories.ids),
        m.CATEGORY_VECTORS: _npy(categories.vectors),
        m.GOLDEN: golden.to_bytes(),
    }
    if item_table is not None:
        contents |= {file: _npy(getattr(item_table[1], name)) for name, file in TABLE.items()}
        if (neighbors := item_table[1].neighbors) is not None:
            contents |= {file: _npy(getattr(neighbors, name)) for name, file in NEIGHBOR_FILES.items()}
    if members is not None:
        contents |= {file: _npy(getattr(members[1], name)) for name, file in MEMBERS.items()}
    contents |= fields.files(items)
    files = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    input_spec = InputSpec(m.INPUT_RULE, items.width, categories.width)
    manifest = Manifest(
        schema_version=m.SCHEMA_VERSION,
        name=name,
        version=version,
        state=state,
        input=input_spec,
        fold_version=m.FOLD_VERSION,
        step=step,
        head=head,
        context=context,
        opset=opset,
        model=model,
        training=training,
        files=files,
        sizes={file: len(data) for file, data in contents.items()},
        fingerprint=fingerprint_of(state, input_spec, m.FOLD_VERSION, files, sketch, actions=actions, ledger=ledger),
        ledger=ledger,
        item_table=None if item_table is None else item_table[0],
        members=None if members is None else members[0],
        sketch=sketch,
        actions=actions,
        fields=fields.specs,
        calibration=calibration,
        negatives_kept=negatives_kept,
    )
    contents[m.MANIFEST] = encode_manifest(manifest)
    decode_manifest(contents[m.MANIFEST])
    partial = target.with_name(f".{version}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        for file, data in contents.items():
            (partial / file).write_bytes(data)
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return target


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
