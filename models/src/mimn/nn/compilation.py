"""Compiles the functions that run once per event, if the machine can."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

log = logging.getLogger("mimn.train")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` compiled for any batch size. Without a C++ compiler, `function` itself: the same values, but
    slower."""
    if not compiler():
        log.warning("no C++ compiler found: training runs uncompiled, several times slower; install g++ or set CXX")
        return function
    return torch.compile(function, dynamic=True)


def compiler() -> str | None:
    """The path of the C++ compiler that torch would use; None when there is none."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    return next((path for name in candidates if (path := shutil.which(name))), None)
