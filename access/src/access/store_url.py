"""Whether the address of a store can be read, before anything is started with it."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_store_url(url: str) -> None:
    """Make sure that `url` can be taken apart. What Python says of one that cannot may quote a password, so we do not.

    Raises:
        ValueError: it cannot; the message goes on behind the setting's name.
    """
    try:
        _ = urlsplit(url).port  # raises for what is no port
    except ValueError:
        raise ValueError(
            "is not a URL: its port must be a number up to 65535, and in user and password / ? # [ ] @ : and % must be "
            "written as %2F %3F %23 %5B %5D %40 %3A and %25"
        ) from None
