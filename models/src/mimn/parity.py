"""Three computations of one model must agree before it is written: ONNX, PyTorch and the plain equations.

The comparison covers single steps from many states, whole histories folded one event at a time against the unrolled
sequence, and scores, at several batch sizes. An argmax chooses the interest channel, so results may legitimately differ
if the two largest read weights of a history ever come closer than `MARGIN`: such histories are counted, not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from mimn.baselines import step_layout
from mimn.bundle.golden import StepFunction
from mimn.nn.baselines.model import BaselineModel
from mimn.nn.cell import unroll
from mimn.nn.fields import item_width, request_width
from mimn.nn.graphs import StateModel, StepModule, head_module
from mimn.nn.model import ClickModel
from mimn.nn.sketch import SketchReader
from mimn.reference import cells, count, scaled, total
from mimn.reference_baselines import reference_of
from mimn.state.actions import NAMES
from mimn.state.layout import BlockType, StateLayout
from mimn.state.ledger import count_events
from mimn.state.sketch import DAY_MS, Sketch

Floats = NDArray[np.float32]

BATCHES = (1, 2, 7, 64)
MARGIN = 1e-5
TOLERANCE = 1e-5
"""Absolute, and relative to the value."""
SHARP_FOLD_TOLERANCE = 1e-4
"""After a history with rebalance `shift`, whose sharpening multiplies a difference by up to 84 at every event."""
HALF_TOLERANCE = 2e-3
"""The same for one step of a float16 bundle: a value between two float16 numbers may be rounded to either side."""
HALF_FOLD_TOLERANCE = 2e-2
"""The same after a history, through which such a difference persists."""
SKETCH_TOLERANCE = 1e-2
"""For counters after a history, with each addition rounded to float16."""
HISTORY = 40
"""Number of events in each folded history."""


class ParityError(Exception):
    """Two computations of the same model disagree; the message says which, where and by how much."""


@dataclass(frozen=True)
class ParityReport:
    """What was compared."""

    steps: int
    scores: int
    histories: int
    undecided: int
    """Steps and histories left out, because a gap below `MARGIN` chose a channel."""


class Graph:
    """A graph in memory on onnxruntime, one thread."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        self._inputs = [tensor.name for tensor in self._session.get_inputs()]

    def __call__(self, *inputs: NDArray[Any]) -> Floats:
        """The graph's output for its inputs, in order."""
        output: Floats = self._session.run(None, dict(zip(self._inputs, inputs, strict=True)))[0]
        return output


def check_parity(model: StateModel, layout: StateLayout, step_onnx: bytes | None, head_onnx: bytes) -> ParityReport:
    """Compare the two graphs with PyTorch and with the equations.

    Args:
        model: in evaluation mode.
        layout: as the bundle stores states.
        step_onnx, head_onnx: the graphs; no first one for a state that only counts events (`count_events`).

    Raises:
        ParityError: a difference beyond the tolerance, or no history that could be compared.
    """
    return _Check(model, layout, step_onnx, head_onnx).run()


def with_item_fields(model: ClickModel, vectors: Floats, items: NDArray[np.int64]) -> Floats:
    """Candidates as a bundle's head takes them, with the fields of the items in these rows in front.

    [C, D], [C] → [C, W + D]
    """
    with torch.no_grad():
        fields = model.item_vector(torch.from_numpy(items))
    return vectors if fields is None else np.concatenate([fields.numpy(), vectors], -1)


def served_vectors(model: ClickModel, items: torch.Tensor, categories: torch.Tensor) -> Floats:
    """Events, and candidates without fields, as a bundle's tables give them. [...], [...] int64 rows → [..., D + X]"""
    with torch.no_grad():
        vectors: Floats = torch.cat([model.vectors(items, categories), model.category_columns(categories)], -1).numpy()
    return vectors


def counters(sketch: Sketch | None) -> int:
    """How many values of a state are the sketch's counters."""
    return 0 if sketch is None else sketch.values


class _Check:
    def __init__(self, model: StateModel, layout: StateLayout, step_onnx: bytes | None, head_onnx: bytes) -> None:
        dtype: BlockType = "float16" if layout.half_floats > counters(model.config.sketch) else "float32"
        self.model, self.layout = model, step_layout(model.config, dtype)
        self.step: StepFunction = count_events if step_onnx is None else Graph(step_onnx)
        self.head = Graph(head_onnx)
        self.torch_step, self.torch_head = StepModule(model, self.layout), head_module(model)
        weights = {name: value.numpy() for name, value in model.state_dict().items()}
        specs = (model.fields.request.specs, model.fields.item.specs) if model.fields else ((), ())
        self.reference = reference_of(model.config, weights, dtype, *specs)
        self.random = np.random.default_rng(0)
        self.steps = self.scores = self.histories = self.undecided = 0
        self.step_tolerance = HALF_TOLERANCE if self.layout.half_floats else TOLERANCE
        sharp = SHARP_FOLD_TOLERANCE if model.config.shifts else TOLERANCE
        self.fold_tolerance = HALF_FOLD_TOLERANCE if self.layout.half_floats else sharp

    def run(self) -> ParityReport:
        with torch.no_grad():
            initial = self.torch_step.initial(1).numpy()
            self._equal(
                "initial state", "PyTorch", initial[0], self.reference.flat(self.reference.initial()), TOLERANCE
            )
            states = self._fold(initial)
            for batch in BATCHES:
                self._one_step(states[self.random.integers(len(states), size=batch)], self.events(batch))
            self._one_step(np.zeros_like(states[:2]), np.zeros_like(self.vectors(2)))
            for candidates in BATCHES:
                self._score(states[self.random.integers(len(states))], candidates)
            self._score(initial[0], BATCHES[-1], events=0)
            if isinstance(self.model, BaselineModel):
                self._windows(self.model, initial)
        if not self.histories:
            raise ParityError(
                f"no history could be compared: in each of {max(BATCHES)} the two largest read weights came closer "
                f"than {MARGIN}; the model does not distinguish its slots: train it further"
            )
        return ParityReport(self.steps, self.scores, self.histories, self.undecided)

    def vectors(self, *shape: int) -> Floats:
        return self._drawn(*shape)[0]

    def _drawn(self, *shape: int) -> tuple[Floats, NDArray[np.int64]]:
        """Vectors of events or candidates, and the rows of their items."""
        items = self.random.integers(self.model.items.num_embeddings, size=shape)
        categories = torch.from_numpy(self.random.integers(self.model.categories.num_embeddings, size=shape))
        return served_vectors(self.model, torch.from_numpy(items), categories), items

    def events(self, *shape: int) -> Floats:
        """Vectors that drawn actions have changed, as UIC computes them; compared with PyTorch and with the rule."""
        if self.model.actions is None:
            return self.vectors(*shape)
        items = torch.from_numpy(self.random.integers(self.model.items.num_embeddings, size=shape))
        categories = torch.from_numpy(self.random.integers(self.model.categories.num_embeddings, size=shape))
        rule = self.model.actions.value
        actions = self.random.choice(np.flatnonzero(rule.folded), size=shape)
        vectors = served_vectors(self.model, items, categories)
        if rule.plain:
            return vectors
        events = rule.apply(vectors.reshape(-1, vectors.shape[-1]), actions.reshape(-1)).reshape(vectors.shape)
        pytorch = self.model.events(items, categories, torch.from_numpy(actions)).numpy()
        self._equal("events with their actions", "PyTorch", events, pytorch, TOLERANCE)
        plain = [
            self.reference.event(vector.astype(np.float64), int(action), self.model.actions.rules[NAMES[action]])
            for vector, action in zip(vectors.reshape(-1, vectors.shape[-1]), actions.reshape(-1), strict=True)
        ]
        equations = np.array(plain, np.float32).reshape(events.shape)
        self._equal("events with their actions", "the equations", events, equations, TOLERANCE)
        return events

    def _fold(self, initial: Floats) -> Floats:
        """Fold histories in all three ways; returns all intermediate states, [users * (HISTORY + 1), F]."""
        users = max(BATCHES)
        events = self.events(users, HISTORY)
        state = np.tile(initial, (users, 1))
        way = [state]
        for t in range(HISTORY):
            state = self.step(np.ascontiguousarray(events[:, t]), state)
            way.append(state)
        if self.layout.half_floats:
            unrolled = torch.from_numpy(np.tile(initial, (users, 1)))
            for t in range(HISTORY):
                unrolled = self.torch_step(torch.from_numpy(events[:, t]), unrolled)
        else:
            unrolled = unroll(self.model.cell, torch.from_numpy(events), self.model.cell.initial(users))[:, -1]
        for user in range(users):
            blocks, gap = self.reference.fold(events[user], self.reference.initial())
            if gap < MARGIN:
                self.undecided += 1
                continue
            self.histories += 1
            where = f"after folding {HISTORY} events one at a time"
            self._equal_states(
                where, "PyTorch's unrolled sequence", state[user], unrolled[user].numpy(), self.fold_tolerance
            )
            self._equal_states(where, "the equations", state[user], self.reference.flat(blocks), self.fold_tolerance)
        return np.concatenate(way)

    def _one_step(self, states: Floats, events: Floats) -> None:
        got = self.step(events, states)
        pytorch = self.torch_step(torch.from_numpy(events), torch.from_numpy(states)).numpy()
        for row, (event, state) in enumerate(zip(events, states, strict=True)):
            blocks, gap = self.reference.step(event.astype(np.float64), self.reference.blocks(state))
            if gap < MARGIN:
                self.undecided += 1
                continue
            self.steps += 1
            where = f"after one step at batch {len(states)}, row {row}"
            self._equal_states(where, "PyTorch", got[row], pytorch[row], self.step_tolerance)
            self._equal_states(where, "the equations", got[row], self.reference.flat(blocks), self.step_tolerance)

    def _score(self, state: Floats, candidates: int, events: int = HISTORY) -> None:
        """Compare the scores of some candidates on one state; with a sketch its counters hold some events."""
        vectors, items = self._drawn(candidates)
        width = len(self.model.config.context_features) + request_width(self.model.fields)
        context = self.random.normal(size=(1, width)).astype(np.float32)
        asked = with_item_fields(self.model, vectors, items)
        inputs: list[NDArray[Any]] = [asked, state[np.newaxis]]
        held: Sequence[Floats | None] = [None] * candidates
        if self.model.config.sketch is not None:
            whole, addresses, now, counts = self._counted(self.model.config.sketch, state, candidates, events)
            inputs, held = [asked, whole, addresses, now], list(counts)
        reads = self.random.normal(size=(candidates, self.model.config.read_width)).astype(np.float32)
        inputs += [value for value in (reads, context) if value.size]
        got = self.head(*inputs)
        pytorch = self.torch_head(*(torch.from_numpy(value) for value in inputs)).numpy()
        blocks = self.reference.blocks(state)
        of_items = asked[:, : item_width(self.model.fields)].astype(np.float64)
        equations = [
            self.reference.score(
                blocks,
                vector,
                context[0].astype(np.float64),
                None if holds is None else holds.astype(np.float64),
                of_item,
                reads=read.astype(np.float64) if read.size else None,
            )
            for vector, holds, of_item, read in zip(vectors, held, of_items, reads, strict=True)
        ]
        self.scores += candidates
        where = f"scores of {candidates} candidates"
        self._equal(where, "PyTorch", got, pytorch, TOLERANCE)
        self._equal(where, "the equations", got, np.array(equations, np.float32), TOLERANCE)

    def _windows(self, model: BaselineModel, initial: Floats) -> None:
        """Compare scores on folded states with those that training and evaluation compute of whole windows.

        The counters are empty: they are not the model's own.
        """
        users, config = max(BATCHES), model.config
        rows = [
            self.random.integers(table.num_embeddings, size=(users, HISTORY + 1))
            for table in (model.items, model.categories)
        ]
        items, categories = (torch.from_numpy(of) for of in rows)
        rule = None if model.actions is None else model.actions.value
        actions = np.zeros((users, HISTORY), np.int64)
        if rule is not None:
            actions = self.random.choice(np.flatnonzero(rule.folded), size=actions.shape)
        state = np.tile(initial, (users, 1))
        for t in range(HISTORY):
            event = served_vectors(model, items[:, t], categories[:, t])
            state = self.step(event if rule is None or rule.plain else rule.apply(event, actions[:, t]), state)
        score = model.scorer(
            items[:, :-1], categories[:, :-1], torch.full((users,), HISTORY), actions=torch.from_numpy(actions)
        )
        request = self.random.normal(size=(users, 1, request_width(model.fields))).astype(np.float32)
        reads = self.random.normal(size=(users, 1, config.read_width)).astype(np.float32)
        known = {"context": request[:, 0], "reads": reads}
        if config.sketch is not None:
            cells = (users, 1, config.sketch.addresses, len(config.sketch.half_lives))
            known["counts"] = np.zeros(cells, np.float32)
        windows = score(
            items[:, -1:], categories[:, -1:], **{name: torch.from_numpy(of) for name, of in known.items() if of.size}
        ).numpy()
        for user in range(users):
            vectors = served_vectors(model, items[user, -1:], categories[user, -1:])
            inputs = [with_item_fields(model, vectors, rows[0][user, -1:]), state[user : user + 1]]
            if config.sketch is not None:
                inputs[1] = np.pad(inputs[1], ((0, 0), (config.sketch.values, len(config.sketch.half_lives))))
                inputs += [np.zeros((1, config.sketch.addresses), np.int64), config.sketch.moments(np.array([0]))]
            inputs += [of[user] for of in (reads, request) if of.size]
            where = f"the score after folding {HISTORY} events one at a time"
            self._equal(where, "training's windows", self.head(*inputs), windows[user], self.fold_tolerance)
        self.scores += users

    def _counted(
        self, sketch: Sketch, state: Floats, candidates: int, events: int
    ) -> tuple[Floats, NDArray[np.int64], Floats, Floats]:
        """`state` with the counters of some events added, and what candidates read: their addresses, the time, and the
        values of their cells [C, A, S] within the model's limit. Counters are compared with sums over the events."""
        config, random = self.model.config, self.random
        items = random.integers(2**64, size=events + candidates, dtype=np.uint64)
        # Few different items, so cells repeat; some events are late.
        items = items[random.integers(-(-len(items) // 4), size=len(items))]
        rows = random.integers(self.model.categories.num_embeddings, size=len(items))
        times = 1_700_000_000_000 + np.sort(random.integers(200 * DAY_MS, size=events))
        times[::7] -= random.integers(40 * DAY_MS, size=len(times[::7]))
        now = int(times.max(initial=1_700_000_000_000)) + int(random.integers(50 * DAY_MS))
        whole = np.concatenate([np.zeros(sketch.values), state, np.zeros(len(sketch.half_lives))])
        whole = whole.astype(np.float32)[np.newaxis]
        addresses = sketch.addresses_of(items, rows)
        for address, moment in zip(addresses, sketch.moments(times), strict=False):
            sketch.add(whole, address[np.newaxis], moment[np.newaxis])
        moment, asked = sketch.moments(np.array([now])), addresses[events:]

        def values(addresses: NDArray[np.int64]) -> Floats:
            inputs = (torch.from_numpy(of) for of in (whole, addresses, moment))
            read: Floats = SketchReader(sketch).counts(*inputs)[0].numpy()
            return read

        held, totals = values(asked), values(np.arange(sketch.row)[:, np.newaxis]).sum((0, 1))
        its = [cells(config, int(item), int(row)) for item, row in zip(items, rows, strict=True)]
        touched = list(zip(times.tolist(), its, strict=False))
        sums = [[[count(c, days, touched, now) for days in sketch.half_lives] for c in one] for one in its[events:]]
        self._equal("counters", "sums over the events", held, np.array(sums, np.float32), SKETCH_TOLERANCE)
        added_up = np.array([total(days, times.tolist(), now) for days in sketch.half_lives], np.float32)
        self._equal("all counters", "the sum of the events", totals, added_up, SKETCH_TOLERANCE)
        return whole, asked, moment, scaled(held, totals, config.sketch_limit).astype(np.float32)

    def _equal_states(self, where: str, other: str, got: Floats, want: Floats, tolerance: float) -> None:
        for name, value in self.layout.view(want).items():
            self._equal(f"block `{name}` {where}", other, self.layout.view(got)[name], value, tolerance)

    def _equal(self, what: str, other: str, got: Floats, want: Floats, tolerance: float) -> None:
        if got.shape != want.shape:
            raise ParityError(f"{what}: shape {got.shape} from ONNX, {want.shape} from {other}")
        difference = np.abs(got.astype(np.float64) - want)
        allowed = tolerance * (1 + np.abs(want))
        # In this form a NaN on either side also counts as a difference.
        if not bool(np.all(difference <= allowed)):
            raise ParityError(
                f"{what}: ONNX and {other} differ by {float(np.max(difference)):.3g}, "
                f"allowed are {tolerance:g} + {tolerance:g} * |x|"
            )
