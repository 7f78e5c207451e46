"""The defaults of the Makefile can be used as they are."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def default(variable: str) -> str:
    (value,) = re.findall(rf"^{variable} \?= (\S+)$", MAKEFILE, re.M)
    return str(value)


def test_a_run_is_exported_to_where_no_bundle_is() -> None:
    """A bundle never changes: a version that exists would be refused after hours of training."""
    bundles, name, version = map(default, ("BUNDLES", "NAME", "VERSION"))
    assert (ROOT / bundles / name).is_dir(), "it is the next version of a bundle that the repository has"
    assert not (ROOT / bundles / name / version).exists()
