"""What every peer does for a request: JSON → ids → the user's key, and stored value → inputs → head → JSON. Pure.

Reader, inputs and graph are those of `mimn`, as whoever takes another engine would take them. What RTP does besides is
left out, to the peers' advantage: no checks of the request, no deadline, admission, metrics, padding or staleness.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mimn.bundle import Bundle, BundleError
from mimn.bundle.candidates import CandidateTables
from mimn.bundle.graph import open_head
from mimn.calibration import Uncalibrated
from mimn.rows.stored import decode
from mimn.state import Keys, partition_of


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
    further: dict[str, NDArray[Any]]
    """With a sketch the candidates' cells and the time of the request, with a ledger what is read of it."""
    look_up: Callable[[int], int]
    """Writes vectors and cells of the ids."""
    read: Callable[[int, int], None] | None
    """Writes what is read of the user's ledger; None without one."""


def check_servable(bundle: Bundle) -> None:
    """Make sure that peers can score with a bundle.

    Raises:
        BundleError: it reads more of a request than candidates, or has a calibrator.
    """
    if bundle.request.width or not isinstance(bundle.manifest.calibration, Uncalibrated):
        raise BundleError(
            f"{bundle.name} has fields or a calibrator, which peers do not read: "
            "compare engines with a bundle that has none, such as models/bundles/online-retail-ledger/2"
        )


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
            wall_ms:    the time of a request, for a sketch and a ledger.

        Raises:
            BundleError: the graph cannot be loaded, or as `check_servable`.
        """
        check_servable(bundle)
        self._bundle = bundle
        self._keys = keys
        self._partitions = partitions
        self._wall_ms = wall_ms
        self._head = open_head(bundle)
        self._sketch = None if bundle.sketch is None else bundle.sketch.sketch
        self._tables = CandidateTables(bundle.asked_items, bundle.categories, self._sketch)
        self._state = np.array(bundle.initial_state)
        self._now = np.zeros(0, np.float32) if self._sketch is None else self._sketch.moment(0)
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
            stored = decode(value, self._bundle.fingerprint, self._bundle.layout)
            tensors, state = stored.tensors, State("warm", stored.header.event_count, partial=stored.header.partial)
        count, now_ms = len(asked.items), self._wall_ms()
        given = self._inputs.get(count) or self._inputs_of(count)
        given.ids[0], given.ids[1] = asked.items, asked.categories
        given.look_up(count)
        if self._sketch is not None:
            self._now[:] = self._sketch.moment(now_ms)
        if given.read is not None:
            self._state[:] = tensors
            given.read(count, now_ms)
        return self._head(given.vectors, tensors, self._context, **given.further), state

    def _inputs_of(self, count: int) -> _Inputs:
        """Arrays that each request of as many candidates overwrites."""
        ids = np.zeros((2, count), np.uint64)
        vectors = np.zeros((count, self._tables.width), np.float32)
        further: dict[str, NDArray[Any]] = {}
        cells, read = None, None
        if self._sketch is not None:
            cells = np.zeros((count, self._sketch.addresses), np.int64)
            further |= {"addresses": cells, "now": self._now}
        if (reads := self._bundle.reads) is not None:
            further["reads"] = np.zeros((count, reads.width), np.float32)
            read = reads.into(reads.ledger.of(self._state), ids[0], further["reads"])
        made = _Inputs(ids, vectors, further, self._tables.into(ids[0], ids[1], vectors, cells), read)
        self._inputs[count] = made
        return made

    def answer(self, asked: Asked, value: bytes | None) -> Answer:
        """The same as the body of an answer."""
        scores, state = self.scores(asked, value)
        return Answer(asked.request_id, self._model, scores.tolist(), state)
