"""The C library of this package. Built by the machine's C compiler when it is first needed, and kept; or before, for an
image without a compiler (`python -m mimn.rows`)."""

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
from typing import Any, Final

from mimn.own_folder import trusted_folder
from mimn.whole_file import sync_folder

log = logging.getLogger("mimn.rows")

HERE = Path(__file__).parent
SOURCES = ("rows.c", "lanes.c", "states.c", "stored.c", "records.c", "lookups.c", "head.c", "candidate_list.c")
_HEADERS = ("rows.h",)
_BUILT_FOR = ("-mavx2", "-mfma", "-mf16c", "-mpclmul")
_ALL = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", *_BUILT_FOR)
FLAGS = {"avx512": (*_ALL, "-mavx512f", "-mprefer-vector-width=512"), "avx2": _ALL}
"""By variant, the best first. All give the same bits."""
_ALWAYS = {"avx2", "fma", "f16c", "pclmulqdq"}
NEEDS = {"avx512": _ALWAYS | {"avx512f"}, "avx2": _ALWAYS}
"""What the processor must have."""
SWITCH = "MIMN_COMPILED_STEP"
"""Environment variable; `off`: nothing compiled runs. Steps and heads are graphs on onnxruntime, and Python does the
rest, several times slower. Otherwise the library is built once by the machine's C compiler (`CC`, else `cc`), if the
image has none, and kept in `ctr-serving` below `XDG_CACHE_HOME`, else below `~/.cache`."""
SEAL_BYTES: Final = hashlib.sha256().digest_size
"""At the end of a library: the SHA-256 of what precedes."""
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
    """The sources compiled, loaded once a process: shipped beside them (`build`), or else made once for a user of the
    machine and kept."""
    if os.environ.get(SWITCH) == "off":
        return None
    have = features()
    variant = next((name for name, needs in NEEDS.items() if platform.machine() == "x86_64" and needs <= have), None)
    if variant is None:
        log.info("no compiled step on this processor: the graph runs")
        return None
    name = file_name(variant)
    try:
        if (shipped := _kept(HERE / name)) is not None:
            return shipped
        folder = trusted_folder()
        if (kept := _kept(folder / name)) is not None:
            return kept
        if why := build(variant, folder):
            log.warning("%s: the graph runs, several times slower", why)
            return None
        return load(folder / name)
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        log.warning("the graph runs, several times slower, because the compiled step cannot be kept: %s", error)
        return None


def _kept(path: Path) -> ctypes.CDLL | None:
    """A library that was built before; None if there is none, or if it cannot be used."""
    try:
        content = path.read_bytes()
        if hashlib.sha256(content[:-SEAL_BYTES]).digest() == content[-SEAL_BYTES:]:
            return load(path)
        why = "it is damaged"
    except FileNotFoundError:
        return None
    except OSError as error:
        why = str(error)
    log.warning("%s cannot be used: %s; it is built again", path, why)
    return None


def load(path: Path) -> ctypes.CDLL:
    """A library that `build` made."""
    built, releasing = ctypes.PyDLL(str(path)), ctypes.CDLL(str(path))
    for name, (arguments, result) in _FUNCTIONS.items():
        if name in _LONG:
            setattr(built, name, getattr(releasing, name))
        function = getattr(built, name)
        function.restype = result
        function.argtypes = [_KINDS[kind] for kind in arguments]
    return built


def file_name(variant: str) -> str:
    """Of the library: other sources or other options have another name."""
    parts = [*((HERE / source).read_bytes() for source in (*SOURCES, *_HEADERS)), " ".join(FLAGS[variant]).encode()]
    return f"rows-{hashlib.sha256(b''.join(parts)).hexdigest()[:16]}.so"


def build(variant: str, folder: Path) -> str:
    """Compile a variant into `folder`, in place of one that is there; returns why it could not be done, or nothing.

    A file that a crash of the machine cut short would end each process that loads it, with SIGBUS and without a word.
    So it is on the disk before it has its name, and ends with the SHA-256 of all before, which a loader of ELF ignores.
    """
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return "no C compiler found: install gcc or set CC"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "rows.so"
        command = [compiler, *FLAGS[variant], "-o", str(made), *(str(HERE / source) for source in SOURCES), "-lm"]
        result = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
        if result.returncode:
            return f"{compiler} cannot build {' and '.join(SOURCES)}: {result.stderr[-500:]}"
        with made.open("r+b") as file:
            seal = hashlib.sha256(file.read()).digest()
            file.write(seal)
            file.flush()
            os.fsync(file.fileno())
        made.replace(folder / file_name(variant))
    sync_folder(folder)
    return ""


def features() -> set[str]:
    """What the processor says it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith("flags")), set())
