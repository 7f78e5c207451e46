"""Golden cases: a few histories with the states and scores that the exporting process computed for them.

A program that loads a bundle folds them through its own runtime before serving. A wrong library version or file is then
found at startup and not in a lower click-through rate. The same runs warm up the runtime.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.reads import Reads
from mimn.state.ledger import Ledger, rest_of
from mimn.state.sketch import Sketch

StepFunction = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""(events [B, D or 2], state [B, F]) → state [B, F], with a sketch only the `rest` of a state"""
HeadFunction = Callable[..., NDArray[np.float32]]
"""(candidates [C, D], state [F], context [K]), with a sketch also (addresses [C, A], now [2, S]), with a ledger also
(reads [C, R]) by name → scores [C]"""
VectorFunction = Callable[[NDArray[np.uint64], NDArray[np.uint64]], NDArray[np.float32]]
"""(item ids [k], category ids [k]) → vectors of candidates [k, D]"""
EventFunction = Callable[..., NDArray[np.float32]]
"""(item ids [k], category ids [k]), with actions also (their numbers [k]) → vectors [k, D], or rows [k, 2] if states
are lists"""


class Encoded(Protocol):
    """`mimn.bundle.request_fields.RequestVector`."""

    @property
    def values(self) -> NDArray[np.float32]:
        """[K]"""


RequestFunction = Callable[..., Encoded]
"""(user, context), both by name → the fields' vector"""


class Addressing(Protocol):
    """A sketch, and the mapping from ids to its cells (`mimn.bundle.IdSketch`)."""

    @property
    def sketch(self) -> Sketch:
        """The sizes and rules."""

    def addresses(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64], /) -> NDArray[np.int64]:
        """[k], [k] → [k, A]"""

    def moments(self, times_ms: NDArray[np.int64], actions: NDArray[np.integer], /) -> NDArray[np.float32]:
        """When events happened, and what they count. [k], [k] → [k, 2, S]"""


LAST_BITS = 2.0**-50
"""How far apart the logarithms of two machines may be, as a share of a number."""
TOLERANCE = 1e-5
"""Absolute, and relative to the value."""
HALF = 1e-2
"""The same for the states of a float16 bundle: another processor may round a value between two float16 numbers to the
other side, and the difference persists through later events."""


class GoldenMismatch(Exception):
    """This process computes different numbers than the process that exported the bundle."""


@dataclass(frozen=True)
class Golden:
    """n users with T events each, and C candidates scored for each of them."""

    items: NDArray[np.uint64]
    """[n, T]"""
    categories: NDArray[np.uint64]
    """[n, T]"""
    states: NDArray[np.float32]
    """[n, F], after the T events."""
    candidate_items: NDArray[np.uint64]
    """[C]"""
    candidate_categories: NDArray[np.uint64]
    """[C]"""
    context: NDArray[np.float32]
    """[n, K]: the requests' fields, encoded."""
    scores: NDArray[np.float32]
    """[n, C]"""
    cold_scores: NDArray[np.float32]
    """[C], on the initial state with an all-zero context."""
    times: NDArray[np.int64] | None = None
    """[n, T], ms; with a sketch or a ledger only."""
    now: NDArray[np.int64] | None = None
    """[n], ms: when the candidates are scored; with a sketch or a ledger only."""
    actions: NDArray[np.uint8] | None = None
    """[n, T]: numbers on the wire; with actions only."""
    requests: NDArray[np.str_] | None = None
    """[n]: the fields themselves, as JSON; with fields only."""
    half_floats: int = 0
    """From the layout, not stored here: how many leading values of a state are stored as float16."""

    def to_bytes(self) -> bytes:
        """An uncompressed .npz archive of plain arrays."""
        buffer = io.BytesIO()
        arrays = {name: getattr(self, name) for name in ARRAYS + OPTIONAL_ARRAYS}
        np.savez(buffer, **{name: array for name, array in arrays.items() if array is not None})
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, half_floats: int = 0) -> Golden:
        """Read the archive that `to_bytes` wrote, or another exporter, whose arrays may be of other types: those that
        hold the same numbers.

        Raises:
            ValueError: it is none, has no users or no candidates, arrays of unsuitable types or that do not fit
                together, or scores that are no probabilities.
            KeyError: an array is missing.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                names = (*ARRAYS, *(name for name in OPTIONAL_ARRAYS if name in archive.files))
                golden = cls(**{name: _cast(name, archive[name]) for name in names}, half_floats=half_floats)
        except (BadZipFile, EOFError, AttributeError, TypeError) as error:  # cut, or one plain array
            raise ValueError(f"it is not an archive of arrays ({error})") from error
        golden.check()
        return golden

    def check(self) -> None:
        """Raises ValueError as `from_bytes`. Only an array that fits can be folded and scored."""
        sizes: dict[str, int] = {}
        for name, (_, axes) in _FORMS.items():
            array = getattr(self, name)
            if array is None and name in OPTIONAL_ARRAYS:
                continue
            if array.ndim != len(axes):
                raise ValueError(f"{name} is {array.dtype} {array.shape}")
            for axis, size in zip(axes, array.shape, strict=True):
                if (known := sizes.setdefault(axis, size)) != size:
                    raise ValueError(f"{name} is {array.dtype} {array.shape}, and elsewhere there are {known} {axis}")
        if not sizes["users"]:
            raise ValueError("it has no users")
        if not sizes["candidates"]:
            raise ValueError("it has no candidates")
        for name in ("scores", "cold_scores"):
            scores = getattr(self, name)
            if bool(((scores < 0.0) | (scores > 1.0)).any()):
                raise ValueError(
                    f"{name} lie from {scores.min():.4g} to {scores.max():.4g}: scores are from 0 to 1, so the head "
                    "must end with a sigmoid"
                )

    def verify_step(
        self,
        step: StepFunction,
        events: EventFunction,
        initial: NDArray[np.float32],
        sketch: Addressing | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Fold the histories with `step`, and into the bundle's `sketch` and `ledger` if there are any, and compare the
        states.

        Raises:
            GoldenMismatch: a state differs by more than 1e-5 + 1e-5 * |x| (1e-2 in a float16 bundle), or a bit of a
                ledger does.
        """
        state = np.tile(initial, (len(self.items), 1))
        rest = rest_of(None if sketch is None else sketch.sketch, ledger)
        words = 0 if ledger is None else ledger.words
        plain = state[:, : state.shape[1] - words]
        for t in range(self.items.shape[1]):
            ids = self.items[:, t], self.categories[:, t]
            actions = np.zeros(len(state), np.uint8) if self.actions is None else self.actions[:, t]
            inputs = events(*ids) if self.actions is None else events(*ids, actions)
            state[:, rest] = step(inputs, np.ascontiguousarray(state[:, rest]))
            if sketch is not None:
                sketch.sketch.add(plain, sketch.addresses(*ids), sketch.moments(_array(self.times)[:, t], actions))
            if ledger is not None:
                ledger.add(state, ledger.keys(ids[0]), _array(self.times)[:, t])
        want = self.states[:, : plain.shape[1]]
        _compare("state", plain, want, HALF if self.half_floats else TOLERANCE)
        if ledger is not None and ledger.of(state).tobytes() != ledger.of(self.states).tobytes():
            raise GoldenMismatch("golden ledgers differ: this program writes them by another rule; export it again")

    def verify_request(self, vector: RequestFunction) -> None:
        """Encode the requests and compare with what the head was given.

        A number may also be read as one whose last bits differ: in bundles with edges at numbers of training, golden
        numbers lie at edges, and the logarithm of another machine may be on the other side.

        Raises:
            GoldenMismatch: a value differs by more than 1e-5 + 1e-5 * |x|, or a request is none of this bundle.
        """
        if self.requests is None:
            return
        for request, context in zip(self.requests.tolist(), self.context, strict=True):
            try:
                given = json.loads(request)
                readings = np.stack([vector(**_moved(given, by)).values for by in (0.0, -LAST_BITS, LAST_BITS)])
            except (ValueError, TypeError, AttributeError) as error:
                raise GoldenMismatch(f"a golden request cannot be read ({error}): export the bundle again") from error
            nearest = np.abs(readings - context).argmin(axis=0)
            _compare("request", np.take_along_axis(readings, nearest[np.newaxis], 0)[0], context)

    def verify_head(
        self,
        head: HeadFunction,
        vectors: VectorFunction,
        initial: NDArray[np.float32],
        sketch: Addressing | None = None,
        reads: Reads | None = None,
    ) -> None:
        """Score the candidates with `head` and compare the scores.

        Raises:
            GoldenMismatch: a score differs by more than 1e-5 + 1e-5 * |x|.
        """
        ids = self.candidate_items, self.candidate_categories
        candidates = vectors(*ids)
        known: list[dict[str, NDArray[Any]]] = [{} for _ in self.states]
        if sketch is not None:
            addresses = sketch.addresses(*ids)
            known = [{"addresses": addresses, "now": now} for now in sketch.sketch.moments(_array(self.now))]
        cold_known = dict(known[0])
        if reads is not None:
            times = _array(self.now).tolist()
            for row, state, now_ms in zip(known, self.states, times, strict=True):
                row["reads"] = reads.read(reads.ledger.of(state), ids[0], now_ms)
            cold_known["reads"] = reads.read(reads.ledger.of(initial), ids[0], times[0])
        for state, context, row, scores in zip(self.states, self.context, known, self.scores, strict=True):
            _compare("score", head(candidates, state, context, **row), scores)
        cold = head(candidates, initial, np.zeros_like(self.context[0]), **cold_known)
        _compare("cold score", cold, self.cold_scores)


_FORMS = {
    "items": ("uint64", ("users", "events")),
    "categories": ("uint64", ("users", "events")),
    "states": ("float32", ("users", "values of a state")),
    "candidate_items": ("uint64", ("candidates",)),
    "candidate_categories": ("uint64", ("candidates",)),
    "context": ("float32", ("users", "values of a request")),
    "scores": ("float32", ("users", "candidates")),
    "cold_scores": ("float32", ("candidates",)),
    "times": ("int64", ("users", "events")),
    "now": ("int64", ("users",)),
    "actions": ("uint8", ("users", "events")),
    "requests": ("U", ("users",)),
}
"""Type and axes of each array; axes of one name are of one size."""
OPTIONAL_ARRAYS = ("times", "now", "actions", "requests")
ARRAYS = tuple(field.name for field in fields(Golden) if field.name not in (*OPTIONAL_ARRAYS, "half_floats"))


def _cast(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """An array as the type of `_FORMS`. Whole numbers stay the same; fractions are rounded to float32, which is less
    than `TOLERANCE`, and one that is too large becomes infinite.

    Raises:
        ValueError: it has no numbers where numbers are needed, fractions where whole ones are, or one that the type
            does not have.
    """
    form, kind = _FORMS[name][0], array.dtype.kind
    if form == "U":
        if kind != form:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not text")
        return array
    if kind not in ("iuf" if form == "float32" else "iu"):
        raise ValueError(f"{name} is {array.dtype} {array.shape}, and {form} is needed")
    with np.errstate(over="ignore", invalid="ignore"):
        cast: NDArray[Any] = array.astype(form, copy=False)
    if form != "float32" and not np.array_equal(cast, array):
        raise ValueError(f"{name} is {array.dtype} {array.shape} and has a number that {form} does not have")
    return cast


def _array(array: NDArray[np.int64] | None) -> NDArray[np.int64]:
    if array is None:
        raise GoldenMismatch(
            "the golden cases have no times, which a bundle with a sketch or a ledger needs: export it again"
        )
    return array


def _moved(request: dict[str, dict[str, Any]], by: float) -> dict[str, dict[str, Any]]:
    """The request with each fraction larger by a share of its size."""
    return {
        source: {name: value * (1 + by) if isinstance(value, float) else value for name, value in given.items()}
        for source, given in request.items()
    }


def _compare(what: str, got: NDArray[np.float32], want: NDArray[np.float32], tolerance: float = TOLERANCE) -> None:
    if got.shape != want.shape:
        raise GoldenMismatch(f"golden {what} has shape {got.shape}, expected {want.shape}")
    excess = np.abs(got - want) - tolerance * (1 + np.abs(want))
    if not bool(np.all(excess <= 0)):
        raise GoldenMismatch(
            f"golden {what} differs by {float(np.max(np.abs(got - want))):.3g}: this onnxruntime does not reproduce "
            "the exporting one; export the bundle with this version, or install that one"
        )
