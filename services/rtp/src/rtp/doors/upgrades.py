"""Requests that offer to change the protocol (`Connection: Upgrade`), as Java's client and `curl --http2` send them.

No other protocol is spoken here, and such an offer may be ignored (RFC 9110, 7.8): the request is answered as HTTP/1.1.
But the parser takes all that follows the head for the other protocol, the body and the next requests included. So it is
given the head again, without the offer, and then what follows.
"""

from __future__ import annotations

from rtp.doors.problems import Headers


def without_offer(method: bytes, url: bytes, version: str, headers: Headers) -> bytes:
    """A head that was parsed, without the protocols it offers. Only CONNECT is still taken for an upgrade."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
