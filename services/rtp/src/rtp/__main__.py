"""`python -m rtp`: settings from the environment, one process, until SIGTERM."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import socket
import sys
from collections.abc import Mapping, Sequence

import uvloop
from pydantic import ValidationError

from access import BadKeys, BadTls, is_loopback
from mimn.bundle import BundleError, GoldenMismatch
from rtp.app import create_service
from rtp.doors.listeners import bind, inherited, run
from rtp.logs import configure
from rtp.settings import RtpSettings


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
        return _refuse(str(error))
    configure(settings.log.level, settings.log.format)
    try:
        public = bind(settings.http.host, settings.http.port) if given.fd is None else inherited(given.fd)
        admin = bind(settings.admin.host, settings.admin.port)
    except OSError as error:
        where = f"{settings.http.host}:{settings.http.port}" if given.fd is None else f"descriptor {given.fd}"
        return _refuse(
            f"cannot listen on {where} and {settings.admin.host}:{settings.admin.port}: {error.strerror or error}. "
            "Set RTP_HTTP__PORT and RTP_ADMIN__PORT to free ports"
        )
    if settings.access.keys_file is None and (open_to := [where for where in map(_beyond, (public, admin)) if where]):
        return _refuse(
            f"{' and '.join(open_to)} needs authentication, and no keys are set. Make one with `ctr-keys make "
            "FILE --scope predict --name NAME` and set RTP_ACCESS__KEYS_FILE to the file, or set RTP_HTTP__HOST and "
            "RTP_ADMIN__HOST to 127.0.0.1"
        )
    try:
        service = create_service(settings)
    except BadKeys as error:
        return _refuse(f"{error}. RTP_ACCESS__KEYS_FILE names it")
    except BadTls as error:
        return _refuse(f"{error}. RTP_HTTP__TLS_… and RTP_ADMIN__TLS_… name them")
    except (BundleError, GoldenMismatch) as error:
        return _refuse(f"{error}. RTP_BUNDLE__PATH is {settings.bundle.path}")
    # What exists now lives as long as the process: the garbage collector need not visit it during requests.
    gc.collect()
    gc.freeze()
    uvloop.run(run(service, settings, public, admin, shared=given.fd is not None))
    if service.reloader.hanging:
        # An abandoned thread may be inside a graph: the libraries' clean-up at exit would take the graph away from it.
        logging.shutdown()
        os._exit(0)
    return 0


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


def _beyond(bound: socket.socket) -> str | None:
    """The address of a socket that other machines can reach; None for others. What it is bound to counts, not the
    settings: a launcher may have passed it on."""
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX or is_loopback(name[0]):
        return None
    return f"listening on {name[0]}"


def _refuse(message: str) -> int:
    print(f"rtp: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
