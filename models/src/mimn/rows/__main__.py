"""Compile the library beside its sources, in all variants, for an image that will have no compiler.

python -m mimn.rows
"""

from __future__ import annotations

import sys

from mimn.rows.library import FLAGS, HERE, build, file_name


def main() -> int:
    """The command; returns the exit status."""
    for variant in FLAGS:
        if why := build(variant, HERE):
            print(f"rows: {why}", file=sys.stderr)
            return 1
        print(HERE / file_name(variant))
    return 0


if __name__ == "__main__":
    sys.exit(main())
