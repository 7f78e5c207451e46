"""Tests that export many graphs in one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def operators_are_listed_once() -> Iterator[None]:
    """Every `torch.onnx.export` lists all operators again, which takes a fifth of the time of a small graph."""
    if find_spec("torch") is None:  # some tests here need none
        yield
        return
    from torch.onnx._internal.exporter import _registration as registration

    registry: Any = registration.ONNXRegistry
    listed: Any = cache(registry.from_torchlib.__func__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "from_torchlib", classmethod(listed))
        yield
