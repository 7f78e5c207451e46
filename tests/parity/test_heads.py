"""Every field head computes its paper's equations; `test_field_export.py` exports each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mimn.baselines import BaselineConfig
from mimn.bundle import load_bundle
from mimn.bundle.graph import open_head
from mimn.config import MimnConfig
from mimn.export import export_bundle
from mimn.nn.checkpoint import untrained
from mimn.nn.heads import HEADS, FieldHead, FieldInputs, HeadSizes
from mimn.nn.model import MimnModel
from mimn.reference_heads import TWINS
from parity.paper_models import CATEGORIES, ITEMS, small_model

pytestmark = pytest.mark.torch

N, C, A, B, E = 2, 5, 3, 4, 6
SIZES = HeadSizes(shared=A, own=B, dim=E, units=(7, 5))


def head_of(name: str) -> FieldHead:
    torch.manual_seed(1)
    head = HEADS[name](SIZES)
    for parameter in head.parameters():  # biases are trained too
        torch.nn.init.normal_(parameter, std=0.4)
    return head.eval()


def inputs(n: int = N, c: int = C, seed: int = 0) -> FieldInputs:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, A, E), (n, c, B, E), (n,), (n, c))
    return FieldInputs(*(torch.randn(shape, generator=generator) for shape in shapes))


def test_every_head_has_a_twin() -> None:
    assert set(TWINS) == set(HEADS)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_computes_the_equations_of_its_paper(name: str) -> None:
    head, fields = head_of(name), inputs()
    with torch.no_grad():
        logits = head(fields).numpy()
    assert logits.shape == (N, C)
    weights = {key: value.double().numpy() for key, value in head.state_dict().items()}
    for n in range(N):
        shared = [vector.double().numpy() for vector in fields.shared[n]]
        for c in range(C):
            own = [vector.double().numpy() for vector in fields.own[n, c]]
            first = float(fields.shared_first[n]), float(fields.own_first[n, c])
            assert logits[n, c] == pytest.approx(TWINS[name](weights, shared, own, first), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", HEADS)
def test_one_candidates_score_does_not_depend_on_another(name: str) -> None:
    head, fields = head_of(name), inputs()
    changed = FieldInputs(fields.shared, fields.own.clone(), fields.shared_first, fields.own_first)
    changed.own[:, 1] += 1.0
    with torch.no_grad():
        before, after = head(fields), head(changed)
    kept = [c for c in range(C) if c != 1]
    assert torch.equal(before[:, kept], after[:, kept])
    assert not torch.equal(before[:, 1], after[:, 1])


ITEM_IDS = np.arange(1, ITEMS + 1, dtype=np.uint64) * 3
CATEGORY_IDS = np.arange(1, CATEGORIES + 1, dtype=np.uint64)
MEMORY = MimnConfig(
    embedding_dim=4,
    controller_units=6,
    slots=3,
    history_product=True,
    bounded_writes=True,
    sketch_category_cells=8,
    sketch_item_cells=16,
    attention_units=(5, 3),
    head_units=(7, 5),
)


@pytest.mark.full
@pytest.mark.parametrize("name", HEADS)
def test_any_head_on_a_memory_is_exported(name: str, tmp_path: Path) -> None:
    """Export itself compares ONNX, PyTorch and the equations, and refuses a bundle in which they differ."""
    model = small_model(replace(MEMORY, head=name))  # type: ignore[arg-type]  # a name of the table
    assert isinstance(model, MimnModel)
    path = export_bundle(model, ITEM_IDS, CATEGORY_IDS, tmp_path, name="head", version="1")
    bundle = load_bundle(path)
    bundle.golden.verify_head(open_head(bundle), bundle.candidates, bundle.initial_state, bundle.sketch)


@pytest.mark.parametrize("name", ["deepfm", "pnn_inner", "afm"])
def test_baselines_that_read_the_events_take_the_heads_too(name: str) -> None:
    model = untrained(BaselineConfig(variant="din", embedding_dim=4, head=name, head_units=(7, 5)), 9, 5)  # type: ignore[arg-type]  # a name of the table
    items = torch.arange(8).reshape(2, 4)
    with torch.no_grad():
        score = model.scorer(items, items % 5, torch.tensor([4, 2]))
        scores = score(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[1, 2, 3], [4, 0, 1]]))
    assert scores.shape == (2, 3)
    assert bool(((scores > 0) & (scores < 1)).all())
