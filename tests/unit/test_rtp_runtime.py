"""The model: right numbers, whatever stands beside a candidate and however many there are."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from mimn.bundle.graph import HeadGraph, SequenceHead
from rtp.core.request import MAX_CANDIDATES
from rtp.errors import ScoringFailed
from rtp.runtime import BUCKETS, OnnxModel, load_model

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "bundle_tiny/tiny/1"
CONTEXT = FIXTURES / "bundle_tiny_context/tiny-context/1"
SKETCH = FIXTURES / "bundle_tiny_sketch/tiny-sketch/1"
LEDGER = FIXTURES / "bundle_tiny_ledger/tiny-ledger/1"
DIEN = FIXTURES / "bundle_tiny_dien/tiny-dien/1"
DIN = FIXTURES / "bundle_tiny_din/tiny-din/1"
FIELDS = FIXTURES / "bundle_tiny_fields/tiny-fields/1"
DIN_FIELDS = FIXTURES / "bundle_tiny_din_fields/tiny-din-fields/1"
NOW = 1_700_000_000_000


@cache
def loaded(path: Path) -> tuple[Bundle, OnnxModel]:
    bundle = load_bundle(path)
    return bundle, OnnxModel(bundle)


def expected(path: Path, items: NDArray[np.uint64], categories: NDArray[np.uint64]) -> NDArray[np.float32]:
    """Each candidate scored alone, without padding, for the first golden user."""
    bundle, _ = loaded(path)
    head, golden = HeadGraph(bundle), bundle.golden
    vectors = bundle.vectors(items, categories)
    return np.concatenate([head(vectors[i : i + 1], golden.states[0], golden.context[0]) for i in range(len(items))])


@pytest.mark.parametrize(
    "path", [TINY, CONTEXT, SKETCH, LEDGER, DIEN, DIN, FIELDS, DIN_FIELDS], ids=lambda path: path.parent.name
)
def test_the_golden_scores_come_out_of_the_padded_path(path: Path) -> None:
    bundle, model = loaded(path)
    golden = bundle.golden
    times = [NOW] * len(golden.states) if golden.now is None else golden.now.tolist()
    for state, context, now, scores in zip(golden.states, golden.context, times, golden.scores, strict=True):
        got = model.score(golden.candidate_items, golden.candidate_categories, state, context, now)
        want = bundle.manifest.calibration.apply(scores.astype(np.float64))
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_every_count_from_one_to_the_most_has_a_bucket_that_is_not_much_larger() -> None:
    assert BUCKETS[-1] == MAX_CANDIDATES
    assert list(BUCKETS) == sorted(set(BUCKETS))
    for count in range(24, MAX_CANDIDATES + 1):
        bucket = next(bucket for bucket in BUCKETS if bucket >= count)
        assert bucket <= count * 1.3


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 25)), min_size=1, max_size=70))
def test_a_score_depends_on_no_other_candidate_and_on_no_padding(ids: list[tuple[int, int]]) -> None:
    bundle, model = loaded(CONTEXT)
    items, categories = np.array(ids, np.uint64).T.copy()
    # Leave large numbers where the padding will be.
    model.score(
        np.full(MAX_CANDIDATES, 2**64 - 2, np.uint64), np.zeros(MAX_CANDIDATES, np.uint64), *first_user(bundle), NOW
    )
    together = model.score(items, categories, *first_user(bundle), NOW)
    np.testing.assert_allclose(together, expected(CONTEXT, items, categories), rtol=0, atol=2e-6)
    order = np.argsort(items, kind="stable")
    np.testing.assert_allclose(
        model.score(items[order], categories[order], *first_user(bundle), NOW), together[order], rtol=0, atol=2e-6
    )


def first_user(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return bundle.golden.states[0], bundle.golden.context[0]


def test_the_scores_of_one_request_are_not_changed_by_the_next() -> None:
    bundle, model = loaded(TINY)
    one, other = np.array([3], np.uint64), np.array([10], np.uint64)
    zero = np.zeros(1, np.uint64)
    first = model.score(one, zero, *first_user(bundle), NOW)
    kept = first.copy()
    second = model.score(other, zero, *first_user(bundle), NOW)
    assert not np.array_equal(kept, second)
    assert np.array_equal(first, kept)


def test_a_state_that_gives_no_number_is_named_and_no_score() -> None:
    bundle, model = loaded(TINY)
    state = np.full(bundle.layout.floats, np.nan, np.float32)
    with pytest.raises(ScoringFailed):
        model.score(np.array([3], np.uint64), np.zeros(1, np.uint64), state, np.zeros(0, np.float32), NOW)


def test_a_state_of_the_wrong_size_is_named_and_no_score() -> None:
    _, model = loaded(TINY)
    with pytest.raises(ScoringFailed):
        model.score(
            np.array([3], np.uint64), np.zeros(1, np.uint64), np.zeros(1, np.float32), np.zeros(0, np.float32), NOW
        )


def test_a_bundle_that_computes_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = HeadGraph.__call__
    monkeypatch.setattr(HeadGraph, "__call__", lambda *given, **named: real(*given, **named) + np.float32(1e-3))
    with pytest.raises(GoldenMismatch):
        load_model(TINY)


def test_a_link_is_followed_when_it_is_loaded_and_a_changed_file_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(TINY)
    assert load_model(link).version == "1"
    copy = tmp_path / "tiny/1"
    shutil.copytree(TINY, copy)
    (copy / "head.onnx").write_bytes((copy / "head.onnx").read_bytes()[:-1] + b"x")
    link.unlink()
    link.symlink_to(copy)
    with pytest.raises(BundleError, match=r"head\.onnx"):
        load_model(link)


def test_a_candidate_that_was_touched_lately_is_scored_by_when_the_request_comes() -> None:
    bundle, model = loaded(SKETCH)
    golden = bundle.golden
    assert golden.now is not None
    state, context = first_user(bundle)
    items, categories, now = golden.items[0][-1:], golden.categories[0][-1:], int(golden.now[0])
    scores = [
        float(model.score(items, categories, state, context, now + days * 86_400_000)[0])
        for days in (0, 30, 3000, 4000)
    ]
    assert abs(scores[0] - scores[1]) > 1e-4, "decayed counters are read at the request's time"
    assert abs(scores[2] - scores[3]) < 1e-6, "once nothing is left of them, time changes nothing"


def test_the_cells_of_an_earlier_request_do_not_stay_in_the_bucket() -> None:
    bundle, model = loaded(SKETCH)
    golden = bundle.golden
    state, context = first_user(bundle)
    first = model.score(golden.candidate_items, golden.candidate_categories, state, context, NOW)
    model.score(golden.items[1][:9], golden.categories[1][:9], state, context, NOW)
    again = model.score(golden.candidate_items, golden.candidate_categories, state, context, NOW)
    np.testing.assert_array_equal(first, again)


def test_what_a_list_costs_is_first_estimated_for_a_full_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths: list[float] = []
    real = SequenceHead.__call__

    def spied(head: SequenceHead, candidates: Any, state: Any, context: Any) -> Any:
        lengths.append(float(state[0]))
        return real(head, candidates, state, context)

    monkeypatch.setattr(SequenceHead, "__call__", spied)
    bundle = load_bundle(DIEN)
    OnnxModel(bundle)
    assert bundle.event_list is not None
    assert lengths[-len(BUCKETS) :] == [bundle.event_list.capacity] * len(BUCKETS)


@pytest.mark.parametrize("rows", [1e6, -1e6], ids=["above", "below"])
def test_a_list_that_names_no_row_of_the_tables_is_named_and_no_score(rows: float) -> None:
    bundle, model = loaded(DIEN)
    assert bundle.event_list is not None
    state = bundle.event_list.longest()
    state[-2:] = rows
    with pytest.raises(ScoringFailed):
        model.score(np.array([3], np.uint64), np.zeros(1, np.uint64), state, np.zeros(0, np.float32), NOW)
