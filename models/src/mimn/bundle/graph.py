"""The two graphs of a bundle on onnxruntime: one thread, sequential, no spinning. Needs the extra `serve`.

One thread, because a process serves one request or folds one wave at a time, and spinning threads steal the core of the
process beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from mimn.bundle import manifest as m
from mimn.bundle.bundle import Bundle
from mimn.bundle.manifest import BundleError, GraphSpec


class StepGraph:
    """`step.onnx`: (events [B, D], state [B, F]) → next state [B, F], float32. Pure; safe to call from one thread.

    With a sketch, `state` is the part of a user's state that `Sketch.rest` names.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_graph(bundle, bundle.manifest.step)

    def __call__(self, events: NDArray[np.float32], state: NDArray[np.float32]) -> NDArray[np.float32]:
        """The states after one event each; row b depends on row b alone."""
        output: NDArray[np.float32] = self._session.run(None, {"event": events, "state": state})[0]
        return output


class HeadGraph:
    """`head.onnx`: (candidates [C, D], state [F], context [K]) → scores [C] in (0, 1), float32.

    With a sketch also the candidates' cells [C, A] int64 and the moment of reading [2, S] (`mimn.state.Sketch`).
    """

    def __init__(self, bundle: Bundle) -> None:
        self._session = open_graph(bundle, bundle.manifest.head)
        self._reads_context = bool(bundle.manifest.context)

    def __call__(
        self,
        candidates: NDArray[np.float32],
        state: NDArray[np.float32],
        context: NDArray[np.float32],
        addresses: NDArray[np.int64] | None = None,
        now: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """The click probability of each candidate for the user of `state`; candidates do not influence each other."""
        feed: dict[str, NDArray[Any]] = {"candidates": candidates, "state": state[np.newaxis]}
        if addresses is not None and now is not None:
            feed |= {"addresses": addresses, "now": now[np.newaxis]}
        if self._reads_context:
            feed["context"] = context[np.newaxis]
        output: NDArray[np.float32] = self._session.run(None, feed)[0]
        return output


def open_graph(bundle: Bundle, spec: GraphSpec) -> onnxruntime.InferenceSession:
    """A session on one of the bundle's graphs, its inputs and outputs checked against the manifest.

    Raises:
        BundleError: onnxruntime cannot load the file, or its interface is not the manifest's.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if spec.file not in m.FILES:
        raise BundleError(f"{m.MANIFEST}: graph file {spec.file!r} is not one of the bundle's files")
    path = bundle.path / spec.file
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base of their own
        raise BundleError(f"{path} cannot be loaded by onnxruntime {onnxruntime.__version__}: {error}") from error
    for what, want, got in (
        ("inputs", spec.inputs, session.get_inputs()),
        ("outputs", spec.outputs, session.get_outputs()),
    ):
        if [t.name for t in want] != [t.name for t in got]:
            raise BundleError(f"{path}: {what} are {[t.name for t in got]}, the manifest says {[t.name for t in want]}")
    return session
