"""A loaded bundle: the manifest, the layout and the tables. Loading refuses any file that does not match its hash."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mimn.bundle import specs as m
from mimn.bundle.arrays import finite, read_array
from mimn.bundle.candidates import CandidateTables
from mimn.bundle.fields import FIRST
from mimn.bundle.files import check_files, opened
from mimn.bundle.golden import Golden
from mimn.bundle.item_table import NO_TABLE, ItemTable
from mimn.bundle.manifest import check_countable, decode_manifest
from mimn.bundle.members import MemberIndex, MemberReads
from mimn.bundle.reads import Reads
from mimn.bundle.request_fields import RequestFields
from mimn.bundle.seal import check_seal
from mimn.bundle.specs import BundleError, Manifest
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.state.actions import Actions
from mimn.state.event_list import EventList
from mimn.state.layout import StateLayout
from mimn.state.ledger import Ledger, rest_of
from mimn.state.sketch import Sketch

MAX_MANIFEST_BYTES = 1 << 18


@dataclass(frozen=True)
class IdSketch:
    """A bundle's sketch, the table that maps category ids to rows, and what each action counts."""

    sketch: Sketch
    categories: EmbeddingTable
    actions: Actions | None = None

    def addresses(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The cells of events or candidates. [k], [k] → [k, A]"""
        return self.sketch.addresses_of(item_ids, self.categories.rows(category_ids))

    def moments(self, times_ms: NDArray[np.int64], actions: NDArray[np.integer]) -> NDArray[np.float32]:
        """When events happened, and what they count (`Sketch.moments`). [k], [k] numbers of actions → [k, 2, S]"""
        return self.sketch.moments(times_ms, None if self.actions is None else self.actions.weight[actions])


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
    request: RequestFields
    """What the head reads of a request beside user and candidates."""
    asked_items: EmbeddingTable
    """Items as candidates: the vectors of their fields in front of their own. `items` itself without item fields."""
    sketch: IdSketch | None = None
    event_list: EventList | None = None
    """The rule for states in a bundle of kind `sequence`; None in others."""
    reads: Reads | None = None
    """What the head reads of a ledger; None without one."""
    actions: Actions | None = None
    """The actions that the bundle names; None: all events are folded alike."""
    sha256: str = ""
    """Of `manifest.json`, in hex: it holds the hash of every other file, so this is the whole bundle's."""

    @property
    def name(self) -> str:
        """`<name>/<version>`, for people and metrics."""
        return f"{self.manifest.name}/{self.manifest.version}"

    @cached_property
    def fingerprint(self) -> bytes:
        """32 bytes."""
        return bytes.fromhex(self.manifest.fingerprint)

    @property
    def text_ids(self) -> bool:
        """Whether events may name items and categories by text, which `fields.code_of` turns into ids."""
        return self.manifest.input.ids == "string"

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
        """D: width of an event's vector."""
        return self.items.width + self.categories.width

    @property
    def asked_width(self) -> int:
        """W + D: width of a candidate's vector, with W floats of the item's fields."""
        return self.asked_items.width + self.categories.width

    def vectors(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The step's input of events: item vector ++ category vector. [k], [k] → [k, D] float32."""
        return self._of_events.look_up(item_ids, category_ids)

    def candidates(self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The head's input: item fields ++ item vector ++ category vector. [k], [k] → [k, W + D] float32."""
        return self._of_candidates.look_up(item_ids, category_ids)

    @cached_property
    def _of_events(self) -> CandidateTables:
        return CandidateTables(self.items, self.categories)

    @cached_property
    def _of_candidates(self) -> CandidateTables:
        return CandidateTables(self.asked_items, self.categories)

    def events(
        self, item_ids: NDArray[np.uint64], category_ids: NDArray[np.uint64], actions: NDArray[np.integer] | None = None
    ) -> NDArray[np.float32]:
        """Events as input of a step: vectors that their actions have changed, or their rows if states are lists.

        [k], [k], [k] numbers of folded actions; None suits a bundle that names none → [k, D or 2]

        Raises:
            ValueError: the bundle names actions, and there are none.
        """
        if self.event_list is None:
            vectors = self.vectors(item_ids, category_ids)
            if self.actions is None or self.actions.plain:
                return vectors
            if actions is None:
                raise ValueError(f"{self.name} names actions: events need theirs")
            return self.actions.apply(vectors, actions)
        return np.stack([self.items.rows(item_ids), self.categories.rows(category_ids)], -1).astype(np.float32)

    def forget(self, state: NDArray[np.float32], item_id: int) -> None:
        """Erase what one flat state knows of an item by its id, in place. [F]

        That is its entry in a ledger, its counts in a sketch and its events in a list. A memory, a mean and the count
        of a category cannot give one item back.
        """
        ids = np.array([item_id], np.uint64)
        if self.sketch is not None:
            self.sketch.sketch.forget(state, self.sketch.addresses(ids, np.zeros(1, np.uint64))[0])
        if self.ledger is not None:
            self.ledger.forget(state, item_id)
        if self.event_list is not None:
            self.event_list.forget(state, int(self.items.rows(ids)[0]))


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """The manifest of the bundle in directory `path`, and its sha256. The other files are not looked at.

    Raises:
        BundleError: there is none, it cannot be read, or it is not the one that was exported.
    """
    path = path.resolve()
    if not path.is_dir():
        raise BundleError(f"no bundle at {path}: there is no such folder")
    with opened(path, m.MANIFEST) as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise BundleError(f"{path / m.MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes: not a manifest")
    check_seal(path, data)
    return decode_manifest(data), hashlib.sha256(data).hexdigest()


def load_bundle(path: str | Path) -> Bundle:
    """Load the bundle in directory `path` (a link is followed). Every file is checked against its hash.

    Raises:
        BundleError: the directory, a file or a field is missing, changed or inconsistent; the message says which.
    """
    path = Path(path).resolve()
    manifest, sha256 = read_manifest(path)
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
    # A ledger's words are integers: as float32, some look like no number.
    numbers_of_state = slice(layout.floats - (0 if manifest.ledger is None else manifest.ledger.ledger.words))
    if not finite(initial[numbers_of_state]):
        raise BundleError(f"{m.INITIAL_STATE} has a number that is not finite: export the bundle again")
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
    numbers = golden.states[..., numbers_of_state], golden.context, golden.scores, golden.cold_scores
    if not all(map(finite, numbers)):
        raise BundleError(f"{m.GOLDEN} has a number that is not finite: export the bundle again")
    actions = manifest.named_actions
    if actions is not None and golden.actions is None:
        raise BundleError(f"{m.GOLDEN} has no actions, and the manifest names some: export the bundle again")
    sketch = None if manifest.sketch is None else IdSketch(manifest.sketch.sketch, categories, actions)
    event_list = None
    if manifest.state.kind == "sequence":
        check_countable("items", len(items.vectors))
        check_countable("categories", len(categories.vectors))
        event_list = EventList.of(layout)
    request, asked_items = _fields(path, manifest, items)
    bundle = Bundle(
        path=path,
        manifest=manifest,
        layout=layout,
        initial_state=initial,
        items=items,
        categories=categories,
        golden=golden,
        request=request,
        asked_items=asked_items,
        sketch=sketch,
        event_list=event_list,
        actions=actions,
        reads=_reads(path, manifest),
        sha256=sha256,
    )
    _check_widths(bundle)
    return bundle


def _reads(path: Path, manifest: Manifest) -> Reads | None:
    if manifest.ledger is None:
        return None
    of_table, of_members, ledger = manifest.item_table, manifest.members, manifest.ledger.ledger
    table, members = NO_TABLE, None
    groups: tuple[str, ...] = ()
    try:
        if of_table is not None:
            table, groups = ItemTable.load(path), of_table.reads
        if of_members is not None:
            members = MemberReads(ledger, MemberIndex.load(path, ledger), of_members.half_lives)
    except ValueError as error:
        raise BundleError(str(error)) from error
    if of_table is not None and table.types.shape[1] != len(of_table.types):
        raise BundleError(f"{m.MANIFEST}: item_table.types does not name the {table.types.shape[1]} kinds of the table")
    if "neighbors" in groups and table.neighbors is None:
        raise BundleError(f"{m.MANIFEST}: item_table.reads names `neighbors`, which the table does not have")
    return Reads(ledger, table, groups, members)


def _fields(path: Path, manifest: Manifest, items: EmbeddingTable) -> tuple[RequestFields, EmbeddingTable]:
    """The fields of a request, and items with theirs.

    Raises:
        BundleError: a file does not fit the manifest's fields.
    """
    specs, asked = manifest.request_fields, items
    codes, vectors = np.empty(0, np.uint64), np.empty((0, 1), np.float32)
    if m.FIELD_CODES in manifest.files:
        codes = _array(path / m.FIELD_CODES)
    if m.FIELD_VECTORS in manifest.files:
        vectors = _array(path / m.FIELD_VECTORS)
    listed = [spec for spec in specs if spec.listed]
    ends = np.cumsum([spec.rows - FIRST for spec in listed], dtype=np.int64).tolist()
    if codes.dtype != np.uint64 or codes.shape != (ends[-1] if ends else 0,):
        raise BundleError(f"{m.FIELD_CODES} is {codes.dtype} {codes.shape}: not the listed values of `fields`")
    rows = sum(spec.rows for spec in specs)
    if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
        raise BundleError(f"{m.FIELD_VECTORS} is {vectors.dtype} {vectors.shape}, `fields` have {rows} rows")
    if not finite(vectors):
        raise BundleError(f"{m.FIELD_VECTORS} has a number that is not finite: export an earlier checkpoint")
    of = {spec.name: codes[end - spec.rows + FIRST : end] for spec, end in zip(listed, ends, strict=True)}
    for name, own in of.items():
        if not bool(np.all(own[1:] > own[:-1])):
            raise BundleError(f"{m.FIELD_CODES}: the values of {name} must rise strictly")
    if m.ITEM_CANDIDATES in manifest.files:
        asked = EmbeddingTable(items.ids, _array(path / m.ITEM_CANDIDATES))
        asked.check("items as candidates")
    return RequestFields(specs, of, vectors), asked


def _check_widths(bundle: Bundle) -> None:
    """Whether head and golden cases take what the tables give: with other widths, the first request would fail."""
    shapes = {tensor.name: tensor.shape for tensor in bundle.manifest.head.inputs}
    wanted = {"candidates": bundle.asked_width} | ({"context": bundle.request.width} if bundle.request.width else {})
    for name, width in wanted.items():
        if name not in shapes or shapes[name][-1:] != (width,):
            raise BundleError(
                f"{m.MANIFEST}: the head's input `{name}` is {shapes.get(name)}, and tables and fields give {width} "
                "values"
            )
    for name, width in (("states", bundle.layout.floats), ("context", bundle.request.width)):
        if (found := getattr(bundle.golden, name).shape[1]) != width:
            raise BundleError(f"{m.GOLDEN}: {name} have {found} values each, and the manifest says {width}")


def _array(path: Path) -> NDArray[Any]:
    try:
        return read_array(path)
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is not a plain array: {error}") from error
