"""`python -m rtp`: settings from the environment, one process, until SIGTERM."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

from access.memory import left_out, one_arena, opened_late
from rtp.settings import RtpSettings

NEVER_RUN = ("rich", "greenlet", "colorama", "pydantic.v1")
"""What structlog (for terminals, and for threads that are none) and FastAPI (to refuse its models) import if it is
installed, and the service never runs."""

SERVICE_LINK = ("tcp://", "udp://", "sctp://")
"""How the value of a variable begins that Kubernetes makes of a service called `rtp` or `rtp-…`."""


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
        ValueError: a variable is unknown, and the message names the nearest setting; or some have a bad value, and it
            names each. It never shows a value.
    """
    known = list(_names())
    for name in sorted(environment):
        if name.upper().startswith("RTP_") and name.upper() not in known:
            if environment[name].startswith(SERVICE_LINK):
                raise ValueError(
                    f"{name} is not a setting of RTP, but a service link of Kubernetes: "
                    "set enableServiceLinks: false in the pod's spec"
                )
            nearest = get_close_matches(name.upper(), known, 1, 0)[0]
            raise ValueError(f"{name} is not a setting of RTP; did you mean {nearest}?")
    try:
        return RtpSettings()
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        raise ValueError("; ".join(_fault(fault["loc"], fault["msg"]) for fault in faults)) from None


def _names() -> Iterator[str]:
    """Every setting, and every whole group, which may be given as JSON."""
    for group, field in RtpSettings.model_fields.items():
        yield f"RTP_{group}".upper()
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)  # noqa: S101, PT018
        yield from (f"RTP_{group}__{name}".upper() for name in field.annotation.model_fields)


def _fault(location: tuple[int | str, ...], message: str) -> str:
    said = message.removeprefix("Value error, ")
    name = "RTP_" + "__".join(str(part).upper() for part in location)
    return f"{name}: {said}" if location else said  # groups that contradict each other: the message names the settings


if __name__ == "__main__":
    sys.exit(main())
