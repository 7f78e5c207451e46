"""`ctr keys`: make, list and revoke keys in a file. The secret is printed once; the file gets its hash."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from access.key_file import change_key_file, read_key_file
from access.keys import BadKeys, Scope, make_key, parse_keys


def main(arguments: Sequence[str] | None = None, prog: str = "ctr-keys") -> int:
    """Run one command; exit status 0, or 1 with a line on stderr."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="add a key; prints its secret, only this once")
    make.add_argument("file", type=Path, help="created if it does not exist")
    make.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=[scope.value for scope in Scope],
        help="may be given several times",
    )
    make.add_argument("--name", required=True, help="who gets the key, for people")
    listing = commands.add_parser("list", help="ids, scopes and names")
    listing.add_argument("file", type=Path)
    revoke = commands.add_parser("revoke", help="remove a key; the services notice within seconds")
    revoke.add_argument("file", type=Path)
    revoke.add_argument("id", help="as `list` shows it: the part of the secret between ctr_ and the next _")
    given = parser.parse_args(arguments)
    try:
        if given.command == "make":
            _make(given.file, [Scope(name) for name in given.scope], given.name)
        elif given.command == "revoke":
            _revoke(given.file, given.id)
        else:
            for key in parse_keys(read_key_file(given.file)).values():
                print(f"{key.id}  {','.join(sorted(key.scopes))}  {key.name}")
    except (BadKeys, OSError) as error:
        print(f"{parser.prog}: {given.file}: {error}", file=sys.stderr)
        return 1
    return 0


def _make(file: Path, scopes: list[Scope], name: str) -> None:
    secret, key = make_key(scopes, name)

    def added(before: str) -> str:
        if _has_keys(before):
            parse_keys(before)
        between = "" if not before or before.endswith("\n") else "\n"
        return f"{before}{between}{key.line()}\n"

    change_key_file(file, added, create=True)
    print(secret)
    print(f"key {key.id} is in {file}; the line above is its secret, shown only this once", file=sys.stderr)


def _revoke(file: Path, identity: str) -> None:
    def without(before: str) -> str:
        lines = before.splitlines(keepends=True)
        left = [line for line in lines if line.split()[:1] != [identity]]
        if len(left) == len(lines):
            raise BadKeys(f"there is no key {identity}")
        if not _has_keys("".join(left)):
            raise BadKeys(f"{identity} is the file's last key and is still valid: make the new key first")
        parse_keys("".join(left))
        return "".join(left)

    change_key_file(file, without, create=False)
    print(f"key {identity} is revoked", file=sys.stderr)


def _has_keys(text: str) -> bool:
    """Whether there is more than blank lines and comments."""
    return any(line.strip() and not line.lstrip().startswith("#") for line in text.splitlines())


if __name__ == "__main__":
    sys.exit(main())
