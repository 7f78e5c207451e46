"""`ctr erase`: erases a user's state, or one item of it, through a running UIC, and says where the log has that."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from ctr.uic.v1 import uic_service_pb2 as pb
from uic.settings import read_client_settings
from uic.tools.confirm import confirmed
from uic.tools.grpc_client import Refused, add_options, connected, user_id
from uic.tools.in_service import REACHED_WITHIN_S, Answering, Role, elsewhere, others_behind, variables

OF_ROLE: Final = {
    Role.CANARY: ("by which a canary answers users", "the canary answers by it"),
    Role.SHADOW: ("by which a shadow scores requests", "the shadow scores by it"),
    Role.KEPT: ("which is kept for a way back", "a rollback would answer by it"),
}
"""Of a namespace that has not folded the erasure: what it is there for, and what follows."""


def main(arguments: Sequence[str] | None = None, out: TextIO | None = None) -> int:
    """Run the command. 0: the erasure is in the log; 1: refused or no answer; 2: called wrongly, or not confirmed."""
    parser = argparse.ArgumentParser(
        prog="ctr erase",
        description="Erase a user, or one item of a user. It is gone once the log is folded up to the given offset.",
    )
    parser.add_argument("user", type=user_id, help="the user's id")
    item = parser.add_mutually_exclusive_group()
    item.add_argument("--item", type=_item, help="erase only what the state knows of this item (its number)")
    item.add_argument("--item-text", type=_item_text, help="the same, by the item's text, for a model of string ids")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    parser.add_argument("--json", action="store_true", help="one JSON object: partition and offset")
    add_options(parser)
    options = parser.parse_args(arguments)
    settings = read_client_settings()
    whole = options.item is None and options.item_text is None
    what = "The user's state" if whole else "What the user's state knows of the item"
    if not options.yes and not confirmed(parser.prog, f"{what} cannot be restored. Erase?"):
        return 2
    try:
        with connected(options, settings) as uic:
            if whole:
                position = uic.call(uic.stub.EraseUser, pb.EraseUserRequest(user_id=options.user)).position
            else:
                one = pb.EraseItemRequest(user_id=options.user, item_id=options.item, item_text=options.item_text)
                position = uic.call(uic.stub.EraseItem, one).position
    except Refused as refusal:
        print(f"ctr erase: {refusal}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"partition": position.partition, "offset": position.offset}), file=out)
    else:
        erased = "state" if whole else "item"
        print(
            f"partition {position.partition}, offset {position.offset}: the {erased} is gone once this partition's "
            f"next_offset is above {position.offset} (ctr partitions)",
            file=out,
        )
    if (serving := elsewhere(settings.redis, settings.bundle)) is not None:
        print(f"ctr erase: {_also(serving, position)}", file=sys.stderr)
    for role, late in others_behind(settings.redis, settings.kafka.topic, position.partition, position.offset):
        print(f"ctr erase: {_not_erased(role, late, settings.kafka.topic)}", file=sys.stderr)
    return 0


def _also(serving: Answering, position: pb.LogPosition) -> str:
    """That users are answered from another namespace than the settings name, whose workers erase by themselves."""
    text = (
        f"this is of the namespace of the UIC that was asked. {serving.said}, where it is gone once its own UIC "
        "workers have come beyond that offset: ctr partitions with the --admin of the one that has partition "
        f"{position.partition}"
    )
    if serving.unfolded is not None:
        text += f". Nothing folds it now ({serving.unfolded}): start UIC workers with {variables(serving.release)}"
    return text


def _not_erased(role: Role, late: Answering, topic: str) -> str:
    """That a namespace beside the one that serves has what was erased."""
    what, follows = OF_ROLE[role]
    text = f"namespace {late.release.namespace} ({late.release.bundle}), {what}, still has what it had: {follows}"
    if late.topic != topic:
        return f"{text}. It is made of topic {late.topic}: erase the same by its own UIC"
    workers = f"UIC workers with {variables(late.release)}"
    if late.unfolded is None:
        return (
            f"{text}, until its own UIC workers have come beyond that offset; they had not after "
            f"{REACHED_WITHIN_S:g} s: wait, or if they were stopped, start {workers}"
        )
    return f"{text}. Nothing folds it now ({late.unfolded}): start {workers}"


def _item(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 1 << 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not the number of an item, 1 to 2^64 - 1")
    return int(text)


def _item_text(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give the text of an item's id")
    return text
