"""Bundles made of the fixtures, for tests that need several."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mimn.bundle import About, Golden, GraphFile, HeadData, StateData, load_bundle, write_bundle
from mimn.bundle.manifest import fingerprint_of
from mimn.bundle.seal import SEAL, seal_of
from mimn.bundle.specs import IdKind

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
LEDGER = FIXTURES / "bundle_tiny_ledger/tiny-ledger/1"
RETRAINED = FIXTURES / "bundle_tiny_ledger_retrained/tiny-ledger-retrained/1"
"""The same ledger and counters beside another memory."""


def again(
    root: Path,
    of: Path,
    *,
    version: str | None = None,
    head: bytes | None = None,
    golden: Golden | None = None,
    ids: IdKind = None,
) -> Path:
    """The bundle at `of`, which has no fields and no members, as it is written now; with another version, another graph
    as its head, other golden cases, or another kind of ids."""
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
            ids=ids or about.input.ids,
        ),
        head=HeadData(graph=scoring, context=about.context, item_table=table),
        tables=(old.items, old.categories),
        golden=golden or old.golden,
        about=About(opset=about.opset, model=about.model, training=about.training),
    )


def with_overflowing_head(root: Path, of: Path, version: str) -> Path:
    """The bundle at `of` with a head whose scores above all golden ones are infinite, as those of a training that
    diverged may be."""
    golden = load_bundle(of).golden
    model, before, last = before_last(of)
    limit = float(max(golden.scores.max(), golden.cold_scores.max())) + 0.001
    for name, value in (("limit", limit), ("nothing", 0.0), ("large", 3e38)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.FLOAT, [], [value]))
    for kind, inputs, made in (
        ("Sub", [before, "limit"], "over"),
        ("Max", ["over", "nothing"], "above"),
        ("Mul", ["above", "large"], "more"),
        ("Mul", ["more", "large"], "most"),
        ("Add", [before, "most"], last),
    ):
        model.graph.node.append(helper.make_node(kind, inputs, [made]))
    return again(root, of, version=version, head=model.SerializeToString())


def before_last(of: Path) -> tuple[onnx.ModelProto, str, str]:
    """The head of a bundle with room for another last operation: its input, and the output that it has to make."""
    model = onnx.load(of / "head.onnx")
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [f"{name}_before" if name == last else name for name in node.output]
    return model, f"{last}_before", last


def with_table(root: Path, of: Path, file: str, numbers: NDArray[Any]) -> Path:
    """A copy of the bundle at `of` with another array in one of its files, and hashes and fingerprint that fit."""
    path = root / of.parent.name / of.name
    shutil.copytree(of, path)
    np.save(path / file, numbers)
    manifest = json.loads((path / "manifest.json").read_text())
    data = (path / file).read_bytes()
    manifest["files"][file] = sha256(data).hexdigest()
    if "sizes" in manifest:
        manifest["sizes"][file] = len(data)
    about = load_bundle(of).manifest
    manifest["fingerprint"] = fingerprint_of(
        about.state, about.input, about.fold_version, manifest["files"], about.sketch,
        actions=about.actions, ledger=about.ledger,
    )  # fmt: skip
    write_manifest(path, manifest)
    return path


def write_manifest(path: Path, manifest: Any) -> None:
    """Put another manifest into the bundle at `path`, and its seal."""
    data = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(data)
    (path / SEAL).write_bytes(seal_of(data))


def with_scaled_head(root: Path, of: Path, version: str, scale: float) -> Path:
    """A bundle whose scores are `scale` times those of the bundle at `of`, under the same name and fingerprint."""
    golden, factor = load_bundle(of).golden, np.float32(scale)
    model, before, last = before_last(of)
    model.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]))
    model.graph.node.append(helper.make_node("Mul", [before, "scale"], [last]))
    scaled = replace(golden, scores=golden.scores * factor, cold_scores=golden.cold_scores * factor)
    return again(root, of, version=version, head=model.SerializeToString(), golden=scaled)
