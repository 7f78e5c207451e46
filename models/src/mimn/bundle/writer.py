"""Writes a bundle into a temporary folder and renames it, so a half-written bundle is never visible."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import manifest as m
from mimn.bundle.golden import Golden
from mimn.bundle.item_table import FILES as TABLE
from mimn.bundle.item_table import ItemTable
from mimn.bundle.manifest import (
    BundleError,
    GraphSpec,
    InputSpec,
    ItemTableSpec,
    LedgerSpec,
    Manifest,
    SketchSpec,
    StateSpec,
)
from mimn.bundle.vocabulary import EmbeddingTable


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
) -> Path:
    """Write `<root>/<name>/<version>` and return its path.

    Raises:
        BundleError: the target exists (bundles are immutable: choose another version), or the parts do not match.
    """
    target = Path(root) / name / version
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
        fingerprint=m.fingerprint_of(state, input_spec, m.FOLD_VERSION, files, sketch, ledger=ledger),
        sketch=sketch,
        ledger=ledger,
        item_table=None if item_table is None else item_table[0],
    )
    contents[m.MANIFEST] = m.encode_manifest(manifest)
    m.decode_manifest(contents[m.MANIFEST])
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
