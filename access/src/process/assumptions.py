"""What a service assumes of a library's private parts, by name: a version that breaks one is refused at the start."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def broken(assumptions: Mapping[str, Callable[[], bool]]) -> list[str]:
    """Names of the assumptions that the installed version of the library does not meet."""
    return [name for name, holds in assumptions.items() if not _met(holds)]


def _met(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except (AttributeError, KeyError, TypeError, ValueError):  # what is looked at is not there, or is something else
        return False


def uses(function: Any, *names: str) -> bool:
    """Whether `function` touches attributes of these names."""
    return set(names) <= set(function.__code__.co_names)


def takes(function: Any, *parameters: str) -> bool:
    """Whether the first parameters of `function` have these names."""
    return tuple(inspect.signature(function).parameters)[: len(parameters)] == parameters
