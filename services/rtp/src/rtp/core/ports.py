"""The two outside things that scoring needs: a store of bytes, and a model.

`rtp.store` and `rtp.runtime` implement them; tests have fakes that pass the same suite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.request_fields import RequestFields
from mimn.state import StateLayout
from rtp.errors import StoreError


class StateReader(Protocol):
    """Reads values by key. Knows nothing of what they mean. Writes only that this process is alive."""

    @property
    def troubles(self) -> list[str]:
        """What is wrong with the store, or on the way to it, that no background read says; for operators."""
        ...

    @property
    def sentinels(self) -> str | None:
        """Why no failover is followed, or none is made, as of when the Sentinels were last asked: none named the
        master, or they are too few. Empty: all is well; None: there are none, or they were not asked yet. Reads may go
        well all the same."""
        ...

    async def read(self, key: str, timeout_s: float) -> bytes | None:
        """The value under `key`, None if there is none; one round trip.

        Raises:
            StoreLate: no reply within `timeout_s` seconds.
            StoreAway, StoreRefused: as the names say.
        """
        ...

    async def read_again(self, timeout_s: float) -> None:
        """Where `troubles` has a failed `read`, and none was asked for a while, the same key once more, as `read` asks:
        without requests nothing else tells that they would be answered. For background work.
        """
        ...

    async def read_each(self, keys: Sequence[str], timeout_s: float) -> list[bytes | StoreError | None]:
        """The values under `keys`, in order, and in place of each that a node of a cluster does not give, why. For
        background work: it asks even while `read` does not.

        Raises: as `read`, if there is no answer at all.
        """
        ...

    async def read_many(self, keys: Sequence[str], timeout_s: float) -> list[bytes | None]:
        """As `read_each`, all of them.

        Raises: as `read`.
        """
        ...

    async def sample(self, pattern: str, most: int, timeout_s: float) -> tuple[list[bytes], bool]:
        """Up to `most` different keys that match a glob pattern, in no useful order, and whether these are all there
        are. Looks at a bounded part of the store. For background work.

        Raises: as `read`.
        """
        ...

    async def count(self, keys: Sequence[bytes], timeout_s: float) -> int:
        """How many of `keys`, all different, exist. For background work.

        Raises: as `read`.
        """
        ...

    async def time_ms(self, timeout_s: float) -> int:
        """The store's clock, in ms since 1970; of a cluster's masters that answer, the one that is furthest ahead, as
        UIC takes it. For background work.

        Raises: as `read`.
        """
        ...

    async def announce(self, name: str, into: str, key: str, value: bytes, *, lasts_s: float, timeout_s: float) -> None:
        """Put `name` into the set under `into`, and `value` under `key` for `lasts_s` seconds. For background work.

        Raises: as `read`.
        """
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


class Model(Protocol):
    """A loaded bundle, ready to score. Used from one thread at a time."""

    @property
    def name(self) -> str:
        """The bundle's name."""
        ...

    @property
    def version(self) -> str:
        """The bundle's version."""
        ...

    @property
    def sha256(self) -> str:
        """Of the bundle's manifest, in hex: the same bundle has the same."""
        ...

    @property
    def fingerprint(self) -> bytes:
        """32 bytes: states are read under this fingerprint only."""
        ...

    @property
    def layout(self) -> StateLayout:
        """How a state is stored."""
        ...

    @property
    def initial_state(self) -> NDArray[np.float32]:
        """[F]: the state of a user without events."""
        ...

    @property
    def request(self) -> RequestFields:
        """The fields of a request that the head reads."""
        ...

    @property
    def calibrated(self) -> bool:
        """Whether scores are click probabilities."""
        ...

    @property
    def compiled(self) -> bool:
        """Whether the head is compiled; if not, it runs on onnxruntime."""
        ...

    @property
    def unknown_items(self) -> int:
        """How many of the candidates that were scored last have an item that the bundle does not know: all of these
        get the same vector."""
        ...

    def cost_s(self, candidates: int) -> float:
        """About how long `score` takes for `candidates` candidates, in seconds."""
        ...

    def score(
        self,
        item_ids: NDArray[np.uint64],
        category_ids: NDArray[np.uint64],
        state: NDArray[np.float32],
        context: NDArray[np.float32],
        now_ms: int,
    ) -> NDArray[np.float32]:
        """The score of each candidate at the time `now_ms`. [C], [C], [F], [K] → [C] float32 in [0, 1].

        A candidate's score depends on nothing but itself, the state, the request's fields, and with a sketch the time.

        Raises:
            ScoringFailed: the graph failed, or a score is not a finite number.
        """
        ...
