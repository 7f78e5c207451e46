"""A row program gives the graph's results to the last bit, for any sizes, and leaves to the graph what it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.graph import CompiledStep, StepGraph, open_step
from mimn.rows.kernel import Kernel
from mimn.rows.library import NEEDS, library
from mimn.rows.onnx_file import NotReadable, read_graph
from mimn.rows.program import CONSTANT, Op, RowProgram, row_program
from mimn.state import rest_of
from support import skips
from support.not_numbers import NOT_NUMBERS, SUBNORMAL, not_numbers
from support.variants import library_of

ROOT = Path(__file__).parents[2]
BUNDLES = {
    "tiny": ROOT / "tests/fixtures/bundle_tiny/tiny/1",
    "online-retail": ROOT / "models/bundles/online-retail/1",
    "online-retail-sketch": ROOT / "models/bundles/online-retail-sketch/1",
}
ROWS = 35
"""Four times as many as are folded at once, and three, which are folded one by one."""


def compiled(bundle: Bundle) -> CompiledStep:
    step = open_step(bundle)
    if not isinstance(step, CompiledStep) and library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    assert isinstance(step, CompiledStep)
    return step


def drawn(bundle: Bundle, events: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return random.standard_normal((events, bundle.width)).astype(np.float32)


def initial(bundle: Bundle, rows: int) -> NDArray[np.float32]:
    sketch = None if bundle.sketch is None else bundle.sketch.sketch
    return np.tile(bundle.initial_state[rest_of(sketch, bundle.ledger)], (rows, 1))


@pytest.mark.parametrize("name", BUNDLES)
def test_a_step_has_the_graphs_bits_after_many_events(name: str) -> None:
    bundle = load_bundle(BUNDLES[name])
    step, graph = compiled(bundle), StepGraph(bundle)
    states = initial(bundle, ROWS)
    for n in range(100):
        events = drawn(bundle, ROWS, n) * 4
        after = graph(events, states)
        assert step(events, states).tobytes() == after.tobytes(), f"event {n}"
        states = after


@pytest.mark.parametrize("name", BUNDLES)
def test_folding_many_events_at_once_is_folding_them_one_by_one(name: str) -> None:
    bundle = load_bundle(BUNDLES[name])
    step, graph = compiled(bundle), StepGraph(bundle)
    depth = np.array([40, 17, 17, 9, 9, 3, 2, 1, 1, 1, 1, 0, 0])
    events = drawn(bundle, int(depth.sum()), 0)
    states = initial(bundle, len(depth))
    want = states.copy()
    at = 0
    for row, events_of_row in enumerate(depth):
        for _ in range(events_of_row):
            want[row] = graph(events[at : at + 1], want[row : row + 1])[0]
            at += 1
    assert step.fold(events, depth, states) is None
    assert states.tobytes() == want.tobytes()


@pytest.mark.parametrize("variant", NEEDS)
def test_every_variant_has_the_graphs_bits(variant: str) -> None:
    bundle = load_bundle(BUNDLES["online-retail"])
    compiled(bundle)
    built = library_of(variant)
    graph = StepGraph(bundle)
    program = row_program(read_graph((bundle.path / "step.onnx").read_bytes()), *graph.widths)
    step = CompiledStep(graph, Kernel(program, built))
    states = initial(bundle, ROWS)
    for n in range(20):
        events = drawn(bundle, ROWS, n)
        after = graph(events, states)
        assert step(events, states).tobytes() == after.tobytes(), f"event {n}"
        states = after


WIDTH = 32
NUMBERS = np.array([0.0, -0.0, 1e-42, -1e-42, 0.3, -0.7, 1.0, 2.5, -9.5, 20.0, -86.9, -87.5, 1e30], np.float32)
"""Both zeros, denormal numbers, ties, and what lies beyond the bounds of Exp, Tanh and Sigmoid."""


def one_instruction(op: Op, *, b: int, k: int, unit: int, how: int) -> RowProgram:
    """Of a state [32] and an event [32], one behind the other. Constants: 32 numbers, then weights [32, 32]."""
    state, event, out, runs = 0, WIDTH, 2 * WIDTH, []
    if op is Op.SPARSE:  # a row, a diagonal, and one that adds to it; 9: where the runs are
        unit, runs = 9, [3, 0, 0, 20, 0, 4, 6, -18, 40, 1, 5, 16, 80]
    second = event if b < 0 else b
    code = np.array([op, out, state, second, WIDTH, k, WIDTH, how, unit, *runs], np.int32)
    constants = np.random.default_rng(0).standard_normal(WIDTH + WIDTH * WIDTH).astype(np.float32)
    return RowProgram(code, constants, 1, 3 * WIDTH, event, WIDTH, state, WIDTH, out)


@pytest.mark.parametrize("variant", NEEDS)
@pytest.mark.parametrize("op", Op)
@pytest.mark.parametrize(("b", "how"), [(-1, 1), (-1, 2), (CONSTANT, 1), (CONSTANT + 5, 0)])
def test_eight_users_at_once_have_the_bits_of_each_alone(variant: str, op: Op, b: int, how: int) -> None:
    compiled(load_bundle(BUNDLES["tiny"]))
    unit = {Op.ADD: 1, Op.DIV: 0, Op.SOFTMAX: 8, Op.LPNORM: 16, Op.HARDMAX: 4, Op.BATCHED: 4, Op.TURN: 8}.get(op, 0)
    if op is Op.BATCHED and b >= CONSTANT:
        b = CONSTANT
    program = one_instruction(op, b=b, k=4 if op is Op.BATCHED else WIDTH, unit=unit, how=how)
    folding, random = Kernel(program, library_of(variant)), np.random.default_rng(op)
    depth = np.array([6, 5, 5, 4, 3, 3, 2, 2, 2, 1, 1, 1, 1, 0])
    first, rows = depth.cumsum() - depth, np.arange(len(depth))
    for share in (0.0, 0.02, 1.0):  # of the numbers that are special
        events, states = random.standard_normal((2, depth.sum(), WIDTH)).astype(np.float32)
        for numbers in (events, states):
            special = random.random(numbers.shape) < share
            numbers[special] = random.choice(NUMBERS, int(special.sum()))
        states = np.ascontiguousarray(states[: len(depth)])
        alone = states.copy()
        done = [folding.fold(events, first[[i]], depth[[i]], rows[[i]], alone)[0] for i in rows]
        assert folding.fold(events, first, depth, rows, states).tolist() == done
        assert states.tobytes() == alone.tobytes()


def test_a_setting_leaves_all_to_graphs(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    compiled(load_bundle(BUNDLES["tiny"]))
    monkeypatch.setattr("mimn.rows.kernel.library", library.__wrapped__)
    monkeypatch.setenv("MIMN_COMPILED", "off")
    assert isinstance(open_step(load_bundle(BUNDLES["tiny"])), StepGraph)
    assert not caplog.records


def test_without_the_extension_the_graph_runs_and_a_line_says_why(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mimn.rows.library.path_of", lambda variant: None)
    monkeypatch.setattr("mimn.rows.library.runs", lambda variant: True)
    monkeypatch.setattr("mimn.rows.kernel.library", cache(library.__wrapped__))
    for _ in range(2):
        assert isinstance(open_step(load_bundle(BUNDLES["tiny"])), StepGraph)
    assert caplog.messages == [
        "no compiled code: mimn was installed without a C compiler; onnxruntime and Python do its work, "
        "several times slower"
    ]


def test_an_install_without_a_compiler_has_no_extension(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path), "--build-temp", str(tmp_path)]
    subprocess.run(command, cwd=ROOT / "models", env={**os.environ, "CC": "false"}, check=True, timeout=120)
    assert not [*tmp_path.rglob("*.so")]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_is_decided_by_the_graph(bad: float) -> None:
    bundle = load_bundle(BUNDLES["online-retail"])
    step, graph = compiled(bundle), StepGraph(bundle)
    depth = np.full(9, 6)
    events = drawn(bundle, int(depth.sum()), 0)
    for at in (0, 8, 23, 24, 25, 53):
        events[at, at % bundle.width] = bad
    states = initial(bundle, len(depth))
    want, sound = states.copy(), np.ones(len(events), np.bool_)
    for at in range(len(events)):
        row = at // 6
        after = graph(events[at : at + 1], want[row : row + 1])[0]
        sound[at] = np.isfinite(after).all()
        want[row] = after if sound[at] else want[row]
    got = step.fold(events, depth, states)
    assert (np.ones(len(events), np.bool_) if got is None else got).tolist() == sound.tolist()
    assert states.tobytes() == want.tobytes()


@pytest.mark.parametrize("variant", NEEDS)
@pytest.mark.parametrize("op", Op)
def test_what_is_not_a_number_is_left_to_the_graph_by_every_instruction(variant: str, op: Op) -> None:
    """Whatever its bits are and wherever it is, in a row alone as in lanes: what is written stays as it was."""
    compiled(load_bundle(BUNDLES["tiny"]))
    unit = {Op.SOFTMAX: 8, Op.LPNORM: 16, Op.HARDMAX: 4, Op.BATCHED: 4, Op.TURN: 8}.get(op, 0)
    program = one_instruction(op, b=-1, k=4 if op is Op.BATCHED else WIDTH, unit=unit, how=1)
    folding, random = Kernel(program, library_of(variant)), np.random.default_rng(op)
    for bad in NOT_NUMBERS:
        events, states = random.uniform(0.1, 1, (2, WIDTH, WIDTH)).astype(np.float32)
        np.fill_diagonal(states, bad)
        for rows in (np.arange(WIDTH), np.array([random.integers(WIDTH)])):
            want = states.tobytes()
            assert not folding.fold(events, rows, np.ones_like(rows), rows, states).any(), f"{bad.view(np.uint32):x}"
            assert states.tobytes() == want


@pytest.mark.parametrize("name", BUNDLES)
@given(bad=not_numbers() | st.sampled_from(list(SUBNORMAL)), seed=st.integers(0, 1 << 32))
@example(bad=np.float32(np.nan), seed=1042256)
def test_a_step_keeps_what_is_not_a_number_as_the_graph_does(name: str, bad: np.float32, seed: int) -> None:
    bundle, random = load_bundle(BUNDLES[name]), np.random.default_rng(seed)
    step, graph = compiled(bundle), StepGraph(bundle)
    events, states = drawn(bundle, ROWS, seed), initial(bundle, ROWS)
    for numbers in (events, states):
        numbers[random.integers(ROWS), random.integers(numbers.shape[1])] = bad
    # The graph alone decides on rows with what is no number, and whether a NaN of its result has a sign depends on
    # which rows it is given together. All else is equal bit for bit.
    assert with_plain_nans(step(events, states)) == with_plain_nans(graph(events, states))


def with_plain_nans(numbers: NDArray[np.float32]) -> bytes:
    return np.where(np.isnan(numbers), np.float32(np.nan), numbers).tobytes()


def model_of(*initializers: onnx.TensorProto) -> bytes:
    graph = onnx.helper.make_graph([], "g", [], [], list(initializers))
    return bytes(onnx.helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize("raw", [False, True], ids=["as numbers", "as bytes"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_constants_are_read_however_they_are_written(kind: type, shape: tuple[int, ...], *, raw: bool) -> None:
    values: NDArray[Any] = (np.arange(int(np.prod(shape))) - 2.0).reshape(shape).astype(kind)
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    tensor = onnx.helper.make_tensor("w", code, shape, values.tobytes() if raw else values.ravel().tolist(), raw)
    read = read_graph(model_of(tensor)).constants["w"]
    assert (read.dtype, read.shape, read.tolist()) == (values.dtype, shape, values.tolist())


def test_a_constant_that_cannot_be_read_is_named_with_the_reason() -> None:
    double = onnx.helper.make_tensor("d", onnx.TensorProto.DOUBLE, [1], [1.0])
    elsewhere = onnx.helper.make_tensor("e", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    onnx.external_data_helper.set_external_data(elsewhere, "weights.bin")
    short = onnx.TensorProto(name="s", data_type=onnx.TensorProto.FLOAT, dims=[2], float_data=[1.0])
    for tensor, why in [
        (double, "constant 'd' of type 11"),
        (elsewhere, "constant 'e' is in another file"),
        (short, r"constant 's' has 1 numbers for the shape \[2\]"),
    ]:
        with pytest.raises(NotReadable, match=why):
            read_graph(model_of(tensor))


def test_what_is_no_row_program_is_said() -> None:
    with pytest.raises(NotReadable, match="not an ONNX model"):
        read_graph(b"\x3a\x7fabc")
    bundle = load_bundle(BUNDLES["tiny"])
    head = read_graph((bundle.path / "head.onnx").read_bytes())
    with pytest.raises(NotReadable):
        row_program(head, bundle.width, len(bundle.initial_state))


def test_cut_and_changed_files_raise_nothing_else() -> None:
    data = (BUNDLES["tiny"] / "step.onnx").read_bytes()
    random = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(data[: random.integers(len(data))])
        for at in random.integers(max(len(changed), 1), size=3):
            changed[at : at + 1] = bytes([random.integers(256)])
        try:
            row_program(read_graph(bytes(changed)), 8, 16)
        except NotReadable:
            continue
