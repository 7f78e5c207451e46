"""Bundles made of the fixtures, for tests that need several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mimn.bundle import load_bundle
from mimn.bundle.writer import write_bundle

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
LEDGER = FIXTURES / "bundle_tiny_ledger/tiny-ledger/1"
RETRAINED = FIXTURES / "bundle_tiny_ledger_retrained/tiny-ledger-retrained/1"
"""The same ledger and counters beside another memory."""


def with_scaled_head(root: Path, of: Path, version: str, scale: float) -> Path:
    """A bundle whose scores are `scale` times those of the bundle at `of`, under the same name and fingerprint."""
    old = load_bundle(of)
    about = old.manifest
    model = onnx.load(of / "head.onnx")
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == last else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]))
    model.graph.node.append(helper.make_node("Mul", [f"{last}_before", "scale"], [last]))
    factor = np.float32(scale)
    table = None if about.item_table is None or old.reads is None else (about.item_table, old.reads.table)
    golden = replace(old.golden, scores=old.golden.scores * factor, cold_scores=old.golden.cold_scores * factor)
    return write_bundle(
        root, name=about.name, version=version, state=about.state, step=about.step, head=about.head,
        step_onnx=(of / "step.onnx").read_bytes(), head_onnx=model.SerializeToString(),
        initial_state=np.array(old.initial_state), items=old.items, categories=old.categories, golden=golden,
        context=about.context, opset=about.opset, model=about.model, training=about.training, sketch=about.sketch,
        ledger=about.ledger, item_table=table,
    )  # fmt: skip
