"""C sources, compiled by the machine's compiler when they are first needed, and kept; or before, for an image without a
compiler (`python -m mimn.rows`). Whatever is compiled has another form, which runs where no library can be had."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

log = logging.getLogger("mimn.rows")

HERE = Path(__file__).parent
_ALL = ("-O3", "-std=c11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC", "-mavx2", "-mfma")
FLAGS = {"avx512": (*_ALL, "-mavx512f", "-mprefer-vector-width=512"), "avx2": _ALL}
"""By variant, the best first. All give the same bits."""
NEEDS = {"avx512": {"avx512f", "avx2", "fma"}, "avx2": {"avx2", "fma"}}
"""What the processor must have."""


@dataclass(frozen=True)
class Source:
    """A C file beside this one."""

    name: str
    """Of the file, without `.c`."""
    switch: str
    """Environment variable; with `off` nothing is loaded."""
    what: str
    """What it computes, and"""
    without: str
    """what is done without it, for the log."""

    @property
    def path(self) -> Path:
        """The file."""
        return HERE / f"{self.name}.c"


STEP = Source("rows", "MIMN_COMPILED_STEP", "step", "the graph runs")
CANDIDATES = Source("candidates", "MIMN_COMPILED_CANDIDATES", "reading of candidates", "numpy reads")
SOURCES = (STEP, CANDIDATES)


@cache
def library(source: Source) -> ctypes.CDLL | None:
    """The source compiled, loaded once a process: shipped beside it (`build`), or else made once for a user of the
    machine and kept. None where there is no compiler or another kind of processor; the log says which."""
    if os.environ.get(source.switch) == "off":
        return None
    have = features()
    variant = next((name for name, needs in NEEDS.items() if platform.machine() == "x86_64" and needs <= have), None)
    if variant is None:
        log.info("no compiled %s on this processor: %s", source.what, source.without)
        return None
    path = HERE / file_name(source, variant)
    try:
        if not path.exists():
            path = _own_folder() / path.name
            if not path.exists() and (why := build(source, variant, path.parent)):
                log.warning("%s: %s, several times slower", why, source.without)
                return None
        return ctypes.CDLL(str(path))
    except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home
        log.warning("the compiled %s cannot be kept: %s: %s", source.what, error, source.without)
        return None


def file_name(source: Source, variant: str) -> str:
    """Of the library: another source or other options have another name."""
    digest = hashlib.sha256(source.path.read_bytes() + " ".join(FLAGS[variant]).encode()).hexdigest()
    return f"{source.name}-{digest[:16]}.so"


def build(source: Source, variant: str, folder: Path) -> str:
    """Compile a variant into `folder`; returns why it could not be done, or nothing."""
    compiler = shutil.which(os.environ.get("CC") or "cc")
    if compiler is None:
        return "no C compiler found: install gcc or set CC"
    with tempfile.TemporaryDirectory(dir=folder) as work:
        made = Path(work) / "made.so"
        command = [compiler, *FLAGS[variant], "-o", str(made), str(source.path), "-lm"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            return f"{compiler} cannot build {source.path.name}: {result.stderr[-500:]}"
        made.replace(folder / file_name(source, variant))
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
