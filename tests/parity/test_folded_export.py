"""GRU4REC, RUM, slots by hash and the delta rule as bundles: what is folded one event at a time scores as the windows
that training reads, and what would not is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from fixtures.write_bundles import CATEGORY_IDS, ITEM_IDS, WITH_FIELDS, WITHOUT, tiny_model
from mimn.baselines import BaselineConfig, BaselineVariant, user_layout
from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import HeadGraph, StepGraph
from mimn.config import ConfigError
from mimn.data.description import ActionRules
from mimn.export import ExportError, export_any
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.model import ClickModel
from mimn.parity import ParityError, check_parity
from mimn.state.layout import BlockType
from parity.test_export import moved

pytestmark = pytest.mark.torch

VARIANTS: tuple[BaselineVariant, ...] = ("gru4rec", "rum", "hashed", "delta", "buckets")
STEP_WEIGHTS: dict[BaselineVariant, str] = {
    "gru4rec": "gru.candidate",
    "rum": "controls.weight",
    "hashed": "gru.candidate",
    "delta": "value.weight",
    "buckets": "directions",
}
PLAIN = BaselineConfig(
    embedding_dim=4, units=6, slots=4, history_product=True, attention_units=7, head_units=(11, 9), head_norm="batch"
)
FULL = replace(
    PLAIN,
    head="deepfm",
    head_norm="none",
    sketch_category_cells=6,
    sketch_item_cells=13,
    sketch_half_lives=(0, 30),
)
SERVED: tuple[BaselineVariant, ...] = ("gru4rec", "rum")
each_variant = pytest.mark.parametrize(
    "variant", [*SERVED, *(pytest.param(name, marks=pytest.mark.full) for name in VARIANTS[2:])]
)
USERS, EVENTS, CANDIDATES = 5, 60, 9
BundleOf = Callable[[BaselineVariant], Bundle]


def export(model: ClickModel, folder: Path, dtype: BlockType = "float32") -> Bundle:
    facts = WITHOUT if model.fields is None else WITH_FIELDS
    return load_bundle(
        export_any(
            model, ITEM_IDS, CATEGORY_IDS, folder, name="x", version="1", state_dtype=dtype, events=20, facts=facts
        )
    )


def ids(random: np.random.Generator, table: np.ndarray, *shape: int) -> tuple[np.ndarray, torch.Tensor]:
    """Ids, some unknown, and their rows."""
    rows = random.integers(len(table) + 1, size=shape)
    return np.append(np.uint64(999), table)[rows], torch.from_numpy(rows)


def assert_folds_as_windows(bundle: Bundle, model: BaselineModel, tolerance: float) -> None:
    """Fold histories through the bundle alone, and compare its scores with evaluation's of the whole histories."""
    random, step, head = np.random.default_rng(2), StepGraph(bundle), HeadGraph(bundle)
    items, item_rows = ids(random, ITEM_IDS, USERS, EVENTS)
    categories, category_rows = ids(random, CATEGORY_IDS, USERS, EVENTS)
    asked, asked_rows = ids(random, ITEM_IDS, USERS, CANDIDATES)
    kinds, kind_rows = ids(random, CATEGORY_IDS, USERS, CANDIDATES)
    state = np.tile(bundle.initial_state, (USERS, 1))
    for t in range(EVENTS):
        state = step(bundle.vectors(items[:, t], categories[:, t]), state)
    with torch.no_grad():
        score = model.scorer(item_rows, category_rows, torch.full((USERS,), EVENTS))
        want = score(asked_rows, kind_rows).numpy()
    got = np.stack(
        [head(bundle.candidates(asked[u], kinds[u]), state[u], np.empty(0, np.float32)) for u in range(USERS)]
    )
    np.testing.assert_allclose(got, want, atol=tolerance, rtol=0)
    assert got.std(axis=1).min() > 1e-3, "candidates differ"
    assert got.std(axis=0).max() > 1e-3, "users differ"


@cache
def plain(variant: BaselineVariant) -> BaselineModel:
    model = tiny_model(replace(PLAIN, variant=variant))
    assert isinstance(model, BaselineModel)
    return model


@pytest.fixture(scope="module")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """The bundle of a variant, exported once."""
    return cache(lambda variant: export(plain(variant), tmp_path_factory.mktemp(variant)))


@each_variant
def test_events_folded_one_by_one_score_as_windows_do(variant: BaselineVariant, bundle_of: BundleOf) -> None:
    model, bundle = plain(variant), bundle_of(variant)
    assert bundle.layout == user_layout(model.config)
    bundle.golden.verify_step(StepGraph(bundle), bundle.vectors, bundle.initial_state)
    assert_folds_as_windows(bundle, model, 1e-5)


@pytest.mark.parametrize("variant", ["gru4rec", *(pytest.param(name, marks=pytest.mark.full) for name in VARIANTS[1:])])
def test_fields_heads_sketches_and_calibrators_go_with_each_state(variant: BaselineVariant, tmp_path: Path) -> None:
    """Export compares ONNX, PyTorch, the equations, and training's windows, or refuses."""
    rules: ActionRules = {"view": 0.0, "click": 1.0, "cart": 2.5, "purchase": "embedding"}
    plain: ActionRules = {"view": 0.0, "click": 1.0}
    actions = plain if variant == "hashed" else rules
    bundle = export(tiny_model(replace(FULL, variant=variant), actions=actions, with_fields=True), tmp_path)
    assert bundle.sketch is not None
    assert bundle.manifest.calibration == WITH_FIELDS.calibration
    assert {spec.source for spec in bundle.manifest.fields} == {"user", "context", "item"}
    assert [block.name for block in bundle.layout.blocks][1:-3] == [
        block.name for block in user_layout(replace(PLAIN, variant=variant)).blocks[:-2]
    ]


@pytest.mark.full
@pytest.mark.parametrize("variant", ["rum", "delta"])
def test_a_state_may_be_stored_in_float16(variant: BaselineVariant, tmp_path: Path) -> None:
    model = plain(variant)
    bundle = export(model, tmp_path, "float16")
    assert bundle.layout.half_floats
    assert_folds_as_windows(bundle, model, 0.02)


@each_variant
def test_a_graph_of_other_weights_is_refused(variant: BaselineVariant, bundle_of: BundleOf) -> None:
    model, folder = plain(variant), bundle_of(variant).path
    layout = user_layout(model.config)
    step, head = (folder / "step.onnx").read_bytes(), (folder / "head.onnx").read_bytes()
    with torch.no_grad():
        check_parity(model, layout, step, head)
        other = moved(step, f"cell.interest.{STEP_WEIGHTS[variant]}", 0.05)
        assert other != step, "the graph has the weight by this name"
        with pytest.raises(ParityError, match="after folding 40 events one at a time"):
            check_parity(model, layout, other, head)
        other = moved(head, "head.readout.mlp.by_user.bias", 0.05)
        assert other != head, "the graph has the weight by this name"
        with pytest.raises(ParityError, match="scores of"):
            check_parity(model, layout, step, other)


@pytest.mark.parametrize("variant", ["arnn", "sim"])
def test_a_variant_that_reads_the_events_is_refused(variant: BaselineVariant, tmp_path: Path) -> None:
    model = tiny_model(replace(PLAIN, variant=variant))
    with pytest.raises(ExportError, match=f"variant '{variant}' has no served form"):
        export(model, tmp_path)
    with pytest.raises(ConfigError, match="reads the events themselves"):
        user_layout(model.config)
    assert not any(tmp_path.iterdir()), "nothing is written"


def test_the_published_form_is_refused(tmp_path: Path) -> None:
    config = replace(PLAIN, variant="rum", form="official", history_product=False, head_norm="none")
    with pytest.raises(ExportError, match=r"form 'official' of variant 'rum' .* train form 'paper'"):
        export(tiny_model(config), tmp_path)


@pytest.mark.parametrize("variant", ["rum", "delta"])
def test_a_number_of_slots_whose_bits_depend_on_the_wave_is_refused(variant: BaselineVariant, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"5 slots .* train with a multiple of 4"):
        export(tiny_model(replace(PLAIN, variant=variant, slots=5)), tmp_path)


def test_slots_by_hash_refuse_actions_that_would_change_the_slot(tmp_path: Path) -> None:
    model = tiny_model(replace(PLAIN, variant="hashed"), actions={"click": 1.0, "cart": 2.0})
    with pytest.raises(ExportError, match="give every folded action the weight 1"):
        export(model, tmp_path)
