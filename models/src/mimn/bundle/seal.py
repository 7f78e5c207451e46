"""The seal of a bundle: `manifest.sha256`, the hash of `manifest.json`, which holds the hash of every other file.

It is what `sha256sum manifest.json` prints, so `sha256sum -c` checks it as well.
"""

from __future__ import annotations

import logging
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from mimn.bundle.files import opened
from mimn.bundle.specs import MANIFEST, BundleError

log = logging.getLogger("mimn.bundle")
SEAL: Final = "manifest.sha256"


def seal_of(manifest: bytes) -> bytes:
    """The content of the seal of a bundle with this `manifest.json`."""
    return f"{sha256(manifest).hexdigest()}  {MANIFEST}\n".encode()


def check_seal(folder: Path, manifest: bytes) -> None:
    """Whether these bytes are the manifest that was exported; `folder` has no symbolic links in its path.

    Raises:
        BundleError: they are not, or the seal is damaged.
    """
    if not os.path.lexists(folder / SEAL):  # bundles of earlier versions have none
        log.info("%s has no %s: a damaged %s cannot be told from the exported one", folder, SEAL, MANIFEST)
        return
    wanted = seal_of(manifest)
    with opened(folder, SEAL) as file:
        found = file.read(len(wanted) + 1)
    if found != wanted:
        raise BundleError(
            f"{folder / MANIFEST} is not the file that was exported, or {SEAL} beside it is damaged (sha256 differs): "
            "copy the bundle again"
        )
