"""The bundle: what is written loads; what was changed, lacks a part or does not fit is refused by name."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle import (
    About,
    BlockSpec,
    BundleError,
    EmbeddingTable,
    FieldData,
    Golden,
    GoldenMismatch,
    GraphFile,
    GraphSpec,
    HeadData,
    StateData,
    StateSpec,
    TensorSpec,
    load_bundle,
    write_bundle,
)
from mimn.bundle.fields import FieldSpec, code_of
from mimn.bundle.manifest import FILES, STATE_FILES, check_countable, decode_manifest, fingerprint_of, shared_blocks
from mimn.bundle.seal import SEAL, seal_of
from mimn.bundle.specs import MANIFEST
from mimn.bundle.vocabulary import UNKNOWN_ID
from mimn.calibration import Platt
from support.bundles import LEDGER, TINY, again, write_manifest

ROOT = Path(__file__).parents[2]
TINY_DIEN = ROOT / "tests/fixtures/bundle_tiny_dien/tiny-dien/1"
SKETCH = ROOT / "tests/fixtures/bundle_tiny_sketch/tiny-sketch/1"
BIG = 2**63 + 11
ITEMS = EmbeddingTable(np.array([3, 8, BIG], np.uint64), np.arange(8, dtype=np.float32).reshape(4, 2))
CATEGORIES = EmbeddingTable(np.array([5], np.uint64), np.arange(6, dtype=np.float32).reshape(2, 3))
GOLDEN_CASES = Golden(
    items=np.array([[3, 4]], np.uint64),
    categories=np.array([[5, 6]], np.uint64),
    states=np.array([[10.0, 14.0, 24.0]], np.float32),
    candidate_items=np.array([8], np.uint64),
    candidate_categories=np.array([5], np.uint64),
    context=np.zeros((1, 0), np.float32),
    scores=np.array([[0.5]], np.float32),
    cold_scores=np.array([0.25], np.float32),
)


STATE = StateData(
    spec=StateSpec("recurrent", (BlockSpec("h", (3,), "float32"),)),
    initial=np.zeros(3, np.float32),
    step=GraphFile(
        b"step", GraphSpec("step.onnx", (TensorSpec("event", ("B", 5)),), (TensorSpec("next_state", ("B", 3)),))
    ),
)
HEAD = HeadData(
    graph=GraphFile(
        b"head", GraphSpec("head.onnx", (TensorSpec("candidates", ("C", 5)),), (TensorSpec("scores", ("C",)),))
    )
)


def write(
    root: Path,
    version: str = "1",
    *,
    head: HeadData = HEAD,
    items: EmbeddingTable = ITEMS,
    golden: Golden = GOLDEN_CASES,
) -> Path:
    return write_bundle(
        root,
        "toy",
        version,
        state=STATE,
        head=head,
        tables=(items, CATEGORIES),
        golden=golden,
        about=About(opset=18, training={"run": "none"}),
    )


@pytest.mark.parametrize("of", [TINY, LEDGER], ids=lambda path: path.parent.name)
def test_string_ids_are_part_of_what_states_mean(of: Path, tmp_path: Path) -> None:
    numbers, strings = load_bundle(of), load_bundle(again(tmp_path, of, ids="string"))
    assert (numbers.text_ids, strings.text_ids) == (False, True)
    assert numbers.fingerprint != strings.fingerprint
    assert not shared_blocks(numbers.manifest, strings.manifest)


def test_what_is_written_loads(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    assert bundle.name == "toy/1"
    assert bundle.layout.floats == 3
    assert len(bundle.fingerprint) == 32
    assert bundle.width == 5
    assert not bundle.items.vectors.flags.writeable


def test_vectors_are_item_then_category_and_unknown_ids_are_row_0(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    got = bundle.vectors(np.array([8, 9, BIG, 2**64 - 1], np.uint64), np.array([5, 5, 0, 5], np.uint64))
    assert got.tolist() == [[4, 5, 3, 4, 5], [0, 1, 3, 4, 5], [6, 7, 0, 1, 2], [0, 1, 3, 4, 5]]


@given(st.sets(st.integers(0, 2**64 - 1), max_size=30), st.lists(st.integers(0, 2**64 - 1), max_size=30))
def test_a_row_is_found_exactly_for_ids_of_the_vocabulary(ids: set[int], others: list[int]) -> None:
    known = sorted(ids)
    table = EmbeddingTable(np.array(known, np.uint64), np.zeros((len(known) + 1, 1), np.float32))
    asked = [*known, *others]
    rows = table.rows(np.array(asked, np.uint64))
    assert rows.tolist() == [known.index(i) + 1 if i in ids else 0 for i in asked]


@given(st.sets(st.integers(0, 2**64 - 2), max_size=5))
def test_ids_are_drawn_of_all_a_table_has_and_unknown_ones(ids: set[int]) -> None:
    table = EmbeddingTable(np.array(sorted(ids), np.uint64), np.zeros((len(ids) + 1, 1), np.float32))
    assert set(table.drawn(np.random.default_rng(0), 200).tolist()) == {*ids, UNKNOWN_ID}


def test_a_bundle_is_never_overwritten_and_nothing_half_written_stays(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    with pytest.raises(BundleError, match="choose another version"):
        write(tmp_path, head=replace(HEAD, graph=HEAD.graph._replace(onnx=b"other")))
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before
    with pytest.raises(BundleError, match="rise strictly"):
        write(tmp_path, "2", items=EmbeddingTable(np.array([8, 3, 4], np.uint64), ITEMS.vectors))
    assert [p.name for p in (tmp_path / "toy").iterdir()] == ["1"]


@pytest.mark.parametrize("file", [*FILES["recurrent"], "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path: Path, file: str) -> None:
    path = write(tmp_path)
    (path / file).unlink()
    with pytest.raises(BundleError, match=file):
        load_bundle(path)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that each test leaves as it is."""
    encoded = replace(GOLDEN_CASES, context=np.zeros((1, 4), np.float32))
    return write(tmp_path_factory.mktemp("written"), head=WITH_FIELDS, golden=encoded)


@given(st.data())
def test_a_changed_byte_of_any_file_is_refused(written: Path, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(sorted(written.iterdir())))
    whole = file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    file.write_bytes(changed)
    try:
        with pytest.raises(BundleError, match=r"copy the bundle again"):
            load_bundle(written)
    finally:
        file.write_bytes(whole)
    load_bundle(written)


@pytest.mark.parametrize(
    "change", [lambda _: b"", lambda seal: seal[:-1], bytes.upper], ids=["empty", "cut", "capitals"]
)
def test_a_damaged_seal_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = write(tmp_path)
    (path / SEAL).write_bytes(change((path / SEAL).read_bytes()))
    with pytest.raises(BundleError, match=rf"{SEAL} .*damaged"):
        load_bundle(path)


def test_the_seal_is_as_sha256sum_writes_it(tmp_path: Path) -> None:
    path = write(tmp_path)
    sha256 = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()
    assert (path / SEAL).read_text() == f"{sha256}  manifest.json\n"
    assert load_bundle(path).sha256 == sha256


def test_a_bundle_from_before_seals_loads_and_says_what_it_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path)
    (path / SEAL).unlink()
    with caplog.at_level("INFO", "mimn.bundle"):
        assert load_bundle(path).name == "toy/1"
    assert f"{path} has no {SEAL}" in caplog.text


BUNDLES = [
    path.parent for folder in ("models/bundles", "tests/fixtures") for path in ROOT.glob(f"{folder}/*/**/{MANIFEST}")
]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_bundle_of_the_repository_is_sealed(bundle: Path) -> None:
    assert (bundle / SEAL).read_bytes() == seal_of((bundle / MANIFEST).read_bytes())


GONE = object()


def edited(manifest: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A manifest with other values at these places; `GONE` removes one."""
    for path, value in changes.items():
        *folders, name = path.split(":")
        into: Any = manifest
        for folder in folders:
            into = into[int(folder)] if isinstance(into, list) else into[folder]
        if value is GONE:
            del into[name]
        elif isinstance(into, list):
            into[int(name)] = value
        else:
            into[name] = value
    return manifest


def a_field(**changes: Any) -> dict[str, Any]:
    return {"fields": [{"name": "hour", "source": "context", "kind": "numeric"} | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state:kind": "set"}, "'set'"),
        ({"state:kind": "sequence", "files:step.onnx": GONE}, "`step` belongs to"),
        ({"step": GONE}, "`step` belongs to"),
        ({"input:rule": "item"}, "input.rule 'item'"),
        ({"schema_version": 3}, "schema_version 3"),
        ({"schema_version": 1, "calibration": {"method": "none"}}, "schema_version 1 has no"),
        (a_field(kind="set"), "'set'"),
        (a_field(deviation=0.0), "context.hour: .*`deviation`"),
        (a_field(kind="categorical", rows=9), r"fields\.codes\.npy, fields\.vectors\.npy"),
        (a_field(source="item"), r"items\.candidates\.npy"),
        (a_field(), "`context` is None, .* 1 values"),
        ({"calibration": {"method": "piecewise", "x": [1.0, 0.0], "y": [0.0, 1.0]}}, "knots must rise"),
        ({"negatives_kept": 0.0}, "`negatives_kept`"),
        ({"fold_versoin": 1}, "fold_versoin"),
        ({"opset": "18"}, "opset"),
        ({"files:../../etc/passwd": "0"}, "unknown files"),
        ({"state:blocks:0:shape": [4]}, "does not follow"),
        ({"fold_version": 99}, "fold_version 99"),
    ],
)
def test_a_manifest_that_cannot_be_served_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path)
    write_manifest(path, edited(json.loads((path / "manifest.json").read_text()), changes))
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


HOUR = FieldSpec(name="hour", source="context", kind="categorical", rows=26, whole=True)
CITY = FieldSpec(name="city", source="user", kind="categorical", rows=4, examples=("Rome", "Oslo"))
PRICE = FieldSpec(name="price", source="item", kind="numeric")
CITIES = np.sort(np.array([code_of(city) for city in CITY.examples], np.uint64))
WITH_FIELDS = HeadData(
    fields=FieldData(
        (CITY, HOUR, PRICE),
        {"city": CITIES},
        np.arange(60, dtype=np.float32).reshape(30, 2),
        np.array([[0.0], [1.5], [2.5], [3.5]], np.float32),
    ),
    graph=GraphFile(
        b"head",
        GraphSpec(
            "head.onnx",
            (TensorSpec("candidates", ("C", 6)), TensorSpec("context", (1, 4))),
            (TensorSpec("scores", ("C",)),),
        ),
    ),
    calibration=Platt(0.5, -1.0),
    negatives_kept=0.25,
)


def test_fields_and_calibration_are_not_in_the_fingerprint(tmp_path: Path) -> None:
    plain = load_bundle(write(tmp_path / "a"))
    encoded = replace(GOLDEN_CASES, context=np.zeros((1, 4), np.float32))
    bundle = load_bundle(write(tmp_path / "b", head=WITH_FIELDS, golden=encoded))
    assert bundle.fingerprint == plain.fingerprint
    assert bundle.manifest.calibration == Platt(0.5, -1.0)
    assert bundle.manifest.negatives_kept == 0.25
    assert bundle.manifest.fields == (CITY, HOUR, PRICE)
    asked = bundle.candidates(np.array([8, 9], np.uint64), np.array([5, 5], np.uint64))
    assert asked.tolist() == [[2.5, 4, 5, 3, 4, 5], [0.0, 0, 1, 3, 4, 5]]
    assert bundle.vectors(np.array([8], np.uint64), np.array([5], np.uint64)).tolist() == [[4, 5, 3, 4, 5]]
    made = bundle.request.vector({"city": "Oslo"}, {"hour": 3})
    row = 2 + int(np.searchsorted(CITIES, code_of("Oslo")))
    assert made.values.tolist() == [2 * row, 2 * row + 1, 8 + 2 * 5, 9 + 2 * 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codes": {"city": CITIES[:1]}}, r"fields\.codes\.npy is uint64 \(1,\)"),
        ({"codes": {"city": CITIES[::-1]}}, "values of city must rise"),
        ({"vectors": np.zeros((29, 2), np.float32)}, "`fields` have 30 rows"),
        ({"vectors": np.zeros((30, 3), np.float32)}, "head's input `context` is .1, 4., .* give 6 values"),
        ({"item_vectors": np.zeros((4, 2), np.float32)}, "head's input `candidates` is .'C', 6., .* give 7 values"),
        ({"item_vectors": np.zeros((4, 1), np.float64)}, "items as candidates: vectors must be float32"),
    ],
)
def test_field_files_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, head=replace(WITH_FIELDS, fields=replace(WITH_FIELDS.fields, **changes)))
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


@given(st.binary(max_size=200))
def test_arbitrary_manifest_bytes_raise_only_the_named_error(data: bytes) -> None:
    with pytest.raises(BundleError):
        decode_manifest(data)


def test_the_fingerprint_covers_what_gives_a_state_its_meaning(tmp_path: Path) -> None:
    manifest = load_bundle(write(tmp_path)).manifest

    def fingerprint(**changed: str) -> str:
        return fingerprint_of(manifest.state, manifest.input, manifest.fold_version, manifest.files | changed)

    assert fingerprint() == manifest.fingerprint
    for file in STATE_FILES["recurrent"]:
        assert fingerprint(**{file: "0" * 64}) != manifest.fingerprint
    assert fingerprint(**{"head.onnx": "0" * 64}) == manifest.fingerprint
    assert fingerprint_of(manifest.state, manifest.input, 2, manifest.files) != manifest.fingerprint
    halved = StateSpec("recurrent", (BlockSpec("h", (3,), "float16"),))
    assert fingerprint_of(halved, manifest.input, 1, manifest.files) != manifest.fingerprint


def test_a_pickled_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    from mimn.bundle.bundle import _array

    with pytest.raises(BundleError, match="not a plain array"):
        _array(path)


def add(events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
    return state + events[:, :3] + events[:, 2:]


def test_golden_cases_accept_the_same_numbers_and_refuse_others(tmp_path: Path) -> None:
    bundle = load_bundle(write(tmp_path))
    first = bundle.vectors(np.array([3], np.uint64), np.array([5], np.uint64))
    second = bundle.vectors(np.array([4], np.uint64), np.array([6], np.uint64))
    states = add(second, add(first, np.zeros((1, 3), np.float32)))
    golden = Golden(**{**vars(GOLDEN_CASES), "states": states})
    golden.verify_step(add, bundle.vectors, bundle.initial_state)
    with pytest.raises(GoldenMismatch, match="state"):
        golden.verify_step(lambda e, s: add(e, s) * np.float32(1.001), bundle.vectors, bundle.initial_state)

    def half(c: NDArray[np.float32], state: NDArray[np.float32], _: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.full(len(c), 0.5 if state.any() else 0.25, np.float32)

    golden.verify_head(half, bundle.vectors, bundle.initial_state)
    with pytest.raises(GoldenMismatch, match="cold score"):
        golden.verify_head(lambda c, s, k: half(c, s + 1, k), bundle.vectors, bundle.initial_state)
    with pytest.raises(GoldenMismatch, match="score"):
        golden.verify_head(lambda c, s, k: half(c, s, k) + np.float32(np.nan), bundle.vectors, bundle.initial_state)


NO_USERS = {name: getattr(GOLDEN_CASES, name)[:0] for name in ("items", "categories", "states", "context", "scores")}
NO_CANDIDATES = {
    "candidate_items": np.empty(0, np.uint64),
    "candidate_categories": np.empty(0, np.uint64),
    "scores": np.empty((1, 0), np.float32),
    "cold_scores": np.empty(0, np.float32),
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (NO_USERS, "no users"),
        (NO_CANDIDATES, "no candidates"),
        ({"scores": np.array([[1.5]], np.float32)}, "from 0 to 1"),
        ({"cold_scores": np.array([-0.25], np.float32)}, "from 0 to 1"),
        ({"scores": np.array([[0.5, 0.5]], np.float32)}, r"scores is float32 \(1, 2\)"),
        ({"scores": np.array([0.5], np.float32)}, r"scores is float32 \(1,\)"),
        ({"items": np.array([[3.0, 4.0]])}, r"items is float64 \(1, 2\)"),
        ({"now": np.zeros(2, np.int64)}, r"now is int64 \(2,\)"),
        ({"requests": np.array([b"{}"])}, r"requests is \|S2 \(1,\)"),
        ({"states": np.zeros((1, 4), np.float32)}, "states have 4 values"),
        ({"context": np.zeros((1, 1), np.float32)}, "context have 1 values"),
    ],
)
def test_golden_cases_that_cannot_prove_the_bundle_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = write(tmp_path, golden=replace(GOLDEN_CASES, **changes))
    with pytest.raises(BundleError, match=rf"golden\.npz.*{message}"):
        load_bundle(path)


EXPORTED: dict[str, NDArray[Any]] = {
    "scores": np.array([[0.1]]),
    "items": np.array([[3, 4]], np.int64),
    "candidate_items": np.array([3], ">u8"),
    "now": np.array([3], np.uint64),
    "actions": np.array([[1, 2]], np.int64),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_golden_arrays_of_another_type_with_the_same_numbers_are_read(tmp_path: Path, name: str) -> None:
    given = EXPORTED[name]
    changed: dict[str, Any] = {name: given}
    read = getattr(load_bundle(write(tmp_path, golden=replace(GOLDEN_CASES, **changed))).golden, name)
    assert read.dtype == (np.float32 if given.dtype.kind == "f" else FORMS[name])
    np.testing.assert_array_equal(read, given.astype(np.float32) if given.dtype.kind == "f" else given)


FORMS = {
    "items": np.uint64,
    "candidate_items": np.uint64,
    "now": np.int64,
    "actions": np.uint8,
}


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("items", np.array([[3, -1]]), r"items is int64 .* that uint64 does not have"),
        ("now", np.array([2**63], np.uint64), "now is uint64 .* that int64 does not have"),
        ("actions", np.array([[1, 257]]), "actions is int64 .* that uint8 does not have"),
        ("times", np.array([[1.5, 2.0]]), r"times is float64 \(1, 2\), and int64 is needed"),
        ("scores", np.array([["0.5"]]), r"scores is <U3 \(1, 1\), and float32 is needed"),
        ("states", np.full((1, 3), 1e300), "golden.npz has a number that is not finite"),
    ],
)
def test_a_golden_number_that_its_type_does_not_have_is_refused(
    tmp_path: Path, name: str, given: NDArray[Any], message: str
) -> None:
    changed: dict[str, Any] = {name: given}
    path = write(tmp_path, golden=replace(GOLDEN_CASES, **changed))
    with pytest.raises(BundleError, match=message):
        load_bundle(path)


def test_scores_that_float32_rounds_to_0_and_1_are_probabilities(tmp_path: Path) -> None:
    edges = replace(GOLDEN_CASES, scores=np.ones((1, 1), np.float32), cold_scores=np.zeros(1, np.float32))
    assert load_bundle(write(tmp_path, golden=edges)).golden.scores.tolist() == [[1.0]]


@given(st.binary(max_size=100), st.integers(0, 3000))
def test_whatever_is_no_archive_of_golden_cases_is_refused_by_name(data: bytes, length: int) -> None:
    whole, array = GOLDEN_CASES.to_bytes(), io.BytesIO()
    np.save(array, np.zeros(3))
    for value in (data, whole[: min(length, len(whole) - 1)], array.getvalue()):
        with pytest.raises((ValueError, KeyError)):
            Golden.from_bytes(value)


@pytest.mark.parametrize("request_", ["{", "[]", "{}", '{"user": {}, "context": {}, "item": {}}', '{"user": {"x": 1}}'])
def test_a_golden_request_that_is_none_of_the_bundle_is_a_mismatch(tmp_path: Path, request_: str) -> None:
    bundle = load_bundle(write(tmp_path))
    golden = replace(GOLDEN_CASES, requests=np.array([request_]))
    with pytest.raises(GoldenMismatch, match="a golden request cannot be read"):
        golden.verify_request(bundle.request.golden_vector)


@pytest.mark.parametrize(
    ("of", "changes", "message"),
    [
        (SKETCH, {"sketch:rule": "other"}, "sketch.rule 'other'"),
        (SKETCH, {"sketch:item_cells": 99}, "`state.blocks` must begin with"),
        (SKETCH, {"sketch:half_lives": []}, "half-lives"),
        (SKETCH, {"sketch:half_lives:1": 99}, "fingerprint .* does not follow"),
        (TINY_DIEN, {"state:blocks:1:shape:1": 3}, "`state.blocks`: a sequence has"),
        (TINY_DIEN, {"state:blocks:1:shape:0": 99}, "fingerprint .* does not follow"),
        (TINY_DIEN, {"files:step.onnx": "0" * 64}, r"unknown files: step\.onnx"),
        (
            TINY_DIEN,
            {"sketch": {"rule": "", "category_cells": 2, "item_cells": 2, "half_lives": [0]}},
            "`sketch` does not go with",
        ),
    ],
)
def test_a_sketch_or_a_list_that_does_not_fit_is_refused(of: Path, changes: dict[str, Any], message: str) -> None:
    manifest = json.loads((of / "manifest.json").read_bytes())
    decode_manifest(json.dumps(manifest).encode())
    with pytest.raises(BundleError, match=message):
        decode_manifest(json.dumps(edited(manifest, changes)).encode())


def test_a_list_outlives_head_and_vectors_and_no_vocabulary() -> None:
    manifest = load_bundle(TINY_DIEN).manifest

    def fingerprint(file: str) -> str:
        files = manifest.files | {file: "0" * 64}
        return fingerprint_of(manifest.state, manifest.input, manifest.fold_version, files)

    kept = {file for file in FILES["sequence"] if fingerprint(file) == manifest.fingerprint}
    assert kept == {"head.onnx", "items.vectors.npy", "categories.vectors.npy", "golden.npz"}


def test_a_vocabulary_that_float32_cannot_count_is_refused() -> None:
    check_countable("items", 2**24)
    with pytest.raises(BundleError, match="items: 16777217 rows"):
        check_countable("items", 2**24 + 1)


# What may not be read


def test_a_bundle_that_was_loaded_does_not_change_when_its_files_are_written_over(tmp_path: Path) -> None:
    folder = write(tmp_path)
    bundle, ids = load_bundle(folder), (np.array([8, 9, BIG], np.uint64), np.array([5, 5, 0], np.uint64))
    before = bundle.vectors(*ids).copy()
    for file in folder.iterdir():
        with file.open("r+b") as cut:  # as `cp` does before it writes; reading a mapped file would end the process
            cut.truncate(10)
    assert np.array_equal(bundle.vectors(*ids), before)


def test_a_size_that_differs_is_refused_before_any_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path)
    (path / "items.vectors.npy").write_bytes(b"")
    monkeypatch.setattr("mimn.bundle.files.hashlib.file_digest", None)
    with pytest.raises(BundleError, match=r"items\.vectors\.npy has 0 bytes"):
        load_bundle(path)


@pytest.mark.parametrize("sizes", [{}, {"head.onnx": 4}])
def test_sizes_are_given_for_all_files_or_none(tmp_path: Path, sizes: dict[str, int]) -> None:
    path = write(tmp_path)
    manifest = json.loads((path / "manifest.json").read_text())
    write_manifest(path, manifest | {"sizes": sizes})
    with pytest.raises(BundleError, match="`sizes`"):
        load_bundle(path)


def test_a_link_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / "..data").mkdir()
    (path / "head.onnx").rename(path / "..data/head.onnx")
    (path / "head.onnx").symlink_to("..data/head.onnx")
    assert load_bundle(path).name == "toy/1"
    (path / "..data/head.onnx").rename(tmp_path / "head.onnx")
    (path / "head.onnx").unlink()
    (path / "head.onnx").symlink_to(tmp_path / "head.onnx")
    with pytest.raises(BundleError, match="leads out of the bundle's folder"):
        load_bundle(path)


def descriptors() -> int:
    """How many this process has; only Linux tells."""
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


@pytest.mark.parametrize("file", ["head.onnx", SEAL])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused_and_not_waited_for(make: Callable[[Path], None], file: str, tmp_path: Path) -> None:
    path = write(tmp_path)
    (path / file).unlink()
    make(path / file)
    before = descriptors()
    with pytest.raises(BundleError, match=rf"{file} is not a regular file"):
        load_bundle(path)
    assert descriptors() == before


@pytest.mark.parametrize("target", ["toy/2", "toys/1", "copy"])
def test_a_folder_of_another_name_is_refused(tmp_path: Path, target: str) -> None:
    moved = tmp_path / "elsewhere" / target
    moved.parent.mkdir(parents=True)
    write(tmp_path).rename(moved)
    with pytest.raises(BundleError, match="toy/1"):
        load_bundle(moved)


def test_a_file_that_the_services_user_may_not_read_is_told_as_that(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refused(path: Any, *how: Any) -> int:  # root may read everything
        if Path(path).name == "head.onnx":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *how)

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(BundleError, match=r"head\.onnx .*Permission denied"):
        load_bundle(TINY_DIEN)
