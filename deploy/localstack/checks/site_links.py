"""A hook of mkdocs: links from a document to a file outside `docs/` become the file's path in the repository.

Such links work in a checkout and cannot work in a site. Links within `docs/` stay as they are, and mkdocs checks them.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")


def within_docs(markdown: str, page: str) -> str:
    """The text of a page, with links that leave the folder of documents shown as paths.

    Args:
        markdown: of the page.
        page:     its path in that folder, such as `decisions/README.md`.
    """

    def shown(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link[2]))
        if target.startswith("docs/") and target.endswith((".md", ".png")):
            return link[0]
        text = link[1].strip("`")
        return f"`{target}`" if target.endswith(text) else f"{link[1]} (`{target}`)"

    return LINK.sub(shown, markdown)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """mkdocs' call."""
    return within_docs(markdown, page.file.src_uri)
