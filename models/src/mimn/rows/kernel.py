"""The compiled form of a row program. Built by the machine's C compiler when it is first needed, and kept; or before,
for an image without a compiler (`python -m mimn.rows`)."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.program import RowProgram

log = logging.getLogger("mimn.rows")

HERE = Path(__file__).parent
SOURCE = "rows.c"
_ALL = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-mavx2", "-mfma")
FLAGS = {"avx512": (*_ALL, "-mavx512f", "-mprefer-vector-width=512"), "avx2": _ALL}
"""By variant, the best first. All give the same bits."""
NEEDS = {"avx512": {"avx512f", "avx2", "fma"}, "avx2": {"avx2", "fma"}}
"""What the processor must have."""
SWITCH = "MIMN_COMPILED_STEP"
"""Environment variable; `off`: graphs run."""
_TOGETHER = 4
Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


_NUMBERS = ("instructions", "values", "event", "event_size", "state", "state_size", "result")


class _Program(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_void_p),
        ("constants", ctypes.c_void_p),
        *((name, ctypes.c_int32) for name in _NUMBERS),
    )


class Kernel:
    """Runs one program. Not thread-safe: it has one scratch array."""

    def __init__(self, program: RowProgram, built: ctypes.CDLL) -> None:
        self._program = program
        self._scratch = np.zeros(_TOGETHER * program.values, np.float32)
        self._struct = _Program(
            program.code.ctypes.data,
            program.constants.ctypes.data,
            *(getattr(program, name) for name in _NUMBERS),
        )
        self._fold = built.rows_fold
        self._fixed = ctypes.addressof(self._struct), self._scratch.ctypes.data

    def fold(self, events: Floats, first: Integers, depth: Integers, rows: Integers, states: Floats) -> Integers:
        """Fold events into states, in place, and return how many were folded into each: fewer than asked where a number
        was not finite, and only the graph says what the step gives.

        Args:
            events: [E, D] float32.
            first, depth: [n]: into state i go the events from `first[i]` on, `depth[i]` many. It is fastest if similar
                depths are neighbors.
            rows: [n]: which states; distinct.
            states: [R, F] float32.
        """
        done = np.empty(len(rows), np.int64)
        arrays = (
            _checked(events, np.float32, self._program.event_size),
            *(_checked(numbers, np.int64) for numbers in (first, depth, rows)),
            _checked(states, np.float32, self._program.state_size),
        )
        self._fold(*self._fixed, *(array.ctypes.data for array in arrays), done.ctypes.data, len(rows))
        return done


def _checked(array: NDArray[Any], kind: type[np.generic], width: int | None = None) -> NDArray[Any]:
    if array.dtype != kind or not array.flags.c_contiguous or (width is not None and array.shape[1:] != (width,)):
        raise ValueError(f"an array of {array.dtype} {array.shape} cannot be handed to the compiled step")
    return array


def kernel(program: RowProgram) -> Kernel | None:
    """The program compiled; None where there is no compiler or another kind of processor (the log says which)."""
    built = library()
    return None if built is None else Kernel(program, built)


@cache
def library() -> ctypes.CDLL | None:
    """rows.c compiled, loaded once a process: shipped beside the source (`build`), or else made once for a user of the
    machine and kept."""
    if os.environ.get(SWITCH) == "off":
        return None
    have = features()
    variant = next((name for name, needs in NEEDS.items() if platform.machine() == "x86_64" and needs <= have), None)
    if variant is None:
        log.info("no compiled step on this processor: the graph runs")
        return None
    path = HERE / file_name(variant)
    try:
        if not path.exists():
            path = _own_folder() / path.name
            if not path.exists() and (why := build(variant, path.parent)):
                log.warning("%s: the graph runs, several times slower", why)
                return None
        return load(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        log.warning("the compiled step cannot be kept: %s: the graph runs", error)
        return None


def load(path: Path) -> ctypes.CDLL:
    """A library that `build` made."""
    built = ctypes.CDLL(str(path))
    built.rows_fold.restype = None
    built.rows_fold.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64]
    return built


def file_name(variant: str) -> str:
    """Of the library: another source or other options have another name."""
    return (
        f"rows-{hashlib.sha256((HERE / SOURCE).read_bytes() + ' '.join(FLAGS[variant]).encode()).hexdigest()[:16]}.so"
    )


def build(variant: str, folder: Path) -> str:
    """Compile a variant into `folder`; returns why it could not be done, or nothing."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return "no C compiler found: install gcc or set CC"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "rows.so"
        command = [compiler, *FLAGS[variant], "-o", str(made), str(HERE / SOURCE)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return f"{compiler} cannot build {SOURCE}: {result.stderr[-500:]}"
        made.replace(folder / file_name(variant))
    return ""


def _own_folder() -> Path:
    """Where libraries are kept. Only this user may write there, because they are code."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctr-serving"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
        raise PermissionError(f"others can write to {folder}")
    return folder


def features() -> set[str]:
    """What the processor says it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
