"""A ledger in training, in the graphs and in the fold: one arithmetic, and what a new bundle does to states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from mimn.bundle import Bundle, BundleError, GoldenMismatch, load_bundle
from mimn.bundle.graph import HeadGraph, StepGraph, open_head, open_step
from mimn.bundle.item_table import ItemTable
from mimn.bundle.manifest import Manifest, decode_manifest, encode_manifest, fingerprint_of, fingerprints_of_parts
from mimn.config import MimnConfig
from mimn.data import ledger_reads, synthetic
from mimn.data.events import DataError
from mimn.data.instances import build_instances
from mimn.data.item_statistics import ItemTypes, TableSizes, fold_tables, item_table, item_types
from mimn.data.ledger_reads import LedgerReader, Questions, ledger_model
from mimn.data.prepared import Side
from mimn.data.split import parts_of
from mimn.data.vocabulary import EmbeddingIds, build_vocabulary
from mimn.data.windows import WindowPlan, WindowSampler
from mimn.export import ExportError, RunFacts, export_bundle
from mimn.export.untrained import drawn_table
from mimn.nn.model import BatchError, MimnModel
from mimn.rows.library import library
from mimn.scoring import predict
from mimn.state import Ledger
from parity.paper_models import BASE, CATEGORIES, CONFIGS, ITEMS, small_model
from support import skips

pytestmark = pytest.mark.torch

SIZES = {"ledger_buckets": 4, "ledger_types": ("category",), "ledger_vectors": 3}
PAIRED = SIZES | {"ledger_neighbors": 2}
LEDGERS: dict[str, MimnConfig] = {
    "paper": replace(BASE, **SIZES),  # type: ignore[arg-type]
    "pooling with a sketch": replace(CONFIGS["pooling with context"], sketch_category_cells=4, **PAIRED),  # type: ignore[arg-type]
    "nothing else": MimnConfig(
        variant="ledger",
        memory_induction=False,
        utilization=False,
        embedding_dim=BASE.embedding_dim,
        head_units=BASE.head_units,
        **SIZES,  # type: ignore[arg-type]
    ),
    "some reads": replace(BASE, ledger_reads=("own", "static"), context_features=("hour",), **SIZES),  # type: ignore[arg-type]
}
BundleOf = Callable[[str], Bundle]
NO_FIELDS = Side(np.zeros(0, np.int64), {})
ITEM_IDS = np.arange(100, 100 + ITEMS, dtype=np.uint64)
CATEGORY_IDS = np.arange(7, 7 + CATEGORIES, dtype=np.uint64)


def export(config: MimnConfig, folder: Path, *, seed: int = 0, dtype: str = "float32") -> Bundle:
    model = small_model(config)
    if seed:
        for parameter in model.parameters():
            parameter.data.add_(0.01 * seed)
    table = drawn_table(config, ITEM_IDS, np.random.default_rng(seed))
    return load_bundle(
        export_bundle(
            model,
            ITEM_IDS,
            CATEGORY_IDS,
            folder,
            name="l",
            version="1",
            state_dtype=dtype,  # type: ignore[arg-type]
            facts=RunFacts(table=table),
        )
    )


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> BundleOf:
    """The bundle of a name, exported once: ONNX, PyTorch and the equations are compared at every batch size."""
    return cache(lambda name: export(LEDGERS[name], tmp_path_factory.mktemp("ledger")))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.full) if name == "some reads" else name for name in LEDGERS]
)
def test_golden_cases_cover_the_ledger(name: str, bundles: BundleOf) -> None:
    bundle = bundles(name)
    ledger, reads = bundle.ledger, bundle.reads
    assert ledger is not None
    assert reads is not None
    bundle.golden.verify_step(open_step(bundle), bundle.events, bundle.initial_state, bundle.sketch, ledger)
    bundle.golden.verify_head(open_head(bundle), bundle.vectors, bundle.initial_state, bundle.sketch, reads)
    other = replace(reads, table=replace(reads.table, statistics=reads.table.statistics + np.float32(1)))
    with pytest.raises(GoldenMismatch, match="score"):
        bundle.golden.verify_head(open_head(bundle), bundle.vectors, bundle.initial_state, bundle.sketch, other)
    touched = replace(bundle.golden, states=bundle.golden.states.copy())
    ledger.of(touched.states)[0, 0] ^= 1
    with pytest.raises(GoldenMismatch, match="ledgers differ"):
        touched.verify_step(open_step(bundle), bundle.events, bundle.initial_state, bundle.sketch, ledger)


def test_float16_states_with_a_ledger_export(tmp_path: Path) -> None:
    bundle = export(LEDGERS["paper"], tmp_path, dtype="float16")
    assert bundle.layout.half_floats > 0
    assert bundle.layout.blocks[-1].dtype == "uint32"
    bundle.golden.verify_step(StepGraph(bundle), bundle.vectors, bundle.initial_state, None, bundle.ledger)


def test_offline_scores_are_the_served_ones(tmp_path: Path) -> None:
    """Evaluation's scores are those of the bundle's graphs over states that were folded event by event."""
    config = replace(LEDGERS["paper"], ledger_buckets=8)
    events = synthetic.make()
    train = parts_of(events.users, None) == 0
    vocabulary = build_vocabulary(events, train)
    ids = vocabulary.embedding_ids(1)
    model = MimnModel(config, len(ids.items) + 1, len(ids.categories) + 1)
    known = ledger_model(config)
    assert known is not None
    table = item_table(events, train, item_types(events, NO_FIELDS, ("category",)), TableSizes(3, 1))
    instances = build_instances(events).of("test")
    instances = instances.select(np.arange(len(instances)) < 6)
    offline = predict(model, ids, events, instances, samplings={"popularity": 3}, length=60, table=table)["popularity"]
    bundle = load_bundle(
        export_bundle(
            model,
            ids.items.astype(np.uint64),
            ids.categories.astype(np.uint64),
            tmp_path,
            name="l",
            version="1",
            facts=RunFacts(table=table),
        )
    )
    ledger, reads, step, head = bundle.ledger, bundle.reads, StepGraph(bundle), HeadGraph(bundle)
    assert ledger is not None
    assert reads is not None
    candidates = instances.candidates("popularity", 3)
    asked = candidates.item.reshape(6, 4).astype(np.uint64), candidates.category.reshape(6, 4).astype(np.uint64)
    for i in range(6):
        state = bundle.initial_state[np.newaxis].copy()
        for row in range(max(int(instances.begin[i]), int(instances.end[i]) - 60), int(instances.end[i])):
            event = events.item_id[row : row + 1].astype(np.uint64), events.category_id[row : row + 1].astype(np.uint64)
            state[:, bundle.rest] = step(bundle.vectors(*event), np.ascontiguousarray(state[:, bundle.rest]))
            ledger.add(state, ledger.keys(event[0]), events.timestamp[row : row + 1] * 1000)
        now = int(instances.timestamp[i]) * 1000
        read = reads.read(ledger.of(state[0]), asked[0][i], now)
        served = head(bundle.vectors(asked[0][i], asked[1][i]), state[0], np.zeros(0, np.float32), reads=read)
        np.testing.assert_allclose(offline.reshape(6, 4)[i], served, atol=1e-5)


def test_training_reads_each_window_as_a_fold_of_its_events_and_by_the_table_without_the_user() -> None:
    config = replace(LEDGERS["paper"], ledger_buckets=8)
    events, known = synthetic.make(), ledger_model(config)
    assert known is not None
    train = parts_of(events.users, None) == 0
    vocabulary = build_vocabulary(events, train)
    groups, tables = fold_tables(
        events, train, item_types(events, NO_FIELDS, ("category",)), TableSizes(3, 1), groups=3
    )
    plan = WindowPlan(length=50, per_user=2, occasions=4, min_history=5, negatives=2)
    sampler = WindowSampler(
        events,
        vocabulary,
        vocabulary.embedding_ids(1),
        train,
        plan,
        ledger=LedgerReader([known.reads(of) for of in tables], events, groups),
    )
    batches = list(sampler.epoch(np.random.default_rng(0), 8))
    assert len(batches) > 8, "more than one group of batches is read together"
    for batch in batches[:: len(batches) // 4]:
        assert batch.reads is not None
        for w in range(0, len(batch.length), 3):
            p = int(np.argmax(batch.weight[w]))
            start, position = int(batch.start[w]), int(batch.position[w, p])
            table = tables[groups[events.user_index[start]]]
            target = batch.target[w, p]
            ids = np.array([[events.item_id[target], *batch.drawn_id[w, p]]])
            now = events.timestamp[[target]] * events.unit_ms
            asked = Questions(np.zeros(1, int), np.array([position]), ids, now)
            one = LedgerReader([known.reads(table)], events).read(np.array([start]), np.array([position]), asked)
            np.testing.assert_array_equal(batch.reads[w, p], one[0])


def test_what_is_read_has_the_same_bits_without_a_c_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    if library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    known, events = ledger_model(replace(LEDGERS["paper"], ledger_buckets=2)), synthetic.make()
    assert known is not None
    users = np.ones(len(events.users), np.bool_)
    table = item_table(events, users, item_types(events, NO_FIELDS, ("category",)), TableSizes(3, 1))
    random = np.random.default_rng(0)
    start, length = events.bounds[:-1], np.diff(events.bounds)
    history = random.integers(len(start), size=300)
    position = (random.random(300) * (length[history] + 1)).astype(np.int64)
    times = events.timestamp[np.minimum(start[history] + position, len(events.timestamp) - 1)] * events.unit_ms
    asked = Questions(history, position, random.choice(events.item_id, (300, 3)), times)
    reader = LedgerReader([known.reads(table)], events)
    compiled = reader.read(start, length, asked)
    monkeypatch.setattr(ledger_reads, "library", lambda: None)
    np.testing.assert_array_equal(reader.read(start, length, asked).view(np.uint32), compiled.view(np.uint32))


def test_a_users_own_events_are_in_no_table_that_trains_on_them() -> None:
    events = synthetic.make()
    train = parts_of(events.users, None) == 0
    types = ItemTypes((), np.zeros(0, np.int64), np.zeros((0, 0), np.int32))
    groups, tables = fold_tables(events, train, types, TableSizes(2, 1), groups=4)
    for g, table in enumerate(tables):
        others = train & (groups != g)
        items = np.unique(events.item_id[others[events.user_index]])
        np.testing.assert_array_equal(table.ids, items.astype(np.uint64))
        users = np.array(
            [np.unique(events.user_index[(events.item_id == i) & others[events.user_index]]).size for i in items]
        )
        np.testing.assert_allclose(np.expm1(table.statistics[1:, 1]) * others.sum() / 1000, users, rtol=1e-4)


def test_a_retrained_bundle_keeps_its_ledger_alone(bundles: BundleOf, tmp_path: Path) -> None:
    first = bundles("pooling with a sketch")
    again = export(LEDGERS["pooling with a sketch"], tmp_path, seed=1)
    one, two = (parts(bundle.manifest) for bundle in (first, again))
    assert (one["ledger"], one["sketch"]) == (two["ledger"], two["sketch"])
    assert one["rest"] != two["rest"]
    assert first.fingerprint != again.fingerprint


@pytest.mark.full
def test_a_larger_ledger_changes_no_other_part(bundles: BundleOf, tmp_path: Path) -> None:
    larger = parts(export(replace(LEDGERS["pooling with a sketch"], ledger_buckets=5), tmp_path).manifest)
    one = parts(bundles("pooling with a sketch").manifest)
    assert one["sketch"] == larger["sketch"]
    assert one["ledger"] != larger["ledger"]
    alone = export(replace(LEDGERS["nothing else"], ledger_buckets=5), tmp_path / "alone")
    assert alone.fingerprint != bundles("nothing else").fingerprint


def parts(manifest: Manifest) -> dict[str, str]:
    assert manifest.ledger is not None
    return fingerprints_of_parts(manifest, manifest.ledger)


def test_newer_statistics_and_a_new_head_keep_every_state(bundles: BundleOf, tmp_path: Path) -> None:
    first = bundles("paper")
    model, table = small_model(LEDGERS["paper"]), drawn_table(LEDGERS["paper"], ITEM_IDS, np.random.default_rng(5))
    for parameter in model.head.mlp.parameters():
        parameter.data.mul_(1.5)
    again = load_bundle(
        export_bundle(model, ITEM_IDS, CATEGORY_IDS, tmp_path, name="l", version="2", facts=RunFacts(table=table))
    )
    assert again.manifest.files != first.manifest.files
    assert again.fingerprint == first.fingerprint


def test_of_a_ledger_alone_every_new_model_is_a_new_head(bundles: BundleOf, tmp_path: Path) -> None:
    """Other weights, other vocabularies, another width of vectors: the states that are stored stay valid."""
    config, first = LEDGERS["nothing else"], bundles("nothing else")
    wider = MimnModel(replace(config, embedding_dim=config.embedding_dim + 1), 5, 4)
    other = load_bundle(
        export_bundle(
            wider,
            ITEM_IDS[:4],
            CATEGORY_IDS[:3],
            tmp_path,
            name="l",
            version="3",
            facts=RunFacts(table=drawn_table(config, ITEM_IDS[:4], np.random.default_rng(3))),
        )
    )
    assert other.fingerprint == first.fingerprint
    state, ids = first.golden.states[0], (other.items.ids, other.categories.ids[[0, 1, 2, 0]])
    assert other.reads is not None
    read = other.reads.read(other.reads.ledger.of(state), ids[0], 1_700_000_000_000)
    scores = open_head(other)(other.vectors(*ids), state, np.zeros(0, np.float32), reads=read)
    assert np.isfinite(scores).all()
    assert scores.std() > 0


def test_a_bundle_that_does_not_fit_itself_is_refused(bundles: BundleOf) -> None:
    manifest = bundles("paper").manifest
    assert manifest.ledger is not None
    assert manifest.item_table is not None
    broken: dict[str, dict[str, Any]] = {
        "ledger.rule": {"ledger": msgspec.structs.replace(manifest.ledger, rule="x")},
        "ways": {"ledger": msgspec.structs.replace(manifest.ledger, ways=7)},
        "must end with": {"ledger": msgspec.structs.replace(manifest.ledger, buckets=5)},
        "goes together": {"item_table": None},
        "item_table.reads": {"item_table": msgspec.structs.replace(manifest.item_table, reads=("user", "own"))},
        "input `reads`": {"item_table": msgspec.structs.replace(manifest.item_table, reads=("own",))},
    }
    for message, change in broken.items():
        wrong = msgspec.structs.replace(manifest, **change)
        if message == "goes together":
            files = {name: sha for name, sha in wrong.files.items() if not name.startswith("table.")}
            wrong = msgspec.structs.replace(wrong, files=files, sizes=None)
        wrong = msgspec.structs.replace(
            wrong,
            fingerprint=fingerprint_of(
                wrong.state, wrong.input, wrong.fold_version, wrong.files, wrong.sketch, ledger=wrong.ledger
            ),
        )
        with pytest.raises(BundleError, match=message):
            decode_manifest(encode_manifest(wrong))


def test_a_model_with_a_ledger_is_not_scored_or_exported_without_its_table(tmp_path: Path) -> None:
    model = small_model(LEDGERS["paper"])
    with pytest.raises(ExportError, match="table of items"):
        export_bundle(model, ITEM_IDS, CATEGORY_IDS, tmp_path, name="l", version="1")
    rows, initial = torch.zeros((1, 2), dtype=torch.int64), model.cell.initial(1)
    with pytest.raises(BatchError, match="reads"):
        model.logits(initial, rows, rows)


def test_ids_of_a_table_may_use_all_bits() -> None:
    ids = np.array([1, 2**63 + 5, 2**64 - 1], np.uint64)
    table = ItemTable(ids, np.ones((4, 6), np.float32), np.zeros((4, 0), np.int32), np.zeros((4, 1), np.float32))
    table.check()
    assert table.rows(np.array([2**64 - 1, 7, 1], np.uint64)).tolist() == [3, 0, 1]
    assert EmbeddingIds.of(ids.astype(np.int64), ids.astype(np.int64)).items.dtype == np.int64
    assert Ledger(2).keys(ids).tags.max() < 1 << 20


def test_types_are_fields_of_items_and_pairs_of_them_and_a_missing_one_is_none() -> None:
    events = synthetic.make()
    items = np.unique(events.item_id)
    makers = np.where(np.arange(len(items)) % 3 == 0, 0, np.arange(len(items)) % 5 + 100).astype(np.uint64)
    side = Side(items[1:], {"maker": makers[1:], "price": np.ones(len(items) - 1)})
    types = item_types(events, side, ("category", "maker", "maker*category"))
    category = {int(i): int(c) for i, c in zip(events.item_id, events.category_id, strict=True)}
    seen: dict[tuple[int, ...], set[int]] = {}
    for i, (of_category, of_maker, pair) in enumerate(types.of(items).tolist()):
        if i == 0 or makers[i] == 0:
            assert (of_maker, pair) == (0, 0)
        else:
            seen.setdefault((category[int(items[i])], int(makers[i])), set()).add(pair)
        assert of_category > 0
    assert all(len(pairs) == 1 for pairs in seen.values())
    assert len(set.union(*seen.values())) == len(seen) > 3
    assert types.of(np.array([-7])).tolist() == [[0, 0, 0]]
    with pytest.raises(DataError, match=r"price.*category, maker"):
        item_types(events, side, ("price",))
