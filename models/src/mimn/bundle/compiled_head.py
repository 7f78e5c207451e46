"""A bundle's head compiled (`mimn.rows.head_program`), with `head.onnx` on onnxruntime as its twin.

The graph is the contract. The compiled form is used if it gives the golden scores and, for drawn users and candidates,
the graph's. Where a score is not finite the graph decides, so there the two are the same.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import specs as m
from mimn.bundle.bundle import Bundle
from mimn.bundle.golden import GoldenMismatch, HeadFunction
from mimn.rows.head_code import Input
from mimn.rows.head_kernel import HeadKernel
from mimn.rows.head_program import head_program
from mimn.rows.library import library
from mimn.rows.onnx_file import NotReadable, read_graph

log = logging.getLogger("mimn.bundle")
PARITY = 5e-6
"""How far apart the two forms' scores may be."""
COUNTS = (1, 7, 16, 33, 100)
"""Candidates that the two forms are compared for: tiles of each size, full and not."""


class CompiledHead:
    """The same as `HeadGraph` to within `PARITY`, in one call. Not thread-safe."""

    compiled = True

    def __init__(self, bundle: Bundle, graph: HeadFunction, kernel: HeadKernel) -> None:
        self._graph, self._kernel = graph, kernel
        self._inputs = [spec.name for spec in bundle.manifest.head.inputs]
        self._seen = slice(None) if bundle.ledger is None else slice(-bundle.ledger.words)
        self._state, self._part = bundle.initial_state, bundle.initial_state[self._seen]
        """The latest state, and the part of it that the graph reads."""

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
        if state is not self._state:
            self._state, self._part = state, state[self._seen]
        every: dict[str, Any] = {
            "candidates": candidates,
            "state": self._part,
            "context": context,
            "addresses": addresses,
            "now": now,
            "reads": reads,
        }
        scores = self._kernel([every[name] for name in self._inputs], len(candidates))
        return self._graph(candidates, state, context, addresses, now, reads=reads) if scores is None else scores


def compiled_head(bundle: Bundle, graph: HeadFunction) -> CompiledHead | None:
    """The head of `graph` compiled, if its graph has that form, the machine can, and both give the same scores."""
    if (built := library()) is None:
        return None
    inputs = [Input(spec.name, spec.shape, spec.dtype) for spec in bundle.manifest.head.inputs]
    try:
        program = head_program(read_graph((bundle.path / m.HEAD).read_bytes()), inputs)
    except NotReadable as reason:
        log.info("%s: the head runs on onnxruntime: %s", bundle.name, reason)
        return None
    head = CompiledHead(bundle, graph, HeadKernel(program, built))
    if why := difference(bundle, graph, head):
        log.warning("%s: on this processor the compiled head has other scores: onnxruntime runs: %s", bundle.name, why)
        return None
    return head


def difference(bundle: Bundle, graph: HeadFunction, head: HeadFunction) -> str:
    """How `head` differs from the golden scores, or for drawn users and candidates from `graph`; empty if it does
    not."""
    try:
        bundle.golden.verify_head(head, bundle.candidates, bundle.initial_state, bundle.sketch, bundle.reads)
    except GoldenMismatch as mismatch:
        return str(mismatch)
    random = np.random.default_rng(0)
    for count in COUNTS:
        given = drawn(bundle, random, count)
        if not np.allclose(head(**given), graph(**given), rtol=PARITY, atol=PARITY, equal_nan=True):
            return f"scores of {count} drawn candidates differ by more than {PARITY}"
    return ""


def drawn(bundle: Bundle, random: np.random.Generator, count: int) -> dict[str, NDArray[Any]]:
    """Inputs of a head: `count` candidates, some of them unknown, and a golden user and request whose numbers are
    changed a little, for each of them by another factor. A request's numbers keep the size that they have in use: where
    they are ten times as large, a head that multiplies fields with each other rounds off a hundred times as much."""
    state = np.array(random.choice(bundle.golden.states))
    state[bundle.rest] *= random.uniform(0.9, 1.1, len(state[bundle.rest])).astype(np.float32)
    context = np.array(random.choice(bundle.golden.context))
    context *= random.uniform(0.9, 1.1, len(context)).astype(np.float32)
    items, categories = (table.drawn(random, count) for table in (bundle.asked_items, bundle.categories))
    given: dict[str, NDArray[Any]] = {
        "candidates": bundle.candidates(items, categories),
        "state": state,
        "context": context,
    }
    if bundle.sketch is not None:
        given["addresses"] = bundle.sketch.addresses(items, categories)
        given["now"] = bundle.sketch.sketch.moment(DRAWN_MS)
    if bundle.reads is not None:
        given["reads"] = random.standard_normal((count, bundle.reads.width)).astype(np.float32)
    return given


DRAWN_MS = 1_700_000_000_000
"""When drawn candidates are scored."""
