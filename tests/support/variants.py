"""The variants of the C library, each compiled once for all tests of a process."""

from __future__ import annotations

import ctypes
import tempfile
from functools import cache
from pathlib import Path

import pytest

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
    if why := build(variant, _folder()):
        pytest.fail(why)
    return _folder() / file_name(variant)


@cache
def _folder() -> Path:
    _kept.append(folder := tempfile.TemporaryDirectory(prefix="variants-"))
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
"""Removed when the process ends."""
