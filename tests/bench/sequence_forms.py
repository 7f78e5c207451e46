"""The forms in which onnxruntime can run DIEN's second GRU and DIN's activation unit, and their products alone.

    python tests/bench/sequence_forms.py [--candidates 100] [--events 1000] [--rounds 15]

The first form of each is the one that is exported. The forms take turns in one process on one thread; what counts is
the thread's processor time. GFLOP/s are those of the products, whatever else a form does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

from loadtest.heads import in_turn
from mimn.nn.baselines.serving import DOMAIN, functions

Floats = NDArray[np.float32]
D, U, H, TURN = 32, 32, 36, 10
"""Width of a vector, units of the second GRU, units of the activation unit, steps of the longer turn."""


@dataclass(frozen=True)
class Form:
    """One way to run one piece."""

    name: str
    nodes: list[onnx.NodeProto]
    feed: dict[str, Any]
    result: Callable[[Floats], Floats] = lambda output: output
    """The output in the common shape."""


def node(operator: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def matrix(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])


def scan(nodes: list[onnx.NodeProto], state: str, scanned: Sequence[str], inputs: Sequence[str]) -> onnx.NodeProto:
    """A Scan over `inputs`, called `scanned` inside, that carries `state` (none: it collects `next`)."""
    names = [*([state] if state else []), *scanned]
    body = helper.make_graph(nodes, "turn", [value(name) for name in names], [matrix("next")])
    return node("Scan", inputs, "out", body=body, num_scan_inputs=len(scanned))


def opened(form: Form) -> Callable[[], Floats]:
    """The form, ready to run."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim)
        for name, array in form.feed.items()
    ]
    graph = helper.make_graph(form.nodes, "form", inputs, [value("out")])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions(D), ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda: form.result(session.run(None, form.feed)[0])


def augru_forms(candidates: int, events: int, random: np.random.Generator) -> Iterator[Form]:
    """DIEN's second GRU: the last states [C, U]."""

    def draw(*shape: int) -> Floats:
        return (random.normal(size=shape) * 0.3).astype(np.float32)

    sums, gates, change = draw(events, 3 * U), draw(U, 2 * U), draw(U, U)
    attention = random.random((candidates, events)).astype(np.float32)
    reset_sum, update_sum, change_sum = np.ascontiguousarray(sums.reshape(events, 3, U).transpose(1, 0, 2))
    shipped = {
        "start": np.zeros((candidates, U), np.float32),
        "resets": reset_sum,
        "updates": update_sum,
        "changes": change_sum,
        "attention": np.ascontiguousarray(attention.T)[..., np.newaxis],
        "reset_weight": np.ascontiguousarray(gates[:, :U]),
        "update_weight": np.ascontiguousarray(gates[:, U:]),
        "change_weight": change,
    }
    scanned = list(shipped)[1:5]
    yield Form("a step a turn (exported)", [helper.make_node("Augru", list(shipped), ["out"], domain=DOMAIN)], shipped)

    def two_gates(p: str, state: str, given: Sequence[str], after: str) -> list[onnx.NodeProto]:
        reset, update, new, weight = given
        return [
            node("Gemm", [state, "reset_weight", reset], p + "rs"),
            node("Sigmoid", [p + "rs"], p + "r"),
            node("Gemm", [state, "update_weight", update], p + "us"),
            node("Sigmoid", [p + "us"], p + "u"),
            node("Mul", [p + "r", state], p + "kept"),
            node("Gemm", [p + "kept", "change_weight", new], p + "cs"),
            *renewal(p, state, weight, after),
        ]

    def renewal(p: str, state: str, weight: str, after: str) -> list[onnx.NodeProto]:
        return [
            node("Tanh", [p + "cs"], p + "c"),
            node("Sub", [p + "c", state], p + "d"),
            node("Mul", [p + "u", weight], p + "au"),
            node("Mul", [p + "au", p + "d"], p + "n"),
            node("Add", [state, p + "n"], after),
        ]

    joined = shipped | {"gates": np.ascontiguousarray(sums[:, : 2 * U]), "gate_weight": gates}
    del joined["resets"], joined["updates"], joined["reset_weight"], joined["update_weight"]
    step = [
        node("Gemm", ["s", "gate_weight", "g"], "gs"),
        node("Sigmoid", ["gs"], "ru"),
        node("Split", ["ru"], "r", "u", axis=1, num_outputs=2),
        node("Mul", ["r", "s"], "kept"),
        node("Gemm", ["kept", "change_weight", "new"], "cs"),
        *renewal("", "s", "w", "next"),
    ]
    yield Form(
        "both gates in one product",
        [scan(step, "s", ["g", "new", "w"], ["start", "gates", "changes", "attention"])],
        joined,
    )
    turned = {name: np.ascontiguousarray(array.swapaxes(-1, -2)) for name, array in shipped.items() if array.ndim != 2}
    turned |= {name: np.ascontiguousarray(shipped[name].T) for name in shipped if "weight" in name or name == "start"}
    turned |= {name: shipped[name][..., np.newaxis] for name in scanned[:3]}
    step = [
        node("Gemm", ["reset_weight", "s", "r_in"], "rs"),
        node("Sigmoid", ["rs"], "r"),
        node("Gemm", ["update_weight", "s", "u_in"], "us"),
        node("Sigmoid", ["us"], "u"),
        node("Mul", ["r", "s"], "kept"),
        node("Gemm", ["change_weight", "kept", "c_in"], "cs"),
        *renewal("", "s", "w", "next"),
    ]
    yield Form(
        "candidates as columns",
        [scan(step, "s", ["r_in", "u_in", "c_in", "w"], ["start", *scanned])],
        turned,
        lambda output: output.T,
    )

    def unrolled(steps: int, state: str, inputs: Sequence[str], after: str) -> list[onnx.NodeProto]:
        nodes, one = [], [[f"{name}_{k}" for k in range(steps)] for name in inputs]
        for name, parts in zip(inputs, one, strict=True):
            nodes.append(node("Split", [name], *(f"{part}_" for part in parts), axis=0, num_outputs=steps))
            nodes += [node("Squeeze", [f"{part}_", "front"], part) for part in parts]
        for k in range(steps):
            next_state = after if k == steps - 1 else f"state_{k}"
            nodes += two_gates(f"n{k}_", state, [parts[k] for parts in one], next_state)
            state = next_state
        return nodes

    front = {"front": np.zeros(1, np.int64)}
    if events % TURN == 0:
        longer = {name: shipped[name].reshape(-1, TURN, *shipped[name].shape[1:]) for name in scanned}
        inside = ["r_in", "u_in", "c_in", "w"]
        body = unrolled(TURN, "s", inside, "next")
        yield Form(f"{TURN} steps a turn", [scan(body, "s", inside, ["start", *scanned])], shipped | longer | front)
    yield Form("no Scan: all steps one after the other", unrolled(events, "start", scanned, "out"), shipped | front)


def products_alone(candidates: int, events: int, random: np.random.Generator) -> Form:
    """The three products of each step and nothing else."""
    weights = {f"w{k}": (random.normal(size=(U, U)) * 0.2).astype(np.float32) for k in range(3)}
    step = [
        node("MatMul", ["s", "w0"], "a"),
        node("MatMul", ["a", "w1"], "b"),
        node("Gemm", ["b", "w2", "z"], "next"),
    ]
    feed = {"start": np.ones((candidates, U), np.float32), "zeros": np.zeros((events, U), np.float32), **weights}
    return Form("its products alone", [scan(step, "s", ["z"], ["start", "zeros"])], feed)


def one_product(rows: int, inner: int, columns: int, random: np.random.Generator) -> Form:
    """One large product."""
    feed = {"x": random.random((rows, inner), np.float32), "w": random.random((inner, columns), np.float32)}
    return Form(f"one product [{rows}, {inner}] x [{inner}, {columns}]", [node("MatMul", ["x", "w"], "out")], feed)


def unit_forms(candidates: int, events: int, random: np.random.Generator) -> Iterator[Form]:
    """DIN's activation unit from its two layers on: what is added to the linear part [C, L]."""
    matrices, facts, second = (
        (random.normal(size=shape) * 0.3).astype(np.float32)
        for shape in ((candidates, H, D + 1), (D + 1, events), (1, H))
    )
    facts[-1] = 1.0
    shipped = {"matrices": matrices, "facts": facts, "weights": second}
    rows = {"matrices": np.ascontiguousarray(matrices.swapaxes(1, 2)), "facts": np.ascontiguousarray(facts.T)}

    def flat(output: Floats) -> Floats:
        return output.reshape(candidates, events)

    call = helper.make_node("ReluScores", list(shipped), ["out"], domain=DOMAIN)
    yield Form("a candidate a turn (exported)", [call], shipped, flat)
    turn = [node("MatMul", ["facts", "m"], "h"), node("Relu", ["h"], "a"), node("MatMul", ["a", "weights"], "next")]
    rows["weights"] = second.T.copy()
    yield Form("a candidate a turn, events as rows", [scan(turn, "", ["m"], ["matrices"])], rows, flat)
    batch = [
        node("MatMul", ["matrices", "facts"], "h"),
        node("Relu", ["h"], "a"),
        node("MatMul", ["weights", "a"], "out"),
    ]
    yield Form("one batch of a matrix a candidate", batch, shipped, flat)
    # As the equations have it: q * f for every pair, and one weight.
    vectors = random.random((candidates, 1, D), np.float32) + 0.5
    shared = {"q": vectors, "f": rows["facts"][:, :D], "w": matrices[0, :, :D].T, "second": rows["weights"]}
    by_candidate, by_fact = matrices[:, :, D][:, np.newaxis], (facts[:D].T @ matrices[0, :, :D].T)[np.newaxis]
    pairs = [
        node("Mul", ["q", "f"], "qf"),
        node("MatMul", ["qf", "w"], "p"),
        node("Add", ["p", "by_candidate"], "pc"),
        node("Add", ["pc", "by_fact"], "h"),
        node("PRelu", ["h", "slope"], "a"),
        node("MatMul", ["a", "second"], "out"),
    ]
    added = {"by_candidate": by_candidate, "by_fact": by_fact, "slope": np.full(H, 0.25, np.float32)}
    yield Form("every pair q * f, as first written (other numbers)", pairs, shared | added, flat)


def report(title: str, flops: float, forms: Sequence[Form], rounds: int) -> None:
    """Print a table."""
    print(f"\n{title}\n\n| form | CPU ms | 5 % to 95 % | GFLOP/s |\n| --- | --- | --- | --- |")
    for timing in in_turn({form.name: opened(form) for form in forms}, rounds):
        spread = f"{timing.low * 1e3:.2f} to {timing.high * 1e3:.2f}"
        print(f"| {timing.name} | {timing.median * 1e3:.2f} | {spread} | {flops / timing.median / 1e9:.0f} |")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python tests/bench/sequence_forms.py", description=__doc__)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--events", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args(arguments)
    C, T, random = args.candidates, args.events, np.random.default_rng(0)
    augru = [*augru_forms(C, T, random), products_alone(C, T, random), one_product(C * T, U, 3 * U, random)]
    report(f"DIEN's second GRU, {C} candidates, {T} events", 2.0 * C * T * U * 3 * U, augru, args.rounds)
    unit = [*unit_forms(C, T, random), one_product(C * T, D + 1, H, random)]
    report(f"DIN's activation unit, {C} candidates, {T} events", 2.0 * C * T * (D + 1) * H, unit, args.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
