"""Do the checked-in stubs of `proto/gen` still come from the .proto files?

Generates them into a temporary folder, with the pinned compiler, and compares file by file.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PROTO = Path("proto")


def generate(proto: Path, out: Path) -> None:
    """Run `proto/generate.sh` into `out`.

    Raises:
        subprocess.CalledProcessError: a .proto file does not compile.
    """
    binaries = str(Path(sys.executable).parent)
    env = {**os.environ, "PYTHON": sys.executable, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([str(proto.resolve() / "generate.sh"), str(out.resolve())], env=env, check=True)


def drift(checked_in: Path, generated: Path) -> list[str]:
    """One line for each file that is missing, left over or different; caches and packaging leftovers do not count."""
    ours, theirs = _files(checked_in), _files(generated)
    lines = [f"{name}: not checked in" for name in sorted(theirs - ours)]
    lines += [f"{name}: no .proto file makes it" for name in sorted(ours - theirs)]
    lines += [
        f"{name}: differs from what the .proto files make"
        for name in sorted(ours & theirs)
        if not filecmp.cmp(checked_in / name, generated / name, shallow=False)
    ]
    return lines


def main() -> int:
    """Compare; exit status 1 with the differences if there are any."""
    with tempfile.TemporaryDirectory() as folder:
        generated = Path(folder)
        generate(PROTO, generated)
        lines = drift(PROTO / "gen", generated)
    for line in lines:
        print(f"proto/gen/{line}: run `make proto` and commit the result", file=sys.stderr)
    return 1 if lines else 0


def _files(root: Path) -> set[str]:
    return {
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not {"__pycache__"} & set(path.parts) and ".egg-info" not in path.as_posix()
    }


if __name__ == "__main__":
    sys.exit(main())
