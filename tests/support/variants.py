"""The variants of the C library, each compiled once for all processes of a test run."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from pathlib import Path

import pytest

from mimn.file_lock import hold
from mimn.rows.library import NEEDS, build, features, file_name, load
from support import skips


def library_of(variant: str) -> ctypes.CDLL:
    """The variant, which must compile everywhere; the test is skipped if the processor cannot run it."""
    path = _compiled(variant)
    if not NEEDS[variant] <= features():
        pytest.skip(skips.NO_AVX512)
    return load(path)


@cache
def _compiled(variant: str) -> Path:
    folder = Path(os.environ["CTR_CACHE"]) / "variants"  # see conftest.py
    folder.mkdir(exist_ok=True)
    path = folder / file_name(variant)
    with (folder / f"{variant}.lock").open("w") as lock:
        hold(lock, wait=True)
        if not path.exists() and (why := build(variant, folder)):
            pytest.fail(why)
    return path
