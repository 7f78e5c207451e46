"""Write the requirements files with hashes: what serving installs, from the members' dependencies and constraints.txt.

pip installs these files with `--require-hashes`, so a package that is not the one that was locked is refused. The
members themselves are installed from the tree with `--no-deps`. Run it after each change of a dependency or a pin.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
UIC = ("proto", "access", "models[serve]", "services/uic")
RTP = ("access", "models[serve]", "services/rtp")
LOCKS = {
    Path("requirements-serving.txt"): (*UIC, "services/rtp", "deploy", "cli"),
    Path("services/uic/requirements.txt"): UIC,
    Path("services/rtp/requirements.txt"): RTP,
}
"""File → the members whose dependencies it holds: all that `make install` installs, and the content of each image."""
OWN = ("ctr-proto", "ctr-access", "mimn", "uic", "rtp", "localstack", "ctr-serving")
BUILD = "setuptools"
"""Builds the members, without a build environment of its own."""
OLDEST_PYTHON = "3.11"
HEADER = """\
# Written by `make pins` from the members' dependencies and constraints.txt. Do not edit.
# For Python 3.11 and newer; the hashes are of the files for every platform.
"""


class NotLocked(Exception):
    """The dependencies cannot be resolved; the message is the resolver's."""


def lock(members: Sequence[str]) -> str:
    """The content of a requirements file: each package that `members` need, pinned, with hashes.

    Raises:
        NotLocked: there is no solution under the constraints, or no index answers.
    """
    wanted = "\n".join([BUILD, *(f"-e ./{member}" for member in members)])
    options = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet"]
    options += [word for name in OWN for word in ("--no-emit-package", name)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--python-version", OLDEST_PYTHON]
    done = subprocess.run(
        [*command, "--constraint", str(CONSTRAINTS), *options],
        input=wanted, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotLocked(done.stderr.strip())
    return HEADER + done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Write every file; exit status 1 if the dependencies cannot be resolved."""
    parser = argparse.ArgumentParser(prog="pins", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.parse_args(arguments)
    try:
        contents = {path: lock(members) for path, members in LOCKS.items()}
    except NotLocked as failure:
        print(f"pins: {failure}", file=sys.stderr)
        return 1
    for path, content in contents.items():
        path.write_text(content, "utf-8")
        print(f"{path}: {content.count('==')} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
