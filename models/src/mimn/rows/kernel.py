"""The compiled form of a row program. Built by the machine's C compiler when it is first needed, and kept."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.rows.program import RowProgram

log = logging.getLogger("mimn.rows")

FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
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
    """rows.c, compiled once for a user of the machine, loaded once a process."""
    if os.environ.get(SWITCH) == "off":
        return None
    have = _features()
    if platform.machine() != "x86_64" or not {"avx2", "fma"} <= have:
        log.info("no compiled step on this processor: the graph runs")
        return None
    flags = (*FLAGS, "-mavx2", "-mfma", *(["-mavx512f", "-mprefer-vector-width=512"] if "avx512f" in have else []))
    source = (resources.files("mimn.rows") / "rows.c").read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ctr-serving"
    path = folder / f"rows-{hashlib.sha256(source + ' '.join(flags).encode()).hexdigest()[:16]}.so"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o022:
            raise PermissionError("others can write there")
        if not path.exists() and not _build(source, flags, path):
            return None
        built = ctypes.CDLL(str(path))
    except OSError as error:
        log.warning("the compiled step cannot be kept in %s: %s: the graph runs", folder, error)
        return None
    built.rows_fold.restype = None
    built.rows_fold.argtypes = [ctypes.c_void_p] * 8 + [ctypes.c_int64]
    return built


def _build(source: bytes, flags: Sequence[str], path: Path) -> bool:
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        log.info("no C compiler found: the graph runs, several times slower; install gcc or set CC")
        return False
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        written, made = Path(folder) / "rows.c", Path(folder) / "rows.so"
        written.write_bytes(source)
        result = subprocess.run(
            [compiler, *flags, "-o", str(made), str(written)], capture_output=True, text=True, check=False
        )
        if result.returncode:
            log.warning("%s cannot build rows.c: the graph runs: %s", compiler, result.stderr[-500:])
            return False
        made.replace(path)
    return True


def _features() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
