"""What every peer does for a request: JSON → ids → the user's key, and stored value → inputs → head → JSON. Pure.

Reader, inputs and graph are those of `mimn`, as whoever takes another engine would take them. What RTP does besides is
left out, to the peers' advantage: no checks of the request, no deadline, admission, metrics, padding or staleness.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, BundleError
from mimn.bundle.candidates import CandidateTables, Write
from mimn.bundle.graph import open_head
from mimn.calibration import Uncalibrated
from mimn.state import Keys, decode_state, partition_of


class Candidate(msgspec.Struct, gc=False):
    """One item that could be shown."""

    item_id: int
    category_id: int


class Request(msgspec.Struct, gc=False):
    """The body of a request."""

    user_id: str
    candidates: list[Candidate]
    request_id: str = ""


class State(msgspec.Struct, gc=False):
    """What the scores rest on."""

    status: str
    events: int
    age_ms: int | None = None
    partial: bool = False


class Model(msgspec.Struct, gc=False):
    """Which model scored."""

    name: str
    version: str


class Answer(msgspec.Struct, gc=False):
    """The body of an answer: the fields of RTP's."""

    request_id: str
    model: Model
    scores: list[float]
    state: State
    arm: str = "serving"
    calibrated: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that was read."""

    key: str
    """Of the user's state in the store."""
    request_id: str
    items: NDArray[np.uint64]
    """[C]"""
    categories: NDArray[np.uint64]
    """[C]"""


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Arrays of the head for one count of candidates."""

    ids: NDArray[np.uint64]
    """[2, C]: items and categories."""
    vectors: NDArray[np.float32]
    cells: NDArray[np.int64] | None
    look_up: Write
    """Writes vectors and cells of the ids."""


class Work:
    """A bundle's head behind the two functions that a peer calls, with one GET between them. For one thread."""

    def __init__(
        self,
        bundle: Bundle,
        keys: Keys,
        partitions: int,
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        """Open the head.

        Args:
            bundle:     whose states are stored.
            keys:       of its namespace.
            partitions: of the topic, as the namespace's meta record says.
            wall_ms:    the time of a request, for a sketch.

        Raises:
            BundleError: the graph cannot be loaded, or reads more than candidates and a state.
        """
        calibrated = not isinstance(bundle.manifest.calibration, Uncalibrated)
        if bundle.request.width or bundle.reads is not None or calibrated:
            raise BundleError(
                f"{bundle.name} has fields, a ledger or a calibrator, which peers do not read: "
                "compare engines with a bundle that has none, such as models/bundles/online-retail/1"
            )
        self._bundle = bundle
        self._keys = keys
        self._partitions = partitions
        self._wall_ms = wall_ms
        self._head = open_head(bundle)
        self._sketch = None if bundle.sketch is None else bundle.sketch.sketch
        self._tables = CandidateTables(bundle.asked_items, bundle.categories, self._sketch)
        self._inputs: dict[int, _Inputs] = {}
        self._context = np.zeros(0, np.float32)
        self._model = Model(bundle.manifest.name, bundle.manifest.version)
        self._decode = msgspec.json.Decoder(Request).decode

    def read(self, body: bytes) -> Asked:
        """What a request asks.

        Raises:
            msgspec.DecodeError: the body is not a request.
        """
        return self.asked_by(self._decode(body))

    def asked_by(self, request: Request) -> Asked:
        """The same of a decoded body."""
        return self.asked(
            request.user_id,
            np.array([candidate.item_id for candidate in request.candidates], np.uint64),
            np.array([candidate.category_id for candidate in request.candidates], np.uint64),
            request.request_id,
        )

    def asked(
        self, user_id: str, items: NDArray[np.uint64], categories: NDArray[np.uint64], request_id: str = ""
    ) -> Asked:
        """The same of a request that came as arrays. [C], [C]"""
        key = self._keys.state(partition_of(user_id.encode(), self._partitions), user_id)
        return Asked(key, request_id, items, categories)

    def scores(self, asked: Asked, value: bytes | None) -> tuple[NDArray[np.float32], State]:
        """The score of each candidate [C], and what they rest on.

        Args:
            asked: the request.
            value: what the store has under its key; None if nothing.

        Raises:
            StateError: the value is not a state of this bundle.
        """
        tensors, state = self._bundle.initial_state, State("cold", 0)
        if value is not None:
            stored = decode_state(value, self._bundle.fingerprint, self._bundle.layout)
            tensors, state = stored.tensors, State("warm", stored.header.event_count, partial=stored.header.partial)
        vectors, cells = self._looked_up(asked)
        if self._sketch is None:
            return self._head(vectors, tensors, self._context), state
        return self._head(vectors, tensors, self._context, cells, self._sketch.moment(self._wall_ms())), state

    def _looked_up(self, asked: Asked) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """The candidates' vectors and cells, in arrays that the next request of as many candidates overwrites."""
        count = len(asked.items)
        if count not in self._inputs:
            ids = np.zeros((2, count), np.uint64)
            vectors = np.zeros((count, self._tables.width), np.float32)
            cells = None if self._sketch is None else np.zeros((count, self._sketch.addresses), np.int64)
            self._inputs[count] = _Inputs(ids, vectors, cells, self._tables.into(ids[0], ids[1], vectors, cells))
        found = self._inputs[count]
        found.ids[0], found.ids[1] = asked.items, asked.categories
        found.look_up(count)
        return found.vectors, found.cells

    def answer(self, asked: Asked, value: bytes | None) -> Answer:
        """The same as the body of an answer."""
        scores, state = self.scores(asked, value)
        return Answer(asked.request_id, self._model, scores.tolist(), state)
