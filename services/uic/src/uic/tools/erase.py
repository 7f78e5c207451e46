"""`uic erase`: erases a user's state through a running UIC, and says where in the log the erasure is."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TextIO

from ctr.uic.v1 import uic_service_pb2 as pb
from uic.settings import read_client_settings
from uic.tools.grpc_client import Refused, add_options, connected


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: the erasure is in the log; 1: refused or no answer; 2: called wrongly, or not confirmed."""
    parser = argparse.ArgumentParser(
        prog="uic erase", description="Erase a user: the state goes once UIC has folded the log up to the given offset."
    )
    parser.add_argument("user", help="the user's id")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="one JSON object: partition and offset")
    add_options(parser)
    options = parser.parse_args(arguments)
    settings = read_client_settings()
    if not options.yes and not _confirmed():
        return 2
    try:
        with connected(options, settings) as uic:
            position = uic.call(uic.stub.EraseUser, pb.EraseUserRequest(user_id=options.user)).position
    except Refused as refusal:
        print(f"uic erase: {refusal}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"partition": position.partition, "offset": position.offset}), file=out)
    else:
        print(
            f"partition {position.partition}, offset {position.offset}: the state is gone once this partition's "
            f"next_offset is above {position.offset} (uic partitions)",
            file=out,
        )
    return 0


def _confirmed() -> bool:
    if not sys.stdin.isatty():
        print(
            "uic erase: stdin is not a terminal, so it cannot ask for confirmation: repeat with --yes", file=sys.stderr
        )
        return False
    return input("The user's state cannot be restored. Erase? [y/N] ").strip().lower() == "y"
