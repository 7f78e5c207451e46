"""Refuses a bundle whose graphs have weights that are NaN, or give scores that are no finite numbers.

An infinite constant may be meant: a mask, a bound, an edge of the outermost interval. The scores judge those.

Golden cases are few: a graph may pass them and fail for the candidate beside them. A request with one such candidate
fails as a whole, so such a bundle is refused when it is loaded, and not by its users.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import finite
from mimn.bundle.bundle import Bundle
from mimn.bundle.golden import HeadFunction
from mimn.bundle.specs import HEAD, BundleError
from mimn.rows.onnx_file import NotReadable, weights

USERS, CANDIDATES = 8, 128
"""At most so many users, and candidates for each: about 10 ms of a load."""


def check_weights(path: Path) -> None:
    """Look at the weights that the graph at `path` reads and that are float32; the others are left to the scores.

    Raises:
        BundleError: one has a NaN; the message names it.
    """
    for name, numbers in _not_finite(path):
        if np.isnan(numbers).any():
            raise BundleError(
                f"{path}: the weight {name!r} has a NaN: look for where the training diverged, and export an earlier "
                "checkpoint"
            )


def _not_finite(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Name and numbers of the weights with a number that is not finite."""
    with suppress(NotReadable):  # onnxruntime has read it: it has another form than graphs that are compiled
        yield from ((name, numbers) for name, numbers in weights(path.read_bytes()) if not finite(numbers))


def check_scores(bundle: Bundle, head: HeadFunction) -> None:
    """Score candidates of all tables for golden users, with golden requests, and for a user without events.

    All inputs are such as a request may have, so a head that fails here would fail a request.

    Raises:
        BundleError: a score is no finite number.
    """
    golden, random = bundle.golden, np.random.default_rng(0)
    cold = bundle.initial_state, np.zeros_like(golden.context[0])
    users = [cold, *zip(golden.states[: USERS - 1], golden.context, strict=False)]
    times = np.zeros(1, np.int64) if golden.now is None else golden.now
    for number, (state, context) in enumerate(users):
        items, categories = (table.drawn(random, CANDIDATES) for table in (bundle.asked_items, bundle.categories))
        now_ms = int(times[max(number - 1, 0) % len(times)])
        further: dict[str, NDArray[Any]] = {}
        if bundle.sketch is not None:
            further["addresses"] = bundle.sketch.addresses(items, categories)
            further["now"] = bundle.sketch.sketch.moment(now_ms)
        if bundle.reads is not None:
            further["reads"] = bundle.reads.read(bundle.reads.ledger.of(state), items, now_ms)
        scores = head(bundle.candidates(items, categories), state, context, **further)
        if len(bad := np.flatnonzero(~np.isfinite(scores))):
            first, infinite = int(bad[0]), [name for name, _ in _not_finite(bundle.path / HEAD)]
            raise BundleError(
                f"{bundle.path}: the head gives {len(bad)} of {CANDIDATES} candidates a score that is not finite, such "
                f"as item {items[first]} of category {categories[first]} for {'a golden user' if number else 'a user'}"
                f"{'' if number else ' without events'}: requests with them would fail. The likely cause is weights "
                f"that are not finite or too large{f' ({infinite[0]!r} is infinite)' if infinite else ''}: look for "
                "where the training diverged, and export an earlier checkpoint"
            )
