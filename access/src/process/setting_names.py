"""Variables of the environment that look like a service's settings and are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Final

from pydantic import BaseModel

_SERVICE_LINK: Final = ("tcp://", "udp://", "sctp://")
"""How the value of a variable begins that Kubernetes makes of a service called `rtp` or `rtp-…`."""


class UnknownSetting(ValueError):
    """A variable begins like a setting and is none. Names it and the nearest setting; never shows a value."""


def setting_names(service: str, groups: type[BaseModel]) -> Iterator[str]:
    """The variables of a service's settings, such as `RTP_REDIS__URL`, and its groups, which can be given as JSON.

    Args:
        service: `RTP` or `UIC`.
        groups: the settings; each field is a model of its own.
    """
    for group, field in groups.model_fields.items():
        yield f"{service}_{group}".upper()
        assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)  # noqa: S101, PT018
        yield from (f"{service}_{group}__{name}".upper() for name in field.annotation.model_fields)


def check_names(service: str, groups: type[BaseModel], environment: Mapping[str, str]) -> None:
    """Make sure that each variable that begins with the service's name is one of `setting_names`.

    Raises:
        UnknownSetting: names the first that is not.
    """
    known = list(setting_names(service, groups))
    for name in sorted(environment):
        if not name.upper().startswith(f"{service}_") or name.upper() in known:
            continue
        if environment[name].startswith(_SERVICE_LINK):
            raise UnknownSetting(
                f"{name} is not a setting of {service}, but a service link of Kubernetes: "
                "set enableServiceLinks: false in the pod's spec"
            )
        nearest = get_close_matches(name.upper(), known, 1, 0)[0]
        raise UnknownSetting(f"{name} is not a setting of {service}; did you mean {nearest}?")
