"""What releases of earlier rollouts read of requests: callers may still send it after a rollback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mimn.bundle import read_manifest
from rtp.core.fields import Fields, fields_of


@dataclass(frozen=True, slots=True)
class Asked:
    """The fields that the bundle with this manifest reads."""

    fields: Fields
    sha256: str


def read_asked(path: Path) -> Asked:
    """Read it from the bundle's manifest; nothing else of the bundle is looked at.

    Raises:
        BundleError: there is no manifest, or it cannot be read.
    """
    manifest, sha256 = read_manifest(path)
    return Asked(fields_of(manifest.request_fields), sha256)
