"""Context features by name to the vector that the head reads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rtp.errors import FieldFault, InvalidRequest

MISSING = 0.0
"""The value of a feature that a request leaves out, so that a bundle with a new feature can be rolled out before
callers send it. A feature that they send too early is refused, because nothing else shows that it has no effect."""
NONE = np.zeros(0, np.float32)


def context_vector(names: tuple[str, ...], given: Mapping[str, float]) -> NDArray[np.float32]:
    """The values of `given` in the order of `names`, `MISSING` where there is none. [K] float32.

    Raises:
        InvalidRequest: a feature that the model does not read, or a value beyond float32.
    """
    if not names and not given:
        return NONE
    values = np.array([given.get(name, MISSING) for name in names], np.float64)
    if faults := [
        FieldFault(f"context.{name}", f"not a feature of this model; it reads {', '.join(names) or 'none'}")
        for name in given
        if name not in names
    ]:
        raise InvalidRequest(faults)
    limit = np.finfo(np.float32).max
    if faults := [
        FieldFault(f"context.{name}", f"must lie within ±{limit:.4g} (float32)")
        for name, value in zip(names, values, strict=True)
        if abs(value) > limit
    ]:
        raise InvalidRequest(faults)
    return values.astype(np.float32)
