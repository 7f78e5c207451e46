"""Actions in training, in the bundle and in the equations: one rule, three computations."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fixtures.write_bundles import CATEGORY_IDS, ITEM_IDS, TINY, TINY_DIN, TINY_SKETCH, tiny_model
from mimn.bundle import load_bundle
from mimn.bundle.graph import StepGraph
from mimn.bundle.manifest import BundleError
from mimn.data.description import ActionRules
from mimn.export import ExportError, RunFacts, export_any
from mimn.nn.checkpoint import load_model, save_model
from mimn.nn.model import Batch, BatchError, ClickModel
from mimn.nn.sketch import Touches, folded_counters, window_counts
from mimn.state.actions import LARGEST_WEIGHT
from mimn.state.sketch import DAY_MS, Sketch
from support.bundles import write_manifest

pytestmark = pytest.mark.torch

RULES: ActionRules = {"view": 0.0, "click": 1.0, "cart": 2.5, "purchase": "embedding"}
FOLDED = np.array([2, 3, 5])
B, T = 3, 9


def exported(model: ClickModel, folder: Path, name: str = "a") -> Path:
    return export_any(
        model,
        ITEM_IDS,
        CATEGORY_IDS,
        folder,
        name=name,
        version="1",
        state_dtype="float32",
        events=20,
        facts=RunFacts(),
    )


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return (
        torch.from_numpy(rng.integers(len(ITEM_IDS) + 1, size=(B, T))),
        torch.from_numpy(rng.integers(len(CATEGORY_IDS) + 1, size=(B, T))),
        torch.from_numpy(rng.choice(FOLDED, size=(B, T))),
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `TINY` with `RULES`."""
    return exported(tiny_model(TINY, actions=RULES), tmp_path_factory.mktemp("tiny"))


def test_a_bundle_folds_what_the_model_unrolls(tiny: Path) -> None:
    model = tiny_model(TINY, actions=RULES)
    bundle = load_bundle(tiny)
    step = StepGraph(bundle)
    items, categories, actions = drawn()
    with torch.no_grad():
        unrolled = model.unroll(items, categories, actions=actions)[:, -1].numpy()  # type: ignore[operator]
    state = np.tile(bundle.initial_state, (B, 1))
    unknown = np.uint64(2**64 - 1)
    item_ids, category_ids = (np.append(unknown, ids) for ids in (ITEM_IDS, CATEGORY_IDS))
    for t in range(T):
        ids = item_ids[items[:, t].numpy()], category_ids[categories[:, t].numpy()]
        state = step(bundle.events(*ids, actions[:, t].numpy()), state)
    np.testing.assert_allclose(state, unrolled, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="names actions"):
        bundle.events(*ids)


def test_golden_cases_have_every_folded_action_and_notice_another_rule(tmp_path: Path) -> None:
    bundle = load_bundle(exported(tiny_model(TINY_SKETCH, actions=RULES), tmp_path))
    golden = bundle.golden
    assert golden.actions is not None
    for row in golden.actions:
        assert set(row.tolist()) == set(FOLDED.tolist())
    step = StepGraph(bundle)
    golden.verify_step(step, bundle.events, bundle.initial_state, bundle.sketch)
    with pytest.raises(Exception, match="golden state differs"):
        golden.verify_step(step, lambda i, c, _: bundle.vectors(i, c), bundle.initial_state, bundle.sketch)


def test_a_model_file_keeps_the_rules_and_what_was_learned(tmp_path: Path) -> None:
    model = tiny_model(TINY, actions=RULES)
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(tmp_path / "m.safetensors")
    assert again.actions is not None
    assert again.actions.rules == RULES
    with torch.no_grad():
        torch.testing.assert_close(again.events(*drawn()), model.events(*drawn()), rtol=0, atol=0)


@pytest.mark.full
def test_actions_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    kinds: dict[str, ActionRules | None] = {
        "none": None,
        "two": {"click": 1.0, "purchase": 1.0},
        "fewer": {"click": 1.0},
        "left-out": {"click": 1.0, "purchase": 0.0},
        "weighted": {"click": 1.0, "purchase": 2.0},
    }
    prints = {
        load_bundle(exported(tiny_model(TINY, actions=rules), tmp_path, name)).manifest.fingerprint
        for name, rules in kinds.items()
    }
    assert len(prints) == 5


def test_a_changed_rule_is_refused_by_the_fingerprint(tiny: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny, tmp_path / "a/1")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["actions"]["cart"]["weight"] = 2.0
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match="fingerprint"):
        load_bundle(path)
    manifest["actions"]["cart"]["weight"] = 9.0
    write_manifest(path, manifest)
    with pytest.raises(BundleError, match=r"actions\.cart: weight 9"):
        load_bundle(path)


def test_a_model_needs_the_actions_that_it_reads() -> None:
    items, categories, _ = drawn()
    with pytest.raises(BatchError, match="needs `actions`"):
        tiny_model(TINY, actions=RULES).scorer(items, categories, torch.full((B,), T))


def test_lists_take_actions_that_are_folded_or_not_and_no_others(tmp_path: Path) -> None:
    bundle = load_bundle(exported(tiny_model(TINY_DIN, actions={"view": 0.0, "click": 1.0}), tmp_path))
    assert bundle.actions is not None
    assert bundle.actions.folded.tolist() == [False, False, True, False, False, False]
    for rules in ({"click": 2.0}, {"click": "embedding"}):
        with pytest.raises(ExportError, match=r"a list of events holds no actions.*weight 1"):
            exported(tiny_model(TINY_DIN, actions=rules), tmp_path, "other")  # type: ignore[arg-type]  # both forms
    assert not (tmp_path / "other").exists()


def test_training_learns_the_vectors_of_embedded_actions_alone() -> None:
    model = tiny_model(TINY, actions=RULES).train()
    items, categories, actions = drawn()
    batch = Batch(
        items=items,
        categories=categories,
        actions=actions,
        lengths=torch.full((B,), T),
        positions=torch.full((B, 1), T),
        candidate_items=items[:, :1, None].expand(B, 1, 2),
        candidate_categories=categories[:, :1, None].expand(B, 1, 2),
        labels=torch.tensor([[[1.0, 0.0]]]).expand(B, 1, 2),
    )
    model.loss(batch).total.backward()  # type: ignore[no-untyped-call]
    assert model.actions is not None
    assert model.actions.vectors is not None
    assert model.actions.vectors.grad is not None
    moved = model.actions.vectors.grad.abs().sum(-1) > 0
    assert moved.tolist() == [False] * 5 + [True]


@given(st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.integers(0, 20)), min_size=1, max_size=12))
def test_weighted_counters_are_the_weighted_sums_of_training(touches: list[tuple[float, int]]) -> None:
    sketch = Sketch(2, 0, (0, 5))
    weights = np.array([[w for w, _ in touches]], np.float32)
    times = 1_700_000_000_000 + np.cumsum([[days * DAY_MS for _, days in touches]], 1)
    addresses, now = np.zeros((1, len(touches), 1), np.int64), times[:, -1:] + DAY_MS
    state = folded_counters(sketch, addresses, times, np.array([len(touches)]), weights)[0]
    told = Touches(
        addresses=torch.from_numpy(addresses),
        times=torch.from_numpy(times),
        candidate_addresses=torch.zeros((1, 1, 1, 1), dtype=torch.int64),
        now=torch.from_numpy(now),
        weights=torch.from_numpy(weights),
    )
    sums = window_counts(sketch, told, torch.tensor([[len(touches)]]))[0, 0, 0, 0].numpy()
    moment = sketch.moments(now[0])[0]
    held = state[: sketch.values].reshape(2, -1)[:, 0] * np.exp2(state[-2:] - moment[0]) / moment[1]
    np.testing.assert_allclose(held, sums, rtol=1e-2)


def test_the_largest_weight_never_overflows_a_counter() -> None:
    sketch = Sketch(2, 0, (0, 5))
    state = np.zeros((1, sketch.values + 2), np.float32)
    # Just before a period ends, an event adds nearly twice its weight.
    moment = sketch.moments(np.array([5 * DAY_MS * 4000 - 1]), np.array([LARGEST_WEIGHT], np.float32))
    for _ in range(20_000):
        sketch.add(state, np.zeros((1, 1), np.int64), moment)
    counters = state[0, : sketch.values].reshape(2, -1)[:, 0]
    assert counters.tolist() == [16_384.0, 32_768.0]
