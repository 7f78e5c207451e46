"""`python -m rtp`: settings from the environment, one process, until SIGTERM."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from access.memory import left_out, one_arena, opened_late
from rtp.settings import RtpSettings

NEVER_RUN = ("rich", "greenlet", "colorama", "pydantic.v1")
"""What structlog (for terminals, and for threads that are none) and FastAPI (to refuse its models) import if it is
installed, and the service never runs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, and return the exit status: 0 after a drain, 2 if settings, keys or bundle must be corrected first."""
    parser = argparse.ArgumentParser(
        prog="rtp", description="Real-Time Prediction: scores candidate ads over HTTP.",
        epilog="Everything else is set by RTP_<GROUP>__<FIELD>, such as RTP_REDIS__URL; see rtp.settings.",
    )  # fmt: skip
    parser.add_argument(
        "--fd", type=int, metavar="N", help="accept on this inherited listening socket instead of RTP_HTTP__PORT"
    )
    given = parser.parse_args(arguments)
    try:
        settings = load_settings(os.environ)
    except ValueError as error:
        print(f"rtp: {error}", file=sys.stderr)
        return 2
    one_arena()
    opened_late("uvicorn", Config="uvicorn.config")  # its `__init__` imports its command line
    with left_out(*NEVER_RUN):
        from rtp.app import serve

        return serve(settings, given.fd)


def load_settings(environment: Mapping[str, str]) -> RtpSettings:
    """The settings that the environment gives.

    Raises:
        ValueError: a variable is unknown or has a bad value; the message names each and never shows a value.
    """
    groups = {f"RTP_{name.upper()}" for name in RtpSettings.model_fields}
    if foreign := sorted(
        name for name in environment if name.startswith("RTP_") and name.partition("__")[0].upper() not in groups
    ):
        raise ValueError(f"{', '.join(foreign)}: no such setting; the groups are {', '.join(sorted(groups))}")
    try:
        return RtpSettings()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValueError("; ".join(_fault(fault["loc"], fault["msg"]) for fault in faults)) from None


def _fault(location: tuple[int | str, ...], message: str) -> str:
    name = "RTP_" + "__".join(str(part).upper() for part in location)
    return f"{name}: {message.removeprefix('Value error, ')}"


if __name__ == "__main__":
    sys.exit(main())
