"""A sketch in training, in the graphs and in the fold: three computations of the same counters and scores."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimn.bundle import Bundle, GoldenMismatch, IdSketch, load_bundle
from mimn.bundle.graph import HeadGraph, StepGraph, open_head
from mimn.config import MimnConfig, cell_layout, state_layout
from mimn.data.events import Events
from mimn.data.instances import Instances, Negatives
from mimn.data.vocabulary import EmbeddingIds
from mimn.export import export_bundle
from mimn.nn.graphs import head_graph, step_graph
from mimn.nn.sketch import SketchReader, Touches, window_counts
from mimn.parity import ParityError, check_parity
from mimn.rows.library import library
from mimn.scoring import predict
from mimn.state import Sketch
from mimn.state.sketch import DAY_MS
from parity.paper_models import BASE, CATEGORIES, CONFIGS, ITEMS, small_model

pytestmark = pytest.mark.torch

SIZES = {"sketch_category_cells": 4, "sketch_item_cells": 9, "sketch_half_lives": (0, 3, 40)}
SKETCHES: dict[str, MimnConfig] = {
    "paper": replace(BASE, **SIZES),  # type: ignore[arg-type]
    "pooling": replace(CONFIGS["pooling with context"], **SIZES),  # type: ignore[arg-type]
    "categories alone": replace(BASE, sketch_category_cells=8, sketch_half_lives=(30,)),
    "items alone": replace(BASE, sketch_item_cells=5, sketch_half_lives=(0,), context_features=("hour",)),
}
LIMITS = {"sketch_limit": 3.5, "count_limit": 3.0}  # less than the histories that parity reads
SERVED = ("paper", "pooling", "pooling, limited")
"""Those that `make test` exports."""
SKETCHES |= {f"{name}, limited": replace(config, **LIMITS) for name, config in SKETCHES.items()}  # type: ignore[arg-type]
ITEM_IDS = np.arange(100, 100 + ITEMS, dtype=np.uint64)
CATEGORY_IDS = np.arange(7, 7 + CATEGORIES, dtype=np.uint64)
START = 1_650_000_000_000
BundleOf = Callable[[str], Bundle]


def export(config: MimnConfig, folder: Path, dtype: str = "float32") -> Bundle:
    return load_bundle(
        export_bundle(
            small_model(config),
            ITEM_IDS,
            CATEGORY_IDS,
            folder,
            name="s",
            version="1",
            state_dtype=dtype,  # type: ignore[arg-type]
        )
    )


def counting(bundle: Bundle) -> IdSketch:
    assert bundle.sketch is not None
    return bundle.sketch


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SERVED else pytest.mark.full) for name in SKETCHES],
)
def test_folding_and_scoring_by_graph_is_what_training_computes(name: str, batch: int, bundles: BundleOf) -> None:
    bundle, model = bundles(name), small_model(SKETCHES[name])
    ids, step, head = counting(bundle), StepGraph(bundle), HeadGraph(bundle)
    random, T = np.random.default_rng(batch), 12
    items = np.append(np.uint64(2**63), ITEM_IDS)[random.integers(ITEMS + 1, size=(batch, T))]
    categories = np.append(np.uint64(999), CATEGORY_IDS)[random.integers(CATEGORIES + 1, size=(batch, T))]
    times = START + np.sort(random.integers(100 * DAY_MS, size=(batch, T)))
    now = START + 100 * DAY_MS + random.integers(9 * DAY_MS, size=batch)
    state = np.tile(bundle.initial_state, (batch, 1))
    rest = ids.sketch.rest
    for t in range(T):
        state[:, rest] = step(bundle.vectors(items[:, t], categories[:, t]), np.ascontiguousarray(state[:, rest]))
        ids.sketch.add(state, ids.addresses(items[:, t], categories[:, t]), ids.sketch.moments(times[:, t]))

    asked = items[:, :5].reshape(-1), categories[:, 4:9].reshape(-1)
    addresses = ids.addresses(items.reshape(-1), categories.reshape(-1)).reshape(batch, T, -1)
    candidates = ids.addresses(*asked).reshape(batch, 1, 5, -1)
    touches = Touches(
        addresses=torch.from_numpy(addresses),
        times=torch.from_numpy(times),
        candidate_addresses=torch.from_numpy(candidates),
        now=torch.from_numpy(now)[:, None],
    )
    context = torch.zeros(batch, len(model.config.context_features))
    rows = [
        torch.from_numpy(table.rows(i).astype(np.int64))
        for table, i in zip((bundle.items, bundle.categories), asked, strict=True)
    ]
    with torch.no_grad():
        events = [
            torch.from_numpy(table.rows(i.reshape(-1)).astype(np.int64)).view(batch, T)
            for table, i in ((bundle.items, items), (bundle.categories, categories))
        ]
        unrolled = model.unroll(events[0], events[1])[:, -1]
        counts = model.counts(touches, torch.full((batch, 1), T))
        assert counts is not None
        want = model.score(unrolled, rows[0].view(batch, 5), rows[1].view(batch, 5), context, counts[:, 0]).numpy()
    np.testing.assert_allclose(state[:, rest], unrolled.numpy(), atol=1e-5, rtol=1e-5)
    vectors = bundle.vectors(*asked).reshape(batch, 5, -1)
    for b, moment in enumerate(ids.sketch.moments(now)):
        got = head(vectors[b], state[b], context[b].numpy(), candidates[b, 0], moment)
        np.testing.assert_allclose(got, want[b], atol=2e-3)  # counters are rounded to float16
        cold = head(vectors[b], bundle.initial_state, context[b].numpy(), candidates[b, 0], moment)
        assert np.abs(cold - got).max() > 1e-3, "the state matters"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """The bundle of a name, exported once: ONNX, PyTorch and the equations are compared at every batch size."""
    return cache(lambda name: export(SKETCHES[name], tmp_path_factory.mktemp("sketch")))


@settings(max_examples=30)
@given(st.data())
def test_sums_over_a_window_are_what_counters_hold_at_every_position(data: st.DataObject) -> None:
    sketch = Sketch(4, 5, (0, 3, 40))
    T, limit = data.draw(st.integers(1, 30)), data.draw(st.sampled_from([0.0, 0.5, 8.0]))
    seed = data.draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    items, rows = random.integers(9, size=T).astype(np.uint64), random.integers(7, size=T)
    times = START + random.integers(data.draw(st.sampled_from([1, 1000, 300 * DAY_MS])), size=T)  # in any order
    positions = np.arange(T + 1)
    now = int(times.max()) + random.integers(20 * DAY_MS, size=T + 1)
    addresses, moments = sketch.addresses_of(items, rows), sketch.moments(times)
    asked = sketch.addresses_of(np.arange(9, dtype=np.uint64), np.arange(9) % 7)
    touches = Touches(
        addresses=torch.from_numpy(addresses)[None],
        times=torch.from_numpy(times)[None],
        candidate_addresses=torch.from_numpy(asked).expand(1, T + 1, -1, -1),
        now=torch.from_numpy(now)[None],
    )
    sums = window_counts(sketch, touches, torch.from_numpy(positions)[None], limit)[0]
    state, reader = np.zeros((1, sketch.values + 3), np.float32), SketchReader(sketch, limit)
    for n in range(T + 1):
        if n:
            sketch.add(state, addresses[n - 1 : n], moments[n - 1 : n])
        moment = torch.from_numpy(sketch.moments(now[n : n + 1]))
        held = reader.counts(torch.from_numpy(state), torch.from_numpy(asked), moment)[0]
        np.testing.assert_allclose(held.numpy(), sums[n].numpy(), rtol=1e-2, atol=1e-4)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_a_longer_history_of_the_same_kind_is_read_as_one_at_the_limit(limit: int, times: int, seed: int) -> None:
    """Counters keep their ratios: a user who did everything `times` as often is read as the user who did it once."""
    sketch, random = Sketch(4, 5, (0, 30)), np.random.default_rng(seed)
    items, rows = random.integers(9, size=limit).astype(np.uint64), random.integers(7, size=limit)
    begin = START // (30 * DAY_MS) * 30 * DAY_MS  # of a period, so every event adds 1, and counters are exact
    addresses, moment = sketch.addresses_of(items, rows), sketch.moments(np.full(limit, begin))
    asked = sketch.addresses_of(np.arange(9, dtype=np.uint64), np.arange(9) % 7)
    read = []
    for often in (1, times):
        state = np.zeros((1, sketch.values + 2), np.float32)
        for n in np.repeat(np.arange(limit), often):
            sketch.add(state, addresses[n : n + 1], moment[n : n + 1])
        folded = torch.from_numpy(state)
        now = torch.from_numpy(sketch.moments(np.array([begin])))
        read.append(SketchReader(sketch, float(limit)).counts(folded, torch.from_numpy(asked), now)[0])
        whole = torch.arange(sketch.row)[:, None]
        total = SketchReader(sketch, float(limit)).counts(folded, whole, now)[0].sum((0, 1))
        np.testing.assert_allclose(total.numpy(), limit, rtol=1e-5)
    np.testing.assert_allclose(read[1].numpy(), read[0].numpy(), rtol=1e-5, atol=1e-5)


def test_a_limit_is_no_part_of_the_state(bundles: BundleOf) -> None:
    """So it can be set, and changed, by a release of the head alone; and the compiled head knows it."""
    limited, bundle = bundles("pooling, limited"), bundles("pooling")
    assert limited.fingerprint == bundle.fingerprint
    assert limited.manifest.files["step.onnx"] == bundle.manifest.files["step.onnx"]
    assert limited.manifest.files["head.onnx"] != bundle.manifest.files["head.onnx"]
    assert open_head(limited).compiled == (library() is not None)


@pytest.mark.parametrize("name", ["paper", "pooling"])
def test_switched_off_it_changes_no_byte(name: str) -> None:
    """The step graph with a sketch is the one without: no graph writes counters."""
    with_sketch = SKETCHES[name]
    without = replace(with_sketch, sketch_category_cells=0, sketch_item_cells=0)
    assert without.sketch is None
    assert state_layout(without) == cell_layout(without) == cell_layout(with_sketch)
    models = [small_model(config) for config in (with_sketch, without)]
    models[1].cell.load_state_dict(models[0].cell.state_dict())
    graphs = [step_graph(model, cell_layout(model.config))[0] for model in models]
    assert graphs[0] == graphs[1]


@pytest.mark.full
def test_float16_states_with_a_sketch_export(tmp_path: Path) -> None:
    bundle = export(SKETCHES["paper"], tmp_path, "float16")
    bundle.golden.verify_step(StepGraph(bundle), bundle.vectors, bundle.initial_state, bundle.sketch)
    assert bundle.layout.half_floats > counting(bundle).sketch.values
    other = IdSketch(replace(counting(bundle).sketch, half_lives=(0, 3, 41)), bundle.categories)
    with pytest.raises(GoldenMismatch, match="state differs"):
        bundle.golden.verify_step(StepGraph(bundle), bundle.vectors, bundle.initial_state, other)


@pytest.mark.full
def test_the_rule_is_part_of_the_fingerprint(bundles: BundleOf, tmp_path: Path) -> None:
    config, bundle = SKETCHES["paper"], bundles("paper")
    other = export(replace(config, sketch_half_lives=(0, 3, 41)), tmp_path)
    assert other.manifest.files["step.onnx"] == bundle.manifest.files["step.onnx"]
    assert other.manifest.state == bundle.manifest.state
    assert other.fingerprint != bundle.fingerprint


def test_a_head_that_reads_the_wrong_cells_is_refused() -> None:
    config = SKETCHES["paper"]
    model = small_model(config)
    step = step_graph(model, cell_layout(config))[0]
    reader = model.head.sketch
    assert isinstance(reader, SketchReader)
    right = reader.forward
    reader.forward = lambda counts: right(counts.flip(-2))  # type: ignore[method-assign]
    with torch.no_grad():
        wrong = head_graph(model, state_layout(config))[0]
    with pytest.raises(ParityError, match=r"scores .* the equations"):
        check_parity(model, state_layout(config), step, wrong)


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 600, 30 * DAY_MS // 1000]))
def test_an_offline_score_is_the_served_one_however_recent_the_events(
    bundles: BundleOf, seed: int, span_s: int
) -> None:
    """Users with up to 300 events in the time until now, now being the moment of the test: folded one event at a time
    through the bundle's graphs, rounded as stored, and scored by its head."""
    bundle, model, random = bundles("paper"), small_model(SKETCHES["paper"]), np.random.default_rng(seed)
    ids, step, head = counting(bundle), StepGraph(bundle), HeadGraph(bundle)
    now, users, length = int(time.time()), 3, 300
    sizes = random.integers(1, length + 1, size=users)
    ends = sizes.cumsum()
    times = np.concatenate([now - np.sort(random.integers(0, span_s, size=size))[::-1] for size in sizes])
    events = Events(
        user_id=np.repeat(np.arange(users), sizes),
        item_id=random.choice(np.append(ITEM_IDS, 5), size=ends[-1]).astype(np.int64),
        category_id=random.choice(np.append(CATEGORY_IDS, 999), size=ends[-1]).astype(np.int64),
        timestamp=times,
        basket_id=np.arange(ends[-1]),
    )
    asked = [random.choice(known.astype(np.int64), size=(users, 5)) for known in (ITEM_IDS, CATEGORY_IDS)]
    instances = Instances(
        part=np.zeros(users, np.int64),
        user_id=np.arange(users),
        timestamp=np.full(users, now),
        begin=ends - sizes,
        end=ends,
        last=np.ones(users, bool),
        item=asked[0][:, 0],
        category=asked[1][:, 0],
        negatives={"popularity": Negatives(asked[0][:, 1:], asked[1][:, 1:])},
        unknown=np.zeros(3, np.int64),
    )
    tables = EmbeddingIds(ITEM_IDS.astype(np.int64), CATEGORY_IDS.astype(np.int64))
    offline = predict(model, tables, events, instances, samplings={"popularity": 4}, length=length)["popularity"]

    rest, moment = ids.sketch.rest, ids.sketch.moments(np.array([now * 1000]))[0]
    for user, (begin, end) in enumerate(zip(instances.begin, instances.end, strict=True)):
        state = bundle.initial_state.copy()[np.newaxis]
        for at in range(begin, end):
            event = events.item_id[at : at + 1].astype(np.uint64), events.category_id[at : at + 1].astype(np.uint64)
            state[:, rest] = step(bundle.vectors(*event), np.ascontiguousarray(state[:, rest]))
            ids.sketch.add(state, ids.addresses(*event), ids.sketch.moments(events.timestamp[at : at + 1] * 1000))
            state = bundle.layout.round(state)
        wanted = asked[0][user].astype(np.uint64), asked[1][user].astype(np.uint64)
        served = head(bundle.vectors(*wanted), state[0], np.zeros(0, np.float32), ids.addresses(*wanted), moment)
        np.testing.assert_allclose(offline.reshape(users, -1)[user], served, atol=1e-5, rtol=0)
