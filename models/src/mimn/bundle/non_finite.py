"""Refuses a bundle whose graphs have weights, or give scores, that are no finite numbers.

Golden cases are few: a graph may pass them and fail for the candidate beside them. A request with one such candidate
fails as a whole, so such a bundle is refused when it is loaded, and not by its users.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle.arrays import finite
from mimn.bundle.bundle import Bundle
from mimn.bundle.golden import HeadFunction
from mimn.bundle.specs import BundleError
from mimn.rows.onnx_file import NotReadable, weights

USERS, CANDIDATES = 8, 128
"""At most so many users, and candidates for each: about 10 ms of a load."""
_UNKNOWN = np.uint64(2**64 - 1)


def check_weights(path: Path) -> None:
    """Look at the weights of the graph at `path` that are float32; the others are left to the scores.

    Raises:
        BundleError: one has a number that cannot be used; the message names it.
    """
    with suppress(NotReadable):  # onnxruntime has read it: it has another form than graphs that are compiled
        for name, numbers in weights(path.read_bytes()):
            if not (finite(numbers) or _is_mask(numbers)):
                raise BundleError(
                    f"{path}: the weight {name!r} has a number that is not finite: look for where the training "
                    "diverged, and export an earlier checkpoint"
                )


def _is_mask(numbers: NDArray[np.float32]) -> bool:
    """Whether a constant has infinite numbers on purpose: it has none but those and zeros, as what is added before a
    maximum or a softmax."""
    return bool((np.isinf(numbers) | (numbers == 0)).all())


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
            first = int(bad[0])
            raise BundleError(
                f"{bundle.path}: the head gives {len(bad)} of {CANDIDATES} candidates a score that is not finite, such "
                f"as item {items[first]} of category {categories[first]} for {'a golden user' if number else 'a user'}"
                f"{'' if number else ' without events'}: requests with them would fail"
            )
