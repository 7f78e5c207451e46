"""DIEN and DIN as bundles: scores over lists equal PyTorch's at every length, and what would not is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import pytest

import mimn.export.sequence
from fixtures.write_bundles import CATEGORY_IDS, EVENTS, ITEM_IDS, TINY_DIEN, TINY_DIN, tiny_model
from mimn.baselines import BaselineConfig
from mimn.bundle import Bundle, BundleError, load_bundle
from mimn.bundle.graph import LENGTHS, StepGraph, open_head, open_step, padded_length
from mimn.export import ExportError, export_sequence
from mimn.export.__main__ import main
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.checkpoint import save_model
from mimn.nn.graphs import sequence_head_graph
from mimn.parity import ParityError
from mimn.sequence_parity import by_pytorch
from mimn.state import EventList

pytestmark = pytest.mark.torch

FIXTURES = Path(__file__).parents[1] / "fixtures"
TINY = {
    "dien": FIXTURES / "bundle_tiny_dien/tiny-dien/1",
    "din": FIXTURES / "bundle_tiny_din/tiny-din/1",
}
NO_CONTEXT = np.zeros(0, np.float32)
T = 1000


def baseline(config: BaselineConfig) -> BaselineModel:
    model = tiny_model(config)
    assert isinstance(model, BaselineModel)
    return model


def export(model: BaselineModel, root: Path, events: int = EVENTS) -> Bundle:
    return load_bundle(export_sequence(model, ITEM_IDS, CATEGORY_IDS, root, name="one", version="1", events=events))


CONFIGS: dict[str, BaselineConfig] = {
    "dien": TINY_DIEN,
    "dien, norm, no product": BaselineConfig(variant="dien", embedding_dim=3, units=5, head_norm="batch"),
    "din": TINY_DIN,
    "din, norm, no product": BaselineConfig(variant="din", embedding_dim=3, attention_units=5, head_norm="batch"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if "no" in name else name for name in CONFIGS]
)
def test_scores_after_a_log_of_any_length_equal_pytorch(name: str, tmp_path: Path) -> None:
    model = baseline(CONFIGS[name])
    bundle = export(model, tmp_path, T)
    step, head, random = open_step(bundle), open_head(bundle), np.random.default_rng(5)
    known = [np.append(np.uint64(999_999), ids) for ids in (ITEM_IDS, CATEGORY_IDS)]
    for length in (0, 1, 7, 16, 17, 129, 512, 513, T, T + 5):
        events = np.stack([random.integers(len(ids), size=length) for ids in known], -1)
        asked = np.stack([random.integers(len(ids), size=9) for ids in known], -1)
        state = bundle.initial_state[np.newaxis]
        ids = [some[rows] for some, rows in zip(known, events.T, strict=True)]
        for t in range(length):
            state = step(bundle.events(ids[0][t : t + 1], ids[1][t : t + 1]), state)
        vectors = bundle.vectors(known[0][asked[:, 0]], known[1][asked[:, 1]])
        want = by_pytorch(model, events[-T:], asked)
        assert want.std() > 1e-3, "candidates get different scores"
        np.testing.assert_allclose(head(vectors, state[0], NO_CONTEXT), want, atol=1e-5, rtol=0, err_msg=f"{length}")
        alone = [head(vectors[i : i + 1], state[0], NO_CONTEXT)[0] for i in range(2)]
        np.testing.assert_allclose(alone, want[:2], atol=1e-5, rtol=0, err_msg="one candidate alone")


@pytest.mark.parametrize("variant", TINY)
def test_the_order_of_events_matters_to_dien_alone_and_a_longer_history_to_both(variant: str) -> None:
    bundle = load_bundle(TINY[variant])
    head, rule = open_head(bundle), bundle.event_list
    assert rule is not None
    events = np.stack([np.arange(1, 13), np.arange(12) % 7], -1).astype(np.float32)

    def scores(some: Any) -> Any:
        state = np.zeros((1, rule.layout.floats), np.float32)
        for event in some:
            state = rule.append(event[np.newaxis], state)
        return head(bundle.vectors(ITEM_IDS[:5], CATEGORY_IDS[:5]), state[0], NO_CONTEXT)

    moved = np.abs(scores(events) - scores(events[::-1])).max()
    assert moved > 1e-4 if variant == "dien" else moved < 1e-6
    assert np.abs(scores(events) - scores(events[1:])).max() > 1e-4


def test_what_an_earlier_request_read_does_not_stay_in_the_history() -> None:
    bundle = load_bundle(TINY["dien"])
    head, golden = open_head(bundle), bundle.golden
    candidates = bundle.vectors(golden.candidate_items, golden.candidate_categories)
    first = head(candidates, bundle.initial_state, NO_CONTEXT)
    head(candidates, golden.states[0], NO_CONTEXT)
    np.testing.assert_array_equal(head(candidates, bundle.initial_state, NO_CONTEXT), first)


def test_histories_are_padded_to_few_lengths_and_little_longer() -> None:
    padded = [padded_length(length, T) for length in range(T + 1)]
    assert all(length <= more <= T for length, more in enumerate(padded))
    assert padded[0] >= 1, "a graph needs an event, if only a masked one"
    assert len(set(padded)) <= 24
    assert all(more <= 1.26 * length for length, more in enumerate(padded) if length >= LENGTHS[3])


def test_a_graph_that_disagrees_with_pytorch_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = baseline(TINY_DIN)
    exact = sequence_head_graph(model)
    proto = onnx.load_from_string(exact.onnx)
    changed = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    changed.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(changed) * 1.5, changed.name))
    wrong = exact._replace(onnx=proto.SerializeToString())
    monkeypatch.setattr(mimn.export.sequence, "sequence_head_graph", lambda _: wrong)
    with pytest.raises(ParityError, match=r"after \d+ events: ONNX and PyTorch differ"):
        export(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_variant_that_cannot_be_served_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="variant 'arnn' has no served form: export a run of variant 'din'"):
        export(baseline(BaselineConfig(variant="arnn", embedding_dim=4)), tmp_path)


def test_lists_that_keep_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="keep at least 1"):
        export(baseline(TINY_DIN), tmp_path, 0)


def test_the_command_exports_a_run_of_dien_and_refuses_float16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(baseline(TINY_DIEN), tmp_path / "model.safetensors")
    np.save(tmp_path / "items.ids.npy", ITEM_IDS)
    np.save(tmp_path / "categories.ids.npy", CATEGORY_IDS)
    (tmp_path / "metrics.json").write_text("{}")
    told = ["--run", str(tmp_path), "--output", str(tmp_path / "out"), "--name", "one", "--version", "3"]
    assert main([*told, "--events", "33", "--state-dtype", "float16"]) == 1
    assert "--state-dtype float16" in capsys.readouterr().err
    assert main([*told, "--events", "33"]) == 0
    bundle = load_bundle(tmp_path / "out/one/3")
    assert bundle.manifest.state.kind == "sequence"
    assert bundle.event_list == EventList(33)
    assert main([*told, "--events", "33"]) == 1
    assert "never changes" in capsys.readouterr().err


def test_the_length_of_a_list_is_refused_for_a_model_that_has_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ["--output", str(tmp_path / "out"), "--name", "one", "--version", "1", "--events", "5"]
    assert main([*told, "--untrained", "--items", "9", "--categories", "3"]) == 1
    assert "--events 5: the state of this model is no list of events" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit, match="2"):
        main([*told, "--again", str(TINY["din"]), "--weights", str(tmp_path / "model.safetensors")])
    assert "--again keeps how many events a list has" in capsys.readouterr().err


def test_a_step_graph_of_a_sequence_bundle_does_not_exist() -> None:
    with pytest.raises(BundleError, match="no step graph: its states are of kind sequence"):
        StepGraph(load_bundle(TINY["din"]))
