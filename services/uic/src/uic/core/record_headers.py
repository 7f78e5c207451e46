"""Headers of a record in Kafka's format v2: their count, then name and value of each behind their sizes. Numbers are
varints, zigzag: n >= 0 is 2n, and below it -2n - 1. https://kafka.apache.org/documentation/#recordheader
"""

from __future__ import annotations

from collections.abc import Sequence

Headers = Sequence[tuple[str, bytes | None]]


def read_headers(data: bytes, at: int) -> tuple[list[tuple[str, bytes | None]], int]:
    """The headers whose count lies at `at`, and where they end.

    Raises:
        ValueError, IndexError: there are none.
    """
    count, at = varint(data, at)
    if count & 1:
        raise ValueError(f"{-(count >> 1) - 1} headers")
    headers: list[tuple[str, bytes | None]] = []
    append = headers.append
    for _ in range(count >> 1):
        # Written for thousands of short ones: each operation that is left out is felt.
        number = data[at]
        at += 1
        if number > 127:
            number, at = varint(data, at - 1)
        if number & 1:
            raise ValueError(f"a header's name of {-(number >> 1) - 1} bytes")
        # The broker takes any bytes for a name: one that is no text must not stop what lies behind it. Nor may
        # thousands take long: `backslashreplace` would take half a microsecond per invalid byte.
        end = at + (number >> 1)
        name = data[at:end].decode("utf-8", "replace")
        number = data[end]
        at = end + 1
        if number > 127:
            number, at = varint(data, end)
        if number & 1:
            append((name, None))
        elif number:
            end = at + (number >> 1)
            append((name, data[at:end]))
            at = end
        else:
            append((name, b""))
    return headers, at


def write_headers(headers: Headers) -> bytes:
    """What `read_headers` reads."""
    out = bytearray(zigzag(len(headers)))
    for name, value in headers:
        encoded = name.encode()
        out += zigzag(len(encoded)) + encoded
        out += zigzag(-1) if value is None else zigzag(len(value)) + value
    return bytes(out)


def zigzag(n: int) -> bytes:
    """The varint of a number."""
    left = n << 1 if n >= 0 else (-n << 1) - 1
    out = bytearray()
    while left > 127:
        out.append(left & 127 | 128)
        left >>= 7
    out.append(left)
    return bytes(out)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned varint at `at`, and where it ends.

    Raises:
        ValueError, IndexError: there is none.
    """
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
