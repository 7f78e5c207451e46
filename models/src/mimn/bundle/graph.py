"""The graphs of a bundle on onnxruntime: one thread, sequential, no spinning. Needs the extra `serve`.

`open_step` and `open_head` return the functions that fold and score, for every kind of state; `proven_step` and
`proven_head` return them after they gave the golden numbers.

One thread is enough, because a process serves one request or folds one wave at a time. Spinning threads would take CPU
from other processes.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from typing import Any, Protocol

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mimn.bundle import specs as m
from mimn.bundle.bundle import Bundle
from mimn.bundle.compiled_head import compiled_head
from mimn.bundle.golden import StepFunction
from mimn.bundle.non_finite import check_scores, check_weights
from mimn.bundle.specs import BundleError, GraphSpec
from mimn.rows.kernel import Kernel, kernel
from mimn.rows.onnx_file import NotReadable, read_graph
from mimn.rows.program import row_program
from mimn.state.event_list import EventList
from mimn.state.ledger import count_events

log = logging.getLogger("mimn.bundle")


class StepGraph:
    """`step.onnx`: (events [B, D], state [B, F]) → next state [B, F], float32. Pure; safe to call from one thread.

    With a sketch or a ledger, `state` is the part of a user's state at `Bundle.rest`.

    The graph always runs on an even number of rows, because onnxruntime's matrix product takes rows in pairs and
    computes a single last row by another kernel, whose sums differ in the last bit. So a row's bits do not depend on
    how many rows share the run: a service that folds one event at a time and a replay of the whole log store the same
    bytes.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.manifest.step is None:
            raise BundleError(f"{bundle.name} has no step graph: its states are of kind {bundle.manifest.state.kind}")
        self._session = open_graph(bundle, bundle.manifest.step)
        event, state = (int(spec.shape[1]) for spec in bundle.manifest.step.inputs)
        self.widths = event, state
        """D and F."""

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states after one event each; row b depends only on row b."""
        rows = len(events)
        if rows % 2:
            events, state = np.concatenate([events, events[-1:]]), np.concatenate([state, state[-1:]])
        output: NDArray[np.float32] = self._session.run(None, {"event": events, "state": state})[0]
        return output[:rows]


class CompiledStep:
    """The same as `StepGraph`, to the last bit, compiled (`mimn.rows`); it also folds many events in one call.

    A row with a number that is not finite on its way is given to the graph.
    """

    def __init__(self, graph: StepGraph, kernel: Kernel) -> None:
        self._graph = graph
        self._kernel = kernel

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states after one event each, as `StepGraph` returns them."""
        n = len(events)
        after, rows = np.array(state, np.float32, order="C"), np.arange(n)
        left = np.flatnonzero(
            self._kernel.fold(np.ascontiguousarray(events), rows, np.ones(n, np.int64), rows, after) == 0
        )
        if len(left):
            after[left] = self._graph(events[left], state[left])
        return after

    def fold(
        self, events: NDArray[np.float32], depth: NDArray[np.int64], states: NDArray[np.float32]
    ) -> NDArray[np.bool_] | None:
        """Fold all events into their states, in place; an event with a non-finite result leaves its state as it was.

        Args:
            events: [E, D]: those of the first state in order, then those of the second, and so on.
            depth: [R]: how many events each state gets.
            states: [R, F]; a row is contiguous, and the rows may lie anywhere.

        Returns: by event whether its result was finite, or None if all were.
        """
        first = depth.cumsum() - depth
        rows = np.arange(len(depth))
        sound: NDArray[np.bool_] | None = None
        while len(rows):
            done = self._kernel.fold(events, first, depth, rows, states)
            stopped = (done < depth).nonzero()[0]
            at, rows = first[stopped] + done[stopped], rows[stopped]
            if len(rows):
                after = self._graph(events[at], states[rows])
                finite = np.isfinite(after).all(axis=1)
                states[rows[finite]] = after[finite]
                if not finite.all():
                    sound = np.ones(len(events), np.bool_) if sound is None else sound
                    sound[at[~finite]] = False
            first, depth = at + 1, depth[stopped] - done[stopped] - 1
        return sound


class Head(Protocol):
    """What scores candidates: `HeadGraph`, its compiled form, or `SequenceHead`; their calls say what they take."""

    compiled: bool
    """Whether compiled code runs instead of onnxruntime."""

    def __call__(self, *inputs: Any, **more: Any) -> NDArray[np.float32]:
        """The click probability of each candidate. → [C]"""


class HeadGraph:
    """`head.onnx`: (candidates [C, W + D], state [F], context [K]) → scores [C] in (0, 1), float32.

    With a sketch it also takes the candidates' cells [C, A] int64 and the time of reading [2, S] (`Sketch.moments`),
    with a ledger what is read of it [C, R] (`mimn.bundle.reads`).
    """

    compiled = False

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_graph(bundle, bundle.manifest.head)
        self._outputs = [tensor.name for tensor in bundle.manifest.head.outputs]
        ledger = bundle.ledger
        self._seen = slice(None) if ledger is None else slice(-ledger.words)
        self._reads_context = bool(bundle.request.width)

    def __call__(
        self,
        candidates: NDArray[np.float32],
        state: NDArray[np.float32],
        context: NDArray[np.float32],
        addresses: NDArray[np.int64] | None = None,
        now: NDArray[np.float32] | None = None,
        *,
        reads: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The click probability of each candidate for the user of `state`; candidates do not influence each other."""
        feed: dict[str, NDArray[Any]] = {"candidates": candidates, "state": state[np.newaxis, self._seen]}
        if addresses is not None and now is not None:
            feed |= {"addresses": addresses, "now": now[np.newaxis]}
        if reads is not None:
            feed["reads"] = reads
        if self._reads_context:
            feed["context"] = context[np.newaxis]
        output: NDArray[np.float32] = self._session.run(self._outputs, feed)[0]
        return output


LENGTHS = (*range(16, 129, 16), *range(160, 257, 32), *range(320, 513, 64))
"""Histories are padded to these lengths, so a graph runs with few shapes; longer ones to multiples of 128."""
_STRIDE = 128


def padded_length(length: int, capacity: int) -> int:
    """The length at which the head runs for a history of `length` events: at least 1, at most `capacity`."""
    at = bisect_left(LENGTHS, length)
    return min(LENGTHS[at] if at < len(LENGTHS) else -(-length // _STRIDE) * _STRIDE, capacity)


class SequenceHead:
    """`head.onnx` of a sequence bundle: (candidates [C, W + D], history [L, D], length [1], context [1, K]) → scores
    [C] in (0, 1).

    Called like `HeadGraph`, with a user's list as the state. Not thread-safe: the history's vectors are gathered into
    one shared array, and the graph gets the part that the user's events need.
    """

    compiled = False

    def __init__(self, bundle: Bundle, event_list: EventList) -> None:
        self._session = open_graph(bundle, bundle.manifest.head)
        self._outputs = [tensor.name for tensor in bundle.manifest.head.outputs]
        self._bundle = bundle
        self._list = event_list
        self._reads_context = bool(bundle.request.width)
        self._history = np.zeros((event_list.capacity, bundle.width), np.float32)

    def __call__(
        self, candidates: NDArray[np.float32], state: NDArray[np.float32], context: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """The click probability of each candidate for the user of `state`; candidates do not influence each other."""
        items, categories = self._bundle.items, self._bundle.categories
        rows = self._list.read(state)
        length = len(rows)
        history = self._history[: padded_length(length, self._list.capacity)]
        history[:length, : items.width] = items.vectors[rows[:, 0]]
        history[:length, items.width :] = categories.vectors[rows[:, 1]]
        history[length:] = 0.0
        feed: dict[str, NDArray[Any]] = {
            "candidates": candidates,
            "history": history,
            "length": np.array([length], np.int64),
        }
        if self._reads_context:
            feed["context"] = context[np.newaxis]
        output: NDArray[np.float32] = self._session.run(self._outputs, feed)[0]
        return output


def open_step(bundle: Bundle) -> StepFunction:
    """The function that folds one event into each state; it takes events as `Bundle.events` returns them.

    Raises:
        BundleError: as `open_graph`.
    """
    if bundle.manifest.state.kind == "ledger":
        return count_events
    if bundle.event_list is not None:
        return bundle.event_list.append
    graph = StepGraph(bundle)
    return _compiled(bundle, graph) or graph


_PROOF_ROWS, _PROOF_STEPS = 59, 4
"""Eight rows at a time, and then three, which are folded one by one."""


def _compiled(bundle: Bundle, graph: StepGraph) -> CompiledStep | None:
    """The bundle's step compiled, if its graph has that form, the machine can, and drawn events give the same bits."""
    try:
        program = row_program(read_graph((bundle.path / m.STEP).read_bytes()), *graph.widths)
    except NotReadable as reason:
        log.info("%s: the step runs as a graph: %s", bundle.name, reason)
        return None
    built = kernel(program)
    if built is None:
        return None
    step, random = CompiledStep(graph, built), np.random.default_rng(0)
    states = np.tile(bundle.initial_state[bundle.rest], (_PROOF_ROWS, 1))
    for _ in range(_PROOF_STEPS):
        rows = random.integers(len(bundle.items.vectors), size=_PROOF_ROWS)
        others = random.integers(len(bundle.categories.vectors), size=_PROOF_ROWS)
        events = np.concatenate([bundle.items.vectors[rows], bundle.categories.vectors[others]], 1)
        after = graph(events, states)
        if step(events, states).tobytes() != after.tobytes():
            log.warning("%s: on this processor the compiled step has other bits: the graph runs", bundle.name)
            return None
        states = after
    return step


def open_head(bundle: Bundle) -> Head:
    """The function that scores candidates for a user's state: compiled where it can be.

    Raises:
        BundleError: as `open_graph`, or a score is not finite.
    """
    graph = HeadGraph(bundle) if bundle.event_list is None else SequenceHead(bundle, bundle.event_list)
    check_scores(bundle, graph)
    return (compiled_head(bundle, graph) if isinstance(graph, HeadGraph) else None) or graph


def proven_step(bundle: Bundle) -> StepFunction:
    """`open_step`, after it has folded the golden histories to the exporter's states.

    Raises:
        BundleError: as `open_step`.
        GoldenMismatch: this process computes other states.
    """
    step = open_step(bundle)
    bundle.golden.verify_step(step, bundle.events, bundle.initial_state, bundle.sketch, bundle.ledger)
    return step


def proven_head(bundle: Bundle) -> Head:
    """`open_head`, after the golden requests were encoded as the exporter encoded them, and it gave the golden scores.

    Raises:
        BundleError: as `open_head`.
        GoldenMismatch: this process computes other numbers.
    """
    bundle.golden.verify_request(bundle.request.golden_vector)
    head = open_head(bundle)
    bundle.golden.verify_head(head, bundle.candidates, bundle.initial_state, bundle.sketch, bundle.reads)
    return head


def open_graph(bundle: Bundle, spec: GraphSpec) -> onnxruntime.InferenceSession:
    """A session on one of the bundle's graphs, its inputs and outputs checked against the manifest.

    Raises:
        BundleError: onnxruntime cannot load the file, its interface is not the manifest's, or a weight is NaN.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # An arena keeps the most that any run ever took; malloc is as fast for one thread (decision 127).
    options.enable_cpu_mem_arena = False
    if spec.file not in m.FILES[bundle.manifest.state.kind]:
        raise BundleError(f"{m.MANIFEST}: graph file {spec.file!r} is not one of the bundle's files")
    path = bundle.path / spec.file
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base class
        raise BundleError(f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
    for what, want, got in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        if [t.name for t in want] != [t.name for t in got]:
            raise BundleError(f"{path}: {what} are {[t.name for t in got]}, the manifest says {[t.name for t in want]}")
    check_weights(path)
    return session
