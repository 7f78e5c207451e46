"""A loaded bundle: the manifest, the layout and the tables. Loading refuses any file that does not match its hash."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import manifest as m
from mimn.bundle.files import check_files, opened
from mimn.bundle.golden import Golden
from mimn.bundle.item_table import ItemTable
from mimn.bundle.manifest import BundleError, Manifest, check_countable, decode_manifest
from mimn.bundle.reads import Reads
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.state.event_list import EventList
from mimn.state.layout import StateLayout
from mimn.state.ledger import Ledger, rest_of
from mimn.state.sketch import Sketch

MAX_MANIFEST_BYTES = 1 << 18


@dataclass(frozen=True)
class IdSketch:
    """A bundle's sketch, and the table that maps category ids to rows."""

    sketch: Sketch
    categories: EmbeddingTable

    def addresses(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cells of events or candidates. [k], [k] → [k, A]"""
        return self.sketch.addresses_of(item_ids, self.categories.rows(category_ids))


@dataclass(frozen=True)
class Bundle:
    """One model, ready to fold and to score. Immutable; arrays are read-only memory maps."""

    path: Path
    manifest: Manifest
    layout: StateLayout
    initial_state: NDArray[np.float32]
    """[F] float32: the state of a user without events."""
    items: EmbeddingTable
    categories: EmbeddingTable
    golden: Golden
    sketch: IdSketch | None = None
    event_list: EventList | None = None
    """The rule for states in a bundle of kind `sequence`; None in others."""
    reads: Reads | None = None
    """What the head reads of a ledger; None without one."""

    @property
    def name(self) -> str:
        """`<name>/<version>`, for people and metrics."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes."""
        return bytes.fromhex(self.manifest.fingerprint)

    @property
    def ledger(self) -> Ledger | None:
        """The ledger in a user's state; None if there is none."""
        return None if self.reads is None else self.reads.ledger

    @property
    def rest(self) -> slice:
        """The place in a flat state of what the step graph reads and writes."""
        return rest_of(None if self.sketch is None else self.sketch.sketch, self.ledger)

    @property
    def width(self) -> int:
        """D: width of an event or candidate vector."""
        return self.items.width + self.categories.width

    def vectors(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The graphs' input of events or candidates: item vector ++ category vector. [k], [k] → [k, D] float32."""
        out = np.empty((len(item_ids), self.width), np.float32)
        out[:, : self.items.width] = self.items.vectors[self.items.rows(item_ids)]
        out[:, self.items.width :] = self.categories.vectors[self.categories.rows(category_ids)]
        return out

    def events(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """Events as input of a step: their vectors, or their rows if states are lists. [k], [k] → [k, D or 2]"""
        if self.event_list is None:
            return self.vectors(item_ids, category_ids)
        return np.stack([self.items.rows(item_ids), self.categories.rows(category_ids)], -1).astype(np.float32)


def load_bundle(path: str | Path) -> Bundle:
    """Load the bundle in directory `path` (a link is followed). Every file is checked against its hash.

    Raises:
        BundleError: the directory, a file or a field is missing, changed or inconsistent; the message says which.
    """
    path = Path(path).resolve()
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: there is no such folder")
    with opened(path, m.MANIFEST) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path / m.MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes: not a manifest")
    manifest = decode_manifest(data)
    if (path.parent.name, path.name) != (manifest.name, manifest.version):
        raise BundleError(
            f"{path} holds bundle {manifest.name}/{manifest.version}: move it to a folder "
            f"…/{manifest.name}/{manifest.version}, or set the path of the bundle that you mean"
        )
    check_files(path, manifest)
    layout = manifest.layout
    initial = _array(path / m.INITIAL_STATE)
    if initial.shape != (layout.floats,) or initial.dtype != np.float32:
        raise BundleError(f"{m.INITIAL_STATE} is {initial.dtype} {initial.shape}, the layout says ({layout.floats},)")
    items = EmbeddingTable(_array(path / m.ITEM_IDS), _array(path / m.ITEM_VECTORS))
    categories = EmbeddingTable(_array(path / m.CATEGORY_IDS), _array(path / m.CATEGORY_VECTORS))
    items.check("items")
    categories.check("categories")
    if (items.width, categories.width) != (manifest.input.item_width, manifest.input.category_width):
        raise BundleError("the tables' widths are not the manifest's input widths")
    try:
        golden = Golden.from_bytes((path / m.GOLDEN).read_bytes(), layout.half_floats)
    except (ValueError, KeyError, OSError) as error:
        raise BundleError(f"{m.GOLDEN} cannot be read: {error}") from error
    sketch = None if manifest.sketch is None else IdSketch(manifest.sketch.sketch, categories)
    event_list = None
    if manifest.state.kind == "sequence":
        check_countable("items", len(items.vectors))
        check_countable("categories", len(categories.vectors))
        event_list = EventList.of(layout)
    reads = _reads(path, manifest)
    return Bundle(path, manifest, layout, initial, items, categories, golden, sketch, event_list, reads)


def _reads(path: Path, manifest: Manifest) -> Reads | None:
    if manifest.ledger is None or manifest.item_table is None:
        return None
    try:
        table = ItemTable.load(path)
    except ValueError as error:
        raise BundleError(str(error)) from error
    if table.types.shape[1] != len(manifest.item_table.types):
        raise BundleError(f"{m.MANIFEST}: item_table.types does not name the {table.types.shape[1]} kinds of the table")
    return Reads(manifest.ledger.ledger, table, manifest.item_table.reads)


def _array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is not a plain array: {error}") from error
    # Still the mapped file, but without the subclass, whose indexing costs several times a plain array's.
    return array.view(np.ndarray)
