"""Memory that a serving process does not need, and how it does without.

Measured on UIC and RTP as they start: 4 to 8 MiB of modules that no request runs, 1 to 2 MiB of arenas, and 1 MiB
that start-up has freed (decision 127).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

_M_ARENA_MAX = -8
"""Of glibc's mallopt(3)."""


@contextmanager
def left_out(*modules: str) -> Iterator[None]:
    """Within it, `import` does not find `modules`, unless they are imported already.

    For libraries that import others where they are installed, for something that this process never does. A library
    that cannot do without one fails at once, with the name.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]  # None is how `import` is told
    try:
        yield
    finally:
        for name in absent:
            if name in sys.modules and sys.modules[name] is None:
                del sys.modules[name]


def opened_late(package: str, **modules: str) -> None:
    """Import `package` without running its `__init__`. The `__init__` runs later, when a name of the package is asked
    for that `modules` does not list.

    For a package whose `__init__` imports much beside the modules that are needed. Does nothing where the package is
    imported already.

    Args:
        package: its name.
        modules: names of the package, each with the module that it is taken from.
    """
    if package in sys.modules or (spec := find_spec(package)) is None or (loader := spec.loader) is None:
        return
    opened = sys.modules[package] = module_from_spec(spec)

    def find(name: str) -> Any:
        if name in modules:
            return getattr(import_module(modules[name]), name)
        del opened.__dict__["__getattr__"]
        loader.exec_module(opened)
        return getattr(opened, name)

    opened.__dict__["__getattr__"] = find  # PEP 562


def one_arena() -> None:
    """Let all threads allocate from one arena, where glibc gives each its own. Call it before there are threads.

    Python's threads take turns anyway, so they have nothing to gain from arenas, each of which keeps what it has freed.
    """
    if (mallopt := _of_glibc("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return what start-up has freed to the system, and forget which files lie in which folder, as imports remember."""
    sys.path_importer_cache.clear()
    if (malloc_trim := _of_glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of glibc; None with another C library, which has other ways."""
    found: ctypes._NamedFuncPointer | None = getattr(ctypes.CDLL(None), name, None)
    return found
