"""A bundle with numbers that are not finite, which would fail requests, is refused and says where they are."""

from __future__ import annotations

import logging
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from mimn.bundle import BundleError, load_bundle
from mimn.bundle.compiled_head import CompiledHead, difference, drawn
from mimn.bundle.graph import HeadGraph, open_head, open_step
from mimn.bundle.non_finite import check_scores
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.rows.library import library
from mimn.rows.onnx_file import weights
from rtp.runtime import load_model
from support import skips
from support.bundles import FIXTURES, LEDGER, SKETCH, TINY, again, before_last, with_overflowing_head, with_table
from uic.rollout.planning import read_release

FIELDS = FIXTURES / "bundle_tiny_fields/tiny-fields/1"
DIN_FIELDS = FIXTURES / "bundle_tiny_din_fields/tiny-din-fields/1"
DIN = FIXTURES / "bundle_tiny_din/tiny-din/1"
BAD = [np.nan, -np.inf]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("of", "file", "said"),
    [
        (TINY, "items.vectors.npy", r"items: 1 of .* id \d+"),
        (SKETCH, "categories.vectors.npy", "categories: 1 of"),
        (DIN_FIELDS, "items.candidates.npy", "items as candidates: 1 of"),
        (FIELDS, "fields.vectors.npy", r"fields\.vectors\.npy"),
        (TINY, "initial_state.npy", r"initial_state\.npy"),
        (LEDGER, "table.statistics.npy", "statistics"),
    ],
)
def test_a_table_with_a_number_that_is_not_finite_is_refused(
    of: Path, file: str, said: str, bad: float, tmp_path: Path
) -> None:
    numbers = np.array(np.load(of / file))
    numbers[-1] = bad
    path = with_table(tmp_path, of, file, numbers)
    for read in (load_bundle, load_model, lambda path: read_release(path, 0)):
        with pytest.raises(BundleError, match=said):
            read(path)


def test_the_vector_of_unknown_ids_is_named_as_such(tmp_path: Path) -> None:
    numbers = np.array(np.load(TINY / "items.vectors.npy"))
    numbers[0] = np.nan
    with pytest.raises(BundleError, match="such as that of an unknown id"):
        load_bundle(with_table(tmp_path, TINY, "items.vectors.npy", numbers))


@pytest.mark.parametrize("of", [TINY, SKETCH, LEDGER, DIN], ids=lambda of: of.parent.name)
def test_a_head_that_overflows_beside_the_golden_cases_is_refused(of: Path, tmp_path: Path) -> None:
    path = with_overflowing_head(tmp_path, of, "9")
    bundle = load_bundle(path)
    assert np.isfinite(bundle.golden.scores).all()
    for read in (lambda path: open_head(load_bundle(path)), load_model, lambda path: read_release(path, 0)):
        with pytest.raises(BundleError, match=r"gives \d+ of 128 candidates a score that is not finite, such as item"):
            read(path)


def weighted(graph: bytes, name: str, numbers: list[float], *, read: bool = True) -> bytes:
    """The graph with one more constant, which a node may read, and no score depends on."""
    model = onnx.load_from_string(graph)
    model.graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.float32), name))
    if read:
        model.graph.node.append(onnx.helper.make_node("Identity", [name], [f"{name}.read"]))
    return bytes(model.SerializeToString())


def test_a_weight_that_is_nan_is_refused_by_its_name(tmp_path: Path) -> None:
    head = weighted((TINY / "head.onnx").read_bytes(), "gate.weight", [1.0, np.nan, 2.0])
    with pytest.raises(BundleError, match=r"head\.onnx: the weight 'gate.weight' has a NaN"):
        open_head(load_bundle(again(tmp_path, TINY, version="9", head=head)))


@pytest.mark.parametrize("several", [False, True])
def test_a_weight_that_a_branch_reads_is_looked_at(several: bool) -> None:
    made = onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [1])
    branch = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["deep"], ["made"])], "branch", [], [made])
    node = onnx.helper.make_node("If", ["yes"], ["out"])
    node.attribute.append(onnx.helper.make_attribute("branches", [branch] if several else branch))
    deep = numpy_helper.from_array(np.array([np.nan], np.float32), "deep")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], [made], [deep]))
    assert [name for name, _ in weights(model.SerializeToString())] == ["deep"]


def test_scores_that_an_infinite_weight_makes_infinite_name_it(tmp_path: Path) -> None:
    model, before, last = before_last(TINY)
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.inf], np.float32), "gate.weight"))
    model.graph.node.append(onnx.helper.make_node("Add", [before, "gate.weight"], [last]))
    path = again(tmp_path, TINY, version="9", head=model.SerializeToString())
    with pytest.raises(BundleError, match=r"not finite, such as item .* cause is weights .*'gate.weight' is infinite"):
        open_head(load_bundle(path))


def test_the_weights_of_a_step_are_looked_at_too(tmp_path: Path) -> None:
    bundle = load_bundle(TINY)
    (tmp_path / "step.onnx").write_bytes(weighted((TINY / "step.onnx").read_bytes(), "cell.bias", [np.nan]))
    (tmp_path / "head.onnx").write_bytes((TINY / "head.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"step\.onnx: the weight 'cell.bias'"):
        open_step(replace(bundle, path=tmp_path))


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("numbers", [[0.0, -np.inf, -np.inf], [np.inf], [-np.inf, 0.5, np.inf], [-np.inf, 1.0]])
def test_masks_edges_and_bounds_may_have_infinite_numbers(numbers: list[float], read: bool, tmp_path: Path) -> None:
    head = weighted((TINY / "head.onnx").read_bytes(), "edges", numbers, read=read)
    open_head(load_bundle(again(tmp_path, TINY, version="9", head=head)))


def test_drawing_candidates_copies_no_table_of_ids() -> None:
    bundle = load_bundle(TINY)
    ids = np.arange(1, 2_000_001, dtype=np.uint64)
    vectors = np.zeros((len(ids) + 1, bundle.asked_items.width), np.float32)
    bundle = replace(bundle, asked_items=EmbeddingTable(ids, vectors))
    head = HeadGraph(bundle)
    bundle.candidates(ids[:1], ids[:1])  # what the first look-up builds
    for draw in (lambda: check_scores(bundle, head), lambda: drawn(bundle, np.random.default_rng(0), 100)):
        tracemalloc.start()
        try:
            draw()
            most = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert most < ids.nbytes / 4


def test_a_score_that_the_graph_does_not_have_either_is_not_blamed_on_the_processor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    bundle = load_bundle(TINY)
    head = open_head(bundle)
    assert isinstance(head, CompiledHead)
    vectors = np.array(bundle.asked_items.vectors)
    golden = set(bundle.golden.candidate_items.tolist())
    rows = [row for row, of in enumerate(bundle.items.ids.tolist(), 1) if of not in golden]
    vectors[rows] = np.nan
    broken = replace(bundle, asked_items=replace(bundle.asked_items, vectors=vectors))
    with caplog.at_level(logging.WARNING, "mimn.bundle"):
        assert difference(broken, HeadGraph(broken), CompiledHead(broken, HeadGraph(broken), head._kernel)) == ""


def test_words_of_a_ledger_may_look_like_no_number(tmp_path: Path) -> None:
    bundle = load_bundle(LEDGER)
    assert bundle.ledger is not None
    states = np.array(bundle.golden.states)
    states[:, -bundle.ledger.words :].view(np.uint32)[0, -1] = 0xFFC0_0001
    assert np.isnan(states[0, -1])
    load_bundle(again(tmp_path, LEDGER, version="9", golden=replace(bundle.golden, states=states)))


@pytest.mark.parametrize("field", ["states", "scores"])
def test_golden_numbers_that_are_not_finite_are_not_blamed_on_onnxruntime(field: str, tmp_path: Path) -> None:
    golden = load_bundle(TINY).golden
    broken = replace(golden, **{field: getattr(golden, field) * np.float32(np.nan)})
    with pytest.raises(BundleError, match=r"golden\.npz has a number that is not finite"):
        load_bundle(again(tmp_path, TINY, version="9", golden=broken))
