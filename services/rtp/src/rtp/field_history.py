"""What releases of earlier rollouts read of requests: callers may still send it after a rollback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mimn.bundle import read_manifest
from mimn.bundle.request_fields import names_asked
from rtp.core.fields import Names, names_of


@dataclass(frozen=True, slots=True)
class Asked:
    """The fields that the bundle with this manifest reads."""

    names: Names
    sha256: str


def read_asked(path: Path) -> Asked:
    """Read it from the bundle's manifest; nothing else of the bundle is looked at.

    Raises:
        BundleError: there is no manifest, or it cannot be read.
    """
    manifest, sha256 = read_manifest(path)
    return Asked(names_of(names_asked(manifest.request_fields)), sha256)
