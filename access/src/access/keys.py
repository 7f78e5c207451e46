"""A key, and the file that stores keys: one line each, with a hash instead of the secret.

    # id          sha256 of the whole secret (hex)   scopes             name
    3f9c2a7be1d0  9f86d081884c7d65…                  predict,metrics    ad-server-blue

The secret is `ctr_<id>_<64 hex digits>`: the prefix lets scanners find leaked secrets, the id finds the line, and with
256 random bits a plain sha256 is enough (slow password hashes protect secrets that people can remember).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Final

ID_HEX: Final = 12
LOOKUP_BYTES: Final = len("ctr_") + ID_HEX
"""The first bytes of a secret, which say which key it claims to be."""
MAX_FILE_BYTES: Final = 1 << 17
"""About a thousand keys. Reading them delays the process that answers callers, so the size is limited."""
_ID: Final = re.compile(rf"[0-9a-f]{{{ID_HEX}}}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NAME: Final = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_ENDS: Final = r"\n\r\v\f\x1c-\x1e\x85\u2028\u2029"
"""What ends a line by `str.splitlines`."""
_LINE: Final = re.compile(rf"\s*+(?:#[^{_ENDS}]*+\s*+)*+([^{_ENDS}]*+)")
"""A line that is neither blank nor a comment, behind all that are. A file of nothing else is read as one match, and not
line by line, which takes three times as long."""


class Scope(StrEnum):
    """What a key allows. No scope includes another."""

    PREDICT = "predict"
    """RTP: request scores."""
    ADMIN = "admin"
    """RTP's admin port: read and reload the bundle."""
    PUBLISH = "publish"
    """UIC: write behavior events into the log."""
    READ = "read"
    """UIC: read a user's state."""
    ERASE = "erase"
    """UIC: erase a user."""
    OPERATE = "operate"
    """UIC's admin port: read partitions, and decide about broken ones."""
    ROLLOUT_READ = "rollout:read"
    """RTP's admin port: read which releases are loaded, and why others are not."""
    ROLLOUT_WRITE = "rollout:write"
    """RTP's admin port: look for the rollout record's releases again."""
    METRICS = "metrics"
    """Both admin ports: read metrics."""


_SCOPES: Final = {scope.value: scope for scope in Scope}


class BadKeys(ValueError):
    """A key file that cannot be used. Names the line, never its content."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key, without its secret."""

    id: str
    digest: bytes
    """sha256 of the secret, 32 bytes."""
    scopes: frozenset[Scope]
    name: str
    """Who has the key, for people."""

    @property
    def lookup(self) -> bytes:
        """The first bytes of its secret, which are not secret."""
        return f"ctr_{self.id}".encode()

    def line(self) -> str:
        """Its line in the file, without the newline."""
        return f"{self.id}  {self.digest.hex()}  {','.join(sorted(self.scopes))}  {self.name}"


def make_key(scopes: Collection[Scope], name: str) -> tuple[str, Key]:
    """A new secret, and the key that holds its hash.

    Raises:
        BadKeys: no scope, or a name with other characters than the file allows.
    """
    if not scopes:
        raise BadKeys(f"a key needs a scope: {', '.join(Scope)}")
    if not _NAME.fullmatch(name):
        raise BadKeys("a name is 1 to 64 letters, digits and . _ @ -")
    identity = secrets.token_hex(ID_HEX // 2)
    secret = f"ctr_{identity}_{secrets.token_hex(32)}"
    return secret, Key(identity, sha256(secret.encode()).digest(), frozenset(scopes), name)


def parse_keys(text: str) -> Mapping[bytes, Key]:
    """The keys of a file, by the first bytes of their secrets. Blank lines and lines that begin with # are skipped.

    Raises:
        BadKeys: a line is not a key, a scope is unknown, an id occurs twice, or there is no key at all.
    """
    found: dict[bytes, Key] = {}
    for match in _LINE.finditer(text):
        line = match[1]
        if not line:  # the end of the file
            break
        try:
            key = _key(line.split(maxsplit=4))
            if found.setdefault(key.lookup, key) is not key:
                raise BadKeys("its id occurs twice; remove one of the lines")
        except BadKeys as error:
            number = len((text[: match.start(1)] + line).splitlines())
            raise BadKeys(f"line {number}: {error}") from None
    if not found:
        raise BadKeys("has no keys: make one with `ctr keys make`")
    return found


def _key(words: list[str]) -> Key:
    if len(words) != 4 or not _ID.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
        raise BadKeys("not `<id> <sha256> <scope>[,<scope>] <name>`, the format that `ctr keys make` writes")
    if not _NAME.fullmatch(words[3]):
        raise BadKeys("a name is 1 to 64 letters, digits and . _ @ -")
    try:
        scopes = frozenset([_SCOPES[name] for name in words[2].split(",")])
    except KeyError:
        raise BadKeys(f"an unknown scope; there are {', '.join(Scope)}") from None
    return Key(words[0], bytes.fromhex(words[1]), scopes, words[3])
