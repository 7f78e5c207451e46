"""The codecs of Kafka's record batches, with a bound on what a batch may decompress to.

The library of codecs is imported with the first compressed batch.
"""

from __future__ import annotations

import struct
from typing import Final

from uic.settings import MAX_BATCH_BYTES

THE_BOUND: Final = "the bound of UIC_KAFKA__MAX_BATCH_BYTES"
"""For messages: the setting that raises it."""
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
NAMES: Final = {GZIP: "gzip", SNAPPY: "snappy", LZ4: "lz4", ZSTD: "zstd"}
_XERIAL: Final = b"\x82SNAPPY\x00"
"""How Java's snappy begins; then two versions of 4 bytes, then blocks, each after its length (4 bytes, big-endian)."""
_XERIAL_HEADER_BYTES: Final = 16
_FIRST_TRY_BYTES: Final = 64 << 10


class Undecodable(ValueError):
    """The bytes cannot be decompressed: unknown codec, damaged, or larger than the bound."""


def decompress(codec: int, data: bytes, limit: int = MAX_BATCH_BYTES) -> bytes:
    """What `data` was before compression. At most `limit` bytes are ever allocated for it at a time.

    Args:
        codec: as in a record batch's attributes, 1 to 4.
        data: the compressed records of one batch.
        limit: largest result.

    Raises:
        Undecodable: the message says why.
    """
    if codec == SNAPPY:
        return _snappy(data, limit)
    if codec not in NAMES:
        raise Undecodable(f"compression codec {codec} is unknown to this version")
    import cramjam

    stream = getattr(cramjam, NAMES[codec])
    room = min(limit, max(_FIRST_TRY_BYTES, 8 * len(data)))
    while True:
        out = bytearray(room)
        try:
            size = stream.decompress_into(data, out)
        except cramjam.DecompressionError as error:
            if room >= limit:
                raise Undecodable(
                    f"{NAMES[codec]}: damaged, or more than {limit} bytes when decompressed, {THE_BOUND} ({error})"
                ) from error
            room = min(limit, 8 * room)  # too small for it, or damaged: the largest try tells
        else:
            return bytes(memoryview(out)[:size])


def _snappy(data: bytes, limit: int) -> bytes:
    import cramjam

    try:
        if not data.startswith(_XERIAL):
            return _snappy_block(data, limit)
        blocks, at, size = [], _XERIAL_HEADER_BYTES, 0
        while at < len(data):
            (length,) = struct.unpack_from(">I", data, at)
            block = data[at + 4 : at + 4 + length]
            if len(block) != length:
                raise Undecodable("snappy: a block is cut off")
            blocks.append(_snappy_block(block, limit - size))
            size += len(blocks[-1])
            at += 4 + length
        return b"".join(blocks)
    except (cramjam.DecompressionError, struct.error) as error:
        raise Undecodable(f"snappy: damaged ({error})") from error


def _snappy_block(block: bytes, left: int) -> bytes:
    from cramjam import snappy

    if snappy.decompress_raw_len(block) > left:
        raise Undecodable(f"snappy: more bytes when decompressed than {THE_BOUND}")
    return bytes(snappy.decompress_raw(block))
