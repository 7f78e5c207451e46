"""The package's C extension, as ctypes loads it: models/setup.py builds a variant for each kind of processor where the
package is installed, if a C compiler is there."""

from __future__ import annotations

import ctypes
import logging
import os
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

log = logging.getLogger("mimn.rows")

_ALWAYS: Final = {"avx2", "fma", "f16c", "pclmulqdq"}
NEEDS: Final = {"avx512": _ALWAYS | {"avx512f"}, "avx2": _ALWAYS}
"""By variant, the best first: what the processor must have. All give the same bits."""
SWITCH = "MIMN_COMPILED"
"""Environment variable; `off`: nothing compiled runs. Steps and heads are graphs on onnxruntime, and Python does the
rest, several times slower, as where the package `mimn` was installed without a C compiler."""
_FUNCTIONS: Final[dict[str, tuple[str, Any]]] = {
    "rows_fold": ("pppppppipi", None),
    "states_hash": ("pppi", None),
    "states_absorb": ("piippppppi", None),
    "states_count": ("ppippppiiii", None),
    "states_enter": ("ppipppppi", None),
    "states_encode": ("pppi", None),
    "states_read_headers": ("sppi", None),
    "states_read_tensors": ("pssppi", ctypes.c_int64),
    "states_decode": ("psiiip", ctypes.c_int64),
    "records_read": ("ppppipppppi", None),
    "records_parse": ("siiiipi", ctypes.c_int64),
    "records_named": ("ppsipi", None),
    "records_fronts": ("piipppiiiipippppp", None),
    "records_join": ("pppi", None),
    "records_place": ("sii", ctypes.c_int64),
    "candidates_look_up": ("pppipp", ctypes.c_int64),
    "candidates_read": ("pppiipi", None),
    "candidates_parse": ("siipp", ctypes.c_int64),
    "head_score": ("ppip", ctypes.c_int),
}
"""By name: p for each pointer, s for each byte string and i for each number that it takes, and what it returns."""
_LONG: Final = {"rows_fold", "head_score"}
"""What lets other threads of Python run meanwhile. The rest takes microseconds, after which a thread would have to wait
for the interpreter until the other one gives it back: 5 ms if that one computes."""
_KINDS: Final = {"p": ctypes.c_void_p, "s": ctypes.c_char_p, "i": ctypes.c_int64}


@cache
def library() -> ctypes.CDLL | None:
    """The best variant that was built and that the processor can run; None if there is none, or it is switched off."""
    if os.environ.get(SWITCH) == "off":
        return None
    suitable = [variant for variant in NEEDS if runs(variant)]
    built = next((path for variant in suitable if (path := path_of(variant))), None)
    if built is None:
        why = "mimn was installed without a C compiler" if suitable else "the processor has no AVX2"
        log.warning("no compiled code: %s; onnxruntime and Python do its work, several times slower", why)
        return None
    return load(built)


def path_of(variant: str) -> Path | None:
    """Where a variant is; None if it was not built."""
    spec = find_spec(f"mimn.rows._{variant}")
    return None if spec is None or spec.origin is None else Path(spec.origin)


def runs(variant: str) -> bool:
    """Whether the processor has what a variant needs."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return False
    has = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set[str]())
    return NEEDS[variant] <= has


def load(path: Path) -> ctypes.CDLL:
    """A variant's functions."""
    built, releasing = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
    for name, (arguments, result) in _FUNCTIONS.items():
        if name in _LONG:
            setattr(built, name, getattr(releasing, name))
        function = getattr(built, name)
        function.restype = result
        function.argtypes = [_KINDS[kind] for kind in arguments]
    return built
