"""Bundles made of the fixtures, for tests that need several."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mimn.bundle import About, Golden, GraphFile, HeadData, StateData, load_bundle, write_bundle

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
LEDGER = FIXTURES / "bundle_tiny_ledger/tiny-ledger/1"
RETRAINED = FIXTURES / "bundle_tiny_ledger_retrained/tiny-ledger-retrained/1"
"""The same ledger and counters beside another memory."""


def again(
    root: Path, of: Path, *, version: str | None = None, head: bytes | None = None, golden: Golden | None = None
) -> Path:
    """The bundle at `of`, which has no fields and no members, as it is written now; with another version, another graph
    as its head, or other golden cases."""
    old = load_bundle(of)
    about = old.manifest
    step = None if about.step is None else GraphFile((of / "step.onnx").read_bytes(), about.step)
    scoring = GraphFile(head or (of / "head.onnx").read_bytes(), about.head)
    table = None if about.item_table is None or old.reads is None else (about.item_table, old.reads.table)
    return write_bundle(
        root,
        about.name,
        version or about.version,
        state=StateData(
            spec=about.state,
            initial=np.array(old.initial_state),
            step=step,
            sketch=about.sketch,
            ledger=about.ledger,
            actions=about.actions,
        ),
        head=HeadData(graph=scoring, context=about.context, item_table=table),
        tables=(old.items, old.categories),
        golden=golden or old.golden,
        about=About(opset=about.opset, model=about.model, training=about.training),
    )


def with_scaled_head(root: Path, of: Path, version: str, scale: float) -> Path:
    """A bundle whose scores are `scale` times those of the bundle at `of`, under the same name and fingerprint."""
    golden, factor = load_bundle(of).golden, np.float32(scale)
    model = onnx.load(of / "head.onnx")
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == last else name for name in node.output]
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]))
    model.graph.node.append(helper.make_node("Mul", [f"{last}_before", "scale"], [last]))
    scaled = replace(golden, scores=golden.scores * factor, cold_scores=golden.cold_scores * factor)
    return again(root, of, version=version, head=model.SerializeToString(), golden=scaled)
