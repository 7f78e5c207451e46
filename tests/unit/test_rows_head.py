"""A head program gives the graph's scores for any users and candidates, and leaves to the graph what it cannot."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from mimn.bundle import Bundle, load_bundle
from mimn.bundle.compiled_head import PARITY, CompiledHead, compiled_head, drawn
from mimn.bundle.graph import HeadGraph, SequenceHead, open_head
from mimn.bundle.specs import HEAD
from mimn.rows.head_code import CANDIDATES, Input
from mimn.rows.head_kernel import HeadKernel
from mimn.rows.head_program import head_program
from mimn.rows.library import NEEDS, library
from mimn.rows.onnx_file import Graph, NotReadable, read_graph
from support import skips
from support.not_numbers import NOT_NUMBERS, SUBNORMAL, not_numbers
from support.variants import library_of

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests/fixtures"
BUNDLES = {
    "tiny": FIXTURES / "bundle_tiny/tiny/1",
    "tiny-context": FIXTURES / "bundle_tiny_context/tiny-context/1",
    "tiny-sketch": FIXTURES / "bundle_tiny_sketch/tiny-sketch/1",
    "tiny-ledger": FIXTURES / "bundle_tiny_ledger/tiny-ledger/1",
    "tiny-fields": FIXTURES / "bundle_tiny_fields/tiny-fields/1",
    "online-retail": ROOT / "models/bundles/online-retail/1",
    "online-retail-sketch": ROOT / "models/bundles/online-retail-sketch/1",
    "online-retail-ledger": ROOT / "models/bundles/online-retail-ledger/2",
    "online-retail-pooling-sketch": ROOT / "models/bundles/online-retail-pooling-sketch/1",
}
DEFAULT = BUNDLES["online-retail-ledger"]
LARGEST = 512


@cache
def opened(name: str) -> tuple[Bundle, HeadGraph, CompiledHead]:
    bundle = load_bundle(BUNDLES[name])
    head = open_head(bundle)
    if not isinstance(head, CompiledHead) and library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    assert isinstance(head, CompiledHead)
    return bundle, HeadGraph(bundle), head


@pytest.mark.parametrize("name", BUNDLES)
@given(seed=st.integers(0, 1 << 32), count=st.integers(1, LARGEST), scale=st.sampled_from([0.0, 0.5, 1.0, 3.0, 30.0]))
def test_scores_are_the_graphs(name: str, seed: int, count: int, scale: float) -> None:
    bundle, graph, head = opened(name)
    inputs = drawn(bundle, np.random.default_rng(seed), count)
    if name == "tiny-fields":  # a factorization machine subtracts squares, which loses digits in both forms
        scale = min(scale, 3.0)
    inputs["state"][bundle.rest] *= scale
    np.testing.assert_allclose(head(**inputs), graph(**inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_user_without_events_gets_the_graphs_scores(name: str) -> None:
    bundle, graph, head = opened(name)
    for count in (1, 15, 16, 17, 48, 49, 100, LARGEST):
        inputs = drawn(bundle, np.random.default_rng(count), count) | {"state": bundle.initial_state}
        np.testing.assert_allclose(head(**inputs), graph(**inputs), rtol=PARITY, atol=PARITY)


@pytest.mark.parametrize("name", BUNDLES)
@pytest.mark.parametrize("size", [1e-30, 1e6, 3e38])
def test_extreme_numbers_get_the_graphs_scores(name: str, size: float) -> None:
    """Where the graph's are finite; else both say that there is none."""
    bundle, graph, head = opened(name)
    inputs = drawn(bundle, np.random.default_rng(0), 33)
    inputs["state"][bundle.rest] = np.sign(inputs["state"][bundle.rest]) * np.float32(size)
    with np.errstate(all="ignore"):
        want, got = graph(**inputs), head(**inputs)
    assert np.isfinite(got).all() == np.isfinite(want).all()
    if np.isfinite(want).all():
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_decided_by_the_graph(bad: float) -> None:
    bundle, graph, head = opened("online-retail-ledger")
    inputs = drawn(bundle, np.random.default_rng(0), 20)
    inputs["state"][::7] = bad
    assert head(**inputs).tobytes() == graph(**inputs).tobytes()


@pytest.mark.parametrize("name", BUNDLES)
@given(bad=not_numbers(), seed=st.integers(0, 1 << 32))
def test_what_is_not_a_number_in_a_state_is_none_in_the_scores(name: str, bad: np.float32, seed: int) -> None:
    bundle, graph, head = opened(name)
    random = np.random.default_rng(seed)
    inputs = drawn(bundle, random, 20)
    inputs["state"][random.integers(len(inputs["state"][bundle.rest]))] = bad
    want = graph(**inputs)
    if np.isfinite(want).all():  # the head does not read this number
        np.testing.assert_allclose(head(**inputs), want, rtol=1e-5, atol=1e-5)
    else:
        assert head(**inputs).tobytes() == want.tobytes()


@pytest.mark.parametrize("name", BUNDLES)
def test_subnormal_numbers_get_the_graphs_scores(name: str) -> None:
    bundle, graph, head = opened(name)
    inputs = drawn(bundle, np.random.default_rng(0), 33)
    inputs["state"][bundle.rest] = np.resize(SUBNORMAL, len(inputs["state"][bundle.rest]))
    np.testing.assert_allclose(head(**inputs), graph(**inputs), rtol=1e-5, atol=1e-5)


def test_a_score_depends_on_no_other_candidate() -> None:
    bundle, _, head = opened("online-retail-ledger")
    inputs = drawn(bundle, np.random.default_rng(0), 100)
    together = head(**inputs)
    for at in range(0, 100, 9):
        one = inputs | {name: inputs[name][at : at + 1] for name in ("candidates", "reads")}
        assert head(**one)[0] == together[at]


@pytest.mark.parametrize("variant", NEEDS)
def test_every_variant_has_the_graphs_scores(variant: str) -> None:
    bundle, graph, _ = opened("online-retail-sketch")
    inputs = [Input(spec.name, spec.shape, spec.dtype) for spec in bundle.manifest.head.inputs]
    program = head_program(read_graph((bundle.path / HEAD).read_bytes()), inputs)
    head = CompiledHead(bundle, graph, HeadKernel(program, library_of(variant)))
    for count in (1, 7, 8, 9, 16, 25, 100, LARGEST):
        given_to_both = drawn(bundle, np.random.default_rng(count), count)
        np.testing.assert_allclose(head(**given_to_both), graph(**given_to_both), rtol=PARITY, atol=PARITY)


def test_a_cell_that_does_not_exist_is_decided_by_the_graph() -> None:
    bundle, _, head = opened("online-retail-sketch")
    inputs = drawn(bundle, np.random.default_rng(0), 20)
    inputs["addresses"][7, 1] = 1 << 40
    with pytest.raises(Exception, match="invalid index found"):
        head(**inputs)


def test_inputs_of_another_size_are_refused() -> None:
    bundle, _, head = opened("online-retail-ledger")
    inputs = drawn(bundle, np.random.default_rng(0), 20)
    with pytest.raises(ValueError, match="input 2 of the head"):
        head(**inputs | {"reads": inputs["reads"][:, 1:]})
    with pytest.raises(ValueError, match="float64"):
        head(**inputs | {"reads": inputs["reads"].astype(np.float64)})


def test_a_compiled_head_with_other_scores_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, graph, _ = opened("online-retail-ledger")
    scores = HeadKernel.__call__

    def a_little_more(self: HeadKernel, inputs: Any, count: int) -> NDArray[np.float32] | None:
        right = scores(self, inputs, count)
        return right if right is None or count < 100 else right + np.float32(2e-5)

    monkeypatch.setattr(HeadKernel, "__call__", a_little_more)
    with caplog.at_level(logging.WARNING, "mimn.bundle"):
        assert isinstance(open_head(bundle), HeadGraph)
    assert "the compiled head has other scores: onnxruntime runs: scores of 100" in caplog.text
    monkeypatch.setattr(HeadKernel, "__call__", lambda self, inputs, count: np.zeros(count, np.float32))
    assert compiled_head(bundle, graph) is None


def test_a_setting_leaves_heads_to_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, _, head = opened("online-retail-ledger")
    assert head.compiled
    monkeypatch.setattr("mimn.bundle.compiled_head.library", library.__wrapped__)
    monkeypatch.setenv("MIMN_COMPILED", "off")
    graph = open_head(bundle)
    assert isinstance(graph, HeadGraph)
    assert not graph.compiled


def test_heads_over_lists_of_events_run_on_onnxruntime() -> None:
    assert isinstance(open_head(load_bundle(FIXTURES / "bundle_tiny_dien/tiny-dien/1")), SequenceHead)


def test_why_a_head_runs_on_onnxruntime_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if library() is None:
        pytest.skip(skips.NO_COMPILED_STEP)

    def with_another_operation(data: bytes) -> Graph:
        graph = read_graph(data)
        graph.nodes[-1].kind = "Erf"
        return graph

    monkeypatch.setattr("mimn.bundle.compiled_head.read_graph", with_another_operation)
    with caplog.at_level(logging.INFO, "mimn.bundle"):
        assert isinstance(open_head(load_bundle(DEFAULT)), HeadGraph)
    assert "online-retail-ledger/2: the head runs on onnxruntime: operation Erf" in caplog.text


INPUTS = [Input("candidates", (CANDIDATES, 6)), Input("state", (1, 8))]
OPERATIONS = {
    "numbers": """a = Tanh(q) b = Exp(q) c = Softplus(q) d = Sigmoid(q) e = Abs(q) f = Neg(e) g = Add(e, one) h = Log(g)
        i = Sqrt(e) j = Reciprocal(g) k = Max(a, b) l = Min(c, d) m = Div(f, g) n = Sub(h, i) o = Add(j, k)
        p = Mul(l, m) r = Add(n, o) y = Add(r, p)""",
    "numbers of the user": """a = Tanh(u) b = Exp(u) c = Softplus(u) d = Sigmoid(u) e = Abs(u) f = Neg(e)
        g = Add(e, one) h = Log(g) i = Sqrt(e) j = Reciprocal(g) k = Max(a, b) l = Min(c, d) m = Div(f, g)
        n = Sub(h, i) o = Add(j, k) p = Mul(l, m) r = Add(n, o) t = Pow(g, a) v = Add(r, p) aa = Add(t, v)
        y = Mul(q, aa)""",
    "sums and lengths": """a = ReduceSum(q, last) b = ReduceL2(q, last) c = ReduceSum(s, last) d = ReduceL2(s, last)
        e = Div(a, b) f = Div(c, d) g = Mul(e, f) y = Mul(q, g)""",
    "squares and what is above 0": """a = Pow(q, pair) b = Relu(q) c = Add(a, b) d = Pow(u, pair) e = Relu(u)
        f = Add(d, e) y = Mul(c, f)""",
    "along other axes": """a = Reshape(q, cube) b = ReduceSum <keepdims = 0> (a, axis)
        c = ReduceL2 <keepdims = 0> (a, last) d = Softmax <axis = 1> (a) e = Reshape(d, sixes)
        f = ReduceSum <keepdims = 0> (q, last) g = Unsqueeze(f, last) h = Concat <axis = -1> (b, c, g)
        i = Reshape(u, two) j = ReduceSum <keepdims = 0> (i, first) k = Concat <axis = 0> (j, j) l = Mul(h, k)
        y = Add(l, e)""",
    "the user's numbers for each candidate": """a = Shape <start = 0, end = 1> (q) b = Concat <axis = 0> (a, width)
        c = Expand(u, b) d = Concat <axis = -1> (c, q) e = Shape(q) f = Expand(one, e) g = MatMul(d, twelve)
        y = Add(f, g)""",
    "bounds": "a = Max(q, u) b = Max(u, a) c = Min(b, one) d = Min(one, u) e = Max(d, zero) y = Add(c, e)",
    "a softmax": "a = Mul(q, three) y = Softmax <axis = -1> (a)",
    "a choice": "a = Greater(q, zero) b = Mul(q, slopes) y = Where(a, q, b)",
    "joined columns": """a = Tanh(q) b = Concat <axis = 1> (q, a, q) c = Concat <axis = 0> (square, twelve)
        y = MatMul(b, c)""",
    "many columns": "a = MatMul(q, wide) b = Tanh(a) c = Tanh(u) d = MatMul(c, wide) e = Mul(b, d) y = MatMul(e, tall)",
    "joined numbers": "a = Tanh(q) b = Concat <axis = -1> (a, q) c = Sigmoid(b) y = MatMul(c, twelve)",
    "groups of candidates": """a = Concat <axis = -1> (q, q) b = Reshape(a, groups) c = Tanh(b)
        d = Gemm <transB = 1> (c, threes, bias) e = Reshape(d, pairs) y = MatMul(e, twelve)""",
    "turned and cut": """a = Reshape(u, two) b = Transpose <perm = [1, 0]> (a) c = MatMul(q, narrow)
        d, e = Split <axis = 1, num_outputs = 2> (c) f = Gemm <transB = 0> (d, a) g = ReduceSum(e, last) h = Mul(f, g)
        i = MatMul(h, b) j = ReduceSum(i, last) y = Mul(q, j)""",
    "products of the user": """a = Gemm(u, square, one) b = MatMul(a, square) c = Slice(b, from, to, last, steps)
        d = Concat <axis = 1> (c, c, c) e = Add(b, d) y = Gemm(q, square, e)""",
    "axes of one": """a = Unsqueeze(q, first) b = Mul(a, u) c = Squeeze(b, first) d = Unsqueeze(c, last)
        e = Squeeze(d, last) f = Clip(e, zero, one) y = Add(f, c)""",
    "one of several": "a = Gather <axis = 1> (q, second) b = Unsqueeze(a, last) y = Mul(q, b)",
    "a normalization": "y = BatchNormalization <epsilon = 0.01> (q, slopes, shift, shift, slopes)",
}
"""Of q [C, 6], its first six numbers of the user u [1, 6], and all eight s [1, 8], to y [C, 6]."""


def graph_of(operations: str) -> bytes:
    random = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "square": random.standard_normal((6, 6)), "twelve": random.standard_normal((12, 6)),
        "threes": random.standard_normal((3, 3)), "bias": random.standard_normal(3),
        "narrow": random.standard_normal((6, 4)), "slopes": random.uniform(0.1, 2, 6),
        "shift": random.standard_normal(6), "zero": np.array(0.0), "one": np.array(1.0), "three": np.array(3.0),
        "pair": np.array(2.0), "wide": random.standard_normal((6, 21)), "tall": random.standard_normal((21, 6)),
        "ending": random.standard_normal((6, 1)),
    }  # fmt: skip
    numbers: dict[str, list[int]] = {
        "last": [-1], "first": [0], "groups": [-1, 3], "pairs": [-1, 12], "two": [2, 3], "from": [1], "to": [3],
        "steps": [1], "axis": [1], "six": [6, 2], "cube": [-1, 2, 3], "sixes": [-1, 6], "width": [6], "both": [0, 1],
    }  # fmt: skip
    nodes = f"u, v_ = Split <axis = 1> (s, six) {operations} z = MatMul(y, ending) w = Squeeze(z, last) x = Sigmoid(w)"
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 20]> head (float[candidates, 6] candidates, float[1, 8] state) => '
        f"(float[candidates] x) {{ q = Identity(candidates) s = Identity(state) {nodes} }}"
    )
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Identity"]:
        graph.node.remove(node)
    renamed = {"q": "candidates", "s": "state"}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
    for name, values in weights.items():
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
    for name, whole in numbers.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(whole, np.int64), name))
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(1, np.int64), "second"))
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_gives_onnxruntimes_numbers(name: str) -> None:
    if (built := library()) is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    data = graph_of(OPERATIONS[name])
    session, kernel = onnxruntime.InferenceSession(data), HeadKernel(head_program(read_graph(data), INPUTS), built)
    random = np.random.default_rng(1)
    for count in (1, 16, 47, 100):
        candidates, state = (random.standard_normal(shape).astype(np.float32) for shape in ((count, 6), (1, 8)))
        [want] = session.run(None, {"candidates": candidates, "state": state})
        got = kernel([candidates, state], count)
        assert got is not None
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("variant", NEEDS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_keeps_what_is_not_a_number(variant: str, name: str) -> None:
    data = graph_of(OPERATIONS[name])
    session = onnxruntime.InferenceSession(data)
    kernel = HeadKernel(head_program(read_graph(data), INPUTS), library_of(variant))
    random, count = np.random.default_rng(1), 20
    for bad in (*NOT_NUMBERS, *SUBNORMAL):
        for place in range(6 + 8):
            candidates, state = (random.standard_normal(shape).astype(np.float32) for shape in ((count, 6), (1, 8)))
            if place < 6:
                candidates[place * 3, place] = bad
            else:
                state[0, place - 6] = bad
            [want] = session.run(None, {"candidates": candidates, "state": state})
            got = kernel([candidates, state], count)
            assert (got is None) == np.isnan(want).any(), f"{bad.view(np.uint32):x} at {place}"
            if got is not None:
                np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(
    ("operations", "why"),
    [
        ("y = Erf(q)", "operation Erf"),
        ("a = ReduceSum(q, first) y = Add(q, a)", "along the candidates"),
        ("a = ReduceSum(q, both) y = Add(q, a)", "along several axes"),
        ("a = Expand(q, width) y = Add(q, a)", "an expansion of another kind"),
        ("a = Transpose <perm = [1, 0]> (q) b = MatMul(square, a) y = Transpose <perm = [1, 0]> (b)", "not the first"),
        ("a = Greater(q, one) b = Neg(q) y = Where(a, q, b)", "another number than 0"),
        ("a = Pow(q, three) y = Neg(a)", "POW of candidates"),
        ("y = Gemm <alpha = 0.5> (q, square)", "a product of another kind"),
        ("y = Softmax <axis = 0> (q)", "along the candidates"),
        ("a = Slice(q, from, to, first, steps) y = Add(q, a)", "along the candidates"),
        ("y = Add(q, square)", "along the candidates"),
        ("y = Add(q, nothing)", "nothing is no value"),
    ],
)
def test_what_no_instruction_computes_is_named(operations: str, why: str) -> None:
    with pytest.raises(NotReadable, match=why):
        head_program(read_graph(graph_of(operations)), INPUTS)
