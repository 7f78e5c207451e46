"""A stack that has folded a small log: the starting point of the end-to-end tests of one kind of state."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import redis
from numpy.typing import NDArray

from localstack.replay import Records, States, expect, replay, wait_folded
from localstack.shoppers import Shopper
from localstack.stack import Addresses, Options, Stack
from localstack.wait import until
from localstack.web import web
from mimn.bundle import Bundle, load_bundle
from mimn.data.events import Events
from mimn.state import Keys, UserState, decode_state, namespace, partition_of, user_hash

PARTITIONS = 8
PATIENT_MS = "30000"
PATIENT = {"X-Request-Deadline-Ms": PATIENT_MS}
"""For requests whose time is not what is tested: other programs share the machine."""


class FoldedLog:
    """The users of a log, their stored states, and the scores that RTP gives them."""

    def __init__(self, bundle: Bundle, users: Sequence[Shopper], at: Addresses) -> None:
        self.users = users
        self._bundle, self._at = bundle, at
        self._keys = Keys(namespace(bundle.fingerprint.hex()), at.prefix)
        self._redis = redis.Redis.from_url(at.redis_url, protocol=2)

    def state(self, user_id: str) -> UserState:
        """A user's stored state, which must exist."""
        value = self._redis.get(self._keys.state(partition_of(user_id.encode(), PARTITIONS), user_id))
        assert isinstance(value, bytes)
        return decode_state(value, self._bundle.fingerprint, self._bundle.layout, user_hash(user_id))

    def predict(
        self, user_id: str, items: NDArray[np.uint64], categories: NDArray[np.uint64], /, **fields: Any
    ) -> dict[str, Any]:
        """RTP's answer for these candidates, which must succeed. `fields`: `user` and `context`."""
        asked = [{"item_id": str(i), "category_id": str(c)} for i, c in zip(items, categories, strict=True)]
        return self._ask(200, user_id=user_id, candidates=asked, **fields)

    def refused(self, user_id: str, **fields: Any) -> dict[str, Any]:
        """What RTP says to a request whose fields are wrong."""
        return self._ask(422, user_id=user_id, candidates=[{"item_id": 1, "category_id": 0}], **fields)

    def _ask(self, status: int, **body: Any) -> dict[str, Any]:
        response = web().post(f"{self._at.predict}/predict", json=body, timeout=60, headers=PATIENT)
        assert response.status_code == status, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def close(self) -> None:
        """Close the store's connections."""
        self._redis.close()


@contextmanager
def folded_stack(
    folder: Path,
    path: Path,
    feed: Callable[[str, str], dict[str, Records]],
    *,
    partitions: int = PARTITIONS,
    within_s: float = 60,
) -> Iterator[tuple[Addresses, dict[str, Records]]]:
    """A stack with the bundle at `path` that has folded what `feed` produces, and each user's records.

    `feed` gets the broker's address and the topic; it returns each user's records that are to be folded.
    """
    given, name = Options.from_environment(), f"folded-{time.time_ns()}"
    options = Options(
        folder=folder / "stack",
        bundle=path,
        redis_url=given.redis_url,
        bootstrap=given.bootstrap,
        topic=name,
        prefix=name,
        partitions=partitions,
        rtp={"RTP_DEADLINE__MAX_MS": PATIENT_MS, "RTP_REDIS__CONNECT_TIMEOUT_MS": PATIENT_MS},
    )
    with Stack(options) as stack:
        at = stack.addresses
        records = feed(at.bootstrap, name)
        states = States(at.redis_url, path, prefix=name, partitions=partitions)
        wait_folded(states, {user: expect(rows) for user, rows in records.items()}, within_s=within_s)
        states.close()
        yield at, records


@contextmanager
def folded_log(folder: Path, path: Path, events: Events) -> Iterator[FoldedLog]:
    """A stack with the bundle at `path`, when all `events` are folded and RTP knows it."""
    bundle, bounds = load_bundle(path), events.bounds
    users = [
        Shopper(str(user), range(int(begin), int(end)), 0, 0, ())
        for user, begin, end in zip(events.users, bounds[:-1], bounds[1:], strict=True)
    ]
    with folded_stack(folder, path, lambda bootstrap, topic: replay(bootstrap, topic, events, users)) as (at, _):
        log = FoldedLog(bundle, users, at)
        some = bundle.items.ids[:1], bundle.categories.ids[:1]
        until(
            lambda: log.predict(users[0].user_id, *some)["state"]["status"] == "warm",
            "RTP has seen that the log is folded",
            within_s=60,
        )
        try:
            yield log
        finally:
            log.close()
