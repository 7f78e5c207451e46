"""The committed bundles load, and this machine's onnxruntime reproduces the numbers that were exported with them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mimn.bundle import Bundle, Golden, GoldenMismatch, load_bundle
from mimn.bundle.graph import StepGraph, open_head, open_step

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
RECURRENT = [
    FIXTURES / "bundle_tiny/tiny/1",
    FIXTURES / "bundle_tiny_context/tiny-context/1",
    FIXTURES / "bundle_tiny_sketch/tiny-sketch/1",
    FIXTURES / "bundle_tiny_ledger/tiny-ledger/1",
    FIXTURES / "bundle_tiny_actions/tiny-actions/1",
    FIXTURES / "bundle_tiny_fields/tiny-fields/1",
]
BUNDLES = Path(__file__).parents[2] / "models/bundles"
SEQUENCES = [
    FIXTURES / "bundle_tiny_dien/tiny-dien/1",
    FIXTURES / "bundle_tiny_din/tiny-din/1",
    FIXTURES / "bundle_tiny_actions_din/tiny-actions-din/1",
    FIXTURES / "bundle_tiny_din_fields/tiny-din-fields/1",
    BUNDLES / "online-retail-dien/1",
    BUNDLES / "online-retail-din/1",
]


@pytest.fixture(params=RECURRENT, ids=lambda path: path.parent.name)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(request.param)


@pytest.fixture(params=[*RECURRENT, *SEQUENCES], ids=lambda path: path.parent.name)
def any_bundle(request: pytest.FixtureRequest) -> Bundle:
    return load_bundle(request.param)


def rest_of(bundle: Bundle) -> slice:
    """What the step graph has of a state."""
    return bundle.rest


def test_golden_cases_hold(any_bundle: Bundle) -> None:
    bundle = any_bundle
    bundle.golden.verify_step(open_step(bundle), bundle.events, bundle.initial_state, bundle.sketch, bundle.ledger)
    bundle.golden.verify_request(bundle.request.vector)
    bundle.golden.verify_head(open_head(bundle), bundle.candidates, bundle.initial_state, bundle.sketch, bundle.reads)


def test_golden_cases_hold_unknown_ids_and_tell_candidates_apart(any_bundle: Bundle) -> None:
    bundle, golden = any_bundle, any_bundle.golden
    assert (bundle.items.rows(golden.items.ravel()) == 0).any()
    assert (bundle.items.rows(golden.items.ravel()) != 0).any()
    assert golden.scores.std(axis=1).min() > 1e-3, "candidates get different scores"
    assert golden.scores.std(axis=0).max() > 1e-3, "users get different scores"


def test_golden_requests_hold_known_unknown_and_missing_values() -> None:
    bundle = load_bundle(RECURRENT[-1])
    assert bundle.golden.requests is not None
    made = [bundle.request.vector(**json.loads(request)) for request in bundle.golden.requests.tolist()]
    assert any(one.unknown for one in made)
    assert any(one.missing for one in made)
    assert len({tuple(one.values.tolist()) for one in made}) == len(made)
    other = replace(bundle.golden, requests=np.roll(bundle.golden.requests, 1))
    with pytest.raises(GoldenMismatch, match="golden request differs"):
        other.verify_request(bundle.request.vector)


def test_a_golden_number_at_an_edge_holds_on_a_machine_that_reads_it_as_the_interval_below() -> None:
    bundle = load_bundle(RECURRENT[-1])

    def golden(age: float, read_as: float) -> Golden:
        read = bundle.request.vector({"age": read_as}, {}).values
        request = json.dumps({"user": {"age": age}, "context": {}})
        return replace(bundle.golden, requests=np.array([request]), context=read[np.newaxis])

    golden(18.0, 17.0).verify_request(bundle.request.vector)
    golden(18.0, 18.0).verify_request(bundle.request.vector)
    for age, read_as in ((18.001, 17.0), (17.999, 18.0), (18.0, 66.0)):
        with pytest.raises(GoldenMismatch, match="golden request differs"):
            golden(age, read_as).verify_request(bundle.request.vector)


def test_dimensions_all_differ(bundle: Bundle) -> None:
    shapes = {block.name: block.shape for block in bundle.layout.blocks}
    assert bundle.width == 8
    assert shapes["controller"] == (6,)
    assert shapes["memory"] == shapes["channels"] == (3, 8)
    assert shapes["shares"] == (3,)
    assert int(bundle.items.ids.max()) > 2**63
    assert len(bundle.manifest.context) in (0, 2)


def test_a_step_counts_and_averages_its_events(bundle: Bundle) -> None:
    step = StepGraph(bundle)
    events = bundle.vectors(bundle.items.ids[:5], bundle.categories.ids[:5])
    state, rest = np.tile(bundle.initial_state, (5, 1)), rest_of(bundle)
    state[:, rest] = step(-3 * events, step(events, state[:, rest]))
    after = bundle.layout.view(state)
    np.testing.assert_array_equal(after["count"], 2)
    np.testing.assert_allclose(after["history_mean"], -events, rtol=1e-6)
    np.testing.assert_allclose(after["shares"].sum(-1), 1, rtol=1e-5)


def test_rows_of_a_batch_do_not_see_each_other(bundle: Bundle) -> None:
    step = StepGraph(bundle)
    events = bundle.vectors(bundle.items.ids[:7], bundle.categories.ids[:7])
    state = step(events[::-1].copy(), np.tile(bundle.initial_state[rest_of(bundle)], (7, 1)))
    together = step(events, state)
    for row in range(7):
        np.testing.assert_allclose(step(events[row : row + 1], state[row : row + 1])[0], together[row], atol=1e-6)
