"""The headings of a Markdown document, as links lead to them."""

from __future__ import annotations

import re

_BLOCK = re.compile(r"^```.*?^```", re.M | re.S)


def anchors(text: str) -> set[str]:
    """Of the headings, as code hosts and mkdocs make them."""
    return {anchor_of(heading) for heading in re.findall(r"^#+ (.+)$", _BLOCK.sub("", text), re.M)}


def anchor_of(heading: str) -> str:
    """Of one heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
