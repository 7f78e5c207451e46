"""The variants of the C extension."""

from __future__ import annotations

import ctypes

import pytest

from mimn.rows.library import load, path_of, runs
from support import skips


def library_of(variant: str) -> ctypes.CDLL:
    """A variant; the test is skipped if it was not built, or if the processor cannot run it."""
    path = path_of(variant)
    if path is None:
        pytest.skip(skips.NO_COMPILED_STEP)
    if not runs(variant):
        pytest.skip(skips.NO_AVX512)
    return load(path)
