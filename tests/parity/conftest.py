"""Tests that export many graphs in one process."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def operators_are_listed_once() -> Iterator[None]:
    """Every `torch.onnx.export` lists all operators again, which takes a fifth of the time of a small graph."""
    registration = pytest.importorskip("torch.onnx._internal.exporter._registration")
    listed: Any = cache(registration.ONNXRegistry.from_torchlib.__func__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registration.ONNXRegistry, "from_torchlib", classmethod(listed))
        yield
