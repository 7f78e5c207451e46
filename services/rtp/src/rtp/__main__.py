"""`python -m rtp`: settings from the environment, one process, until SIGTERM."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from process.memory import left_out, one_arena, opened_late
from rtp.settings import read_settings

NEVER_RUN = ("rich", "greenlet", "colorama", "pydantic.v1")
"""Packages that structlog (for terminal colors and greenlets) and FastAPI (for models of pydantic 1) import if they are
installed. The service does not use them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, and return the exit status: 0 after a drain, 2 if settings, keys or bundle must be corrected first."""
    parser = argparse.ArgumentParser(
        prog="rtp", description="Real-Time Prediction: scores candidate ads over HTTP.",
        epilog="Everything else is set by RTP_<GROUP>__<FIELD>, such as RTP_REDIS__URL; see docs/settings.md.",
    )  # fmt: skip
    parser.add_argument(
        "--fd", type=int, metavar="N", help="accept on this inherited listening socket instead of RTP_HTTP__PORT"
    )
    given = parser.parse_args(arguments)
    try:
        settings = read_settings()
    except ValueError as error:
        print(f"rtp: {error}", file=sys.stderr)
        return 2
    one_arena()
    opened_late("uvicorn", Config="uvicorn.config")  # its `__init__` imports its command line
    with left_out(*NEVER_RUN):
        from rtp.app import serve

        return serve(settings, given.fd)


if __name__ == "__main__":
    sys.exit(main())
