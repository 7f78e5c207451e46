"""A warm start: a new run begins with the weights of a finished one, whose vocabularies have grown since.

    rows of known ids and values     keep their vectors; none is dropped, whether today's data has it or not
    rows of new ids and values       begin as the unknown row, which is what stood for them until now
    numbers                          keep the scale or the intervals that the old weights were learned on
    all other weights                are taken over; Adam's moments begin at zero

So before its first step the new model gives the scores of the old one on any input, new ids included. The exceptions
are a cross of fields whose vocabulary grew (its rows are hashes of other rows, so it starts over), and long histories
if the run had no limits (`mimn.impressions.limits`): the new one gets them.

With `keep_state` the new model also reads the states that the old one's bundle wrote: ids, embeddings and the cell stay
as they are, and only what reads a state is trained.

The model must be the same but for one thing: a run with head `fm` can start one with head `fnn`. That is FNN's
pre-training (`mimn.nn.heads.fnn`): the tower alone is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mimn import run, run_files
from mimn.baselines import ModelConfig
from mimn.bundle.fields import FIRST, UNKNOWN, FieldSpec
from mimn.config import ConfigError
from mimn.data.description import ActionRules
from mimn.data.events import DataError
from mimn.data.fields import FILE, FittedFields
from mimn.data.vocabulary import UNKNOWN_ROW, EmbeddingIds, KnownIds, places
from mimn.nn.checkpoint import described
from mimn.nn.fields import table_key
from mimn.nn.model import ClickModel
from mimn.training.folder import TrainingFailed

Ints = NDArray[np.int64]
TABLES = {"request": "fields.request.tables.{}.weight", "item": "fields.item.tables.{}.weight"}
MEMBERS = "fields.member_"
OF_DATA = ("fields.item_", MEMBERS, "fields.embedding_rows")
"""Beginnings of the names of tensors that hold data and not weights."""
OF_HEAD = ".over.head."
"""In the names of the weights of a field head, below the layers that all heads share."""
PRE_TRAINING = ("fm", "fnn")
FROM = "from.json"


NO_FIELDS = FittedFields((), {})


def limits_of(run: ModelConfig, config: ModelConfig) -> ModelConfig:
    """`config` with the limits of `run` where it has none of its own: weights are learned within limits."""
    return replace(
        config,
        count_limit=config.count_limit or run.count_limit,
        sketch_limit=config.sketch_limit or run.sketch_limit,
    )


@dataclass(frozen=True)
class Start:
    """What a run is asked to start from."""

    run: Path
    """The folder of a finished run."""
    keep_state: bool = False
    """Whether the states of its bundle stay valid."""


class From(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a run started from, for its record."""

    run: str
    """The folder, absolute."""
    model_sha256: str
    keep_state: bool = False


@dataclass(frozen=True)
class Origin:
    """A finished run to start from."""

    source: From
    config: ModelConfig
    actions: ActionRules
    known: KnownIds
    fitted: FittedFields

    @classmethod
    def of(cls, output: Path, start: Start | None, *, resume: bool) -> Origin | None:
        """What the run in `output` starts from: `start`, or, if it is resumed, what it started from, which `start` may
        name in another place.

        Raises:
            TrainingFailed: as `load`; or the resumed run started from another one, or that one was changed.
        """
        if not resume:
            return None if start is None else cls.load(start)
        recorded = output / FROM
        if not recorded.exists():
            if start is not None:
                raise TrainingFailed(f"{output} was started without --from: resume without it")
            return None
        source = msgspec.json.decode(recorded.read_bytes(), type=From)
        if start is None and not (Path(source.run) / run.METRICS).exists():
            raise TrainingFailed(
                f"{source.run}, which {output} was started from, holds no finished run any more: put it back, or name "
                f"the place where it is now by --from{' and --keep-state' if source.keep_state else ''}"
            )
        origin = cls.load(start or Start(Path(source.run), keep_state=source.keep_state))
        found = origin.source
        if (found.model_sha256, found.keep_state) == (source.model_sha256, source.keep_state):
            return origin  # wherever it lies now
        if start is not None:
            how = " with --keep-state" if source.keep_state else ""
            raise TrainingFailed(f"{output} was started from {source.run}{how}: resume without --from")
        raise TrainingFailed(f"{source.run} is not what {output} was started from any more: start again")

    @classmethod
    def load(cls, start: Start) -> Origin:
        """The run to start from.

        Raises:
            TrainingFailed: it holds no finished run, or a file of it is damaged.
        """
        folder = start.run
        path = folder / run.MODEL
        if not (folder / run.METRICS).exists():
            raise TrainingFailed(f"{folder} holds no finished run to start from: finish it, or name another by --from")
        try:
            run_files.whole(folder)
            ids = EmbeddingIds.load(folder)
            fitted = FittedFields.load(folder) if (folder / FILE).exists() else NO_FIELDS
            with safe_open(str(path), framework="pt") as file:
                known = described(file.metadata() or {})
                rows = np.arange(len(ids.items) + 1)
                if "fields.embedding_rows" in file.keys():  # noqa: SIM118 (not a dict)
                    rows = file.get_tensor("fields.embedding_rows").numpy()
            with path.open("rb") as whole:
                sha256 = hashlib.file_digest(whole, "sha256").hexdigest()
        except (OSError, SafetensorError, KeyError, ValueError, ConfigError, DataError, run.NoFinishedRun) as error:
            raise TrainingFailed(f"{folder} cannot be started from ({error}): name another run by --from") from error
        source = From(run=str(folder.resolve()), model_sha256=sha256, keep_state=start.keep_state)
        return cls(source, known.config, known.actions, KnownIds(ids, rows), fitted)

    def check(self, config: ModelConfig) -> None:
        """Whether a model of `config` can begin with these weights.

        Raises:
            ConfigError: it is another architecture; the message names what differs.
        """
        mine, new = asdict(limits_of(config, self.config)), asdict(limits_of(self.config, config))
        if (mine.get("head"), new.get("head")) == PRE_TRAINING:
            # An FM has no tower, so what a configuration says of its units and dropout means nothing.
            for name in ("head", "head_units", "head_dropout"):
                mine.pop(name), new.pop(name)
        differing = [
            f"{name} = {new.get(name)!r} (there {mine.get(name)!r})"
            for name in sorted(mine.keys() | new.keys())
            if mine.get(name) != new.get(name)
        ]
        if differing:
            raise ConfigError(
                f"[model] {', '.join(differing)}: --from {self.source.run} needs the model of that run; only a head "
                "'fm' can start another one, 'fnn'"
            )

    def save(self, output: Path) -> None:
        """Note in the run folder `output` where it starts from, for a resumed run."""
        (output / FROM).write_bytes(msgspec.json.format(msgspec.json.encode(self.source)))

    def record(self, validation: Mapping[str, float] | None) -> dict[str, Any]:
        """What `metrics.json` says of it: the run, and the figures of its weights on today's validation part."""
        source: dict[str, Any] = msgspec.to_builtins(self.source)
        return source | {f"validation_{name}": value for name, value in (validation or {}).items()}

    def grown(self, known: KnownIds, fitted: FittedFields, rules: ActionRules) -> tuple[KnownIds, FittedFields]:
        """What the new data knows and what this run knew: ids, and what values of fields mean. `rules`: of its actions.

        An item that had an embedding of its own keeps it. If this run's states are kept, its ids and embeddings stay
        alone. Values of fields are added to those known before; numbers keep their meaning.

        Raises:
            ConfigError: the data set's actions, its fields, a field's kind or its number of buckets are others.
        """
        if dict(rules) != dict(self.actions):
            raise ConfigError(
                f"[actions] {dict(rules)} is not what {self.source.run} was trained with, {dict(self.actions)}: "
                "restore it, or train without --from"
            )
        return self._grown_ids(known), self._grown_fields(fitted)

    def _grown_ids(self, known: KnownIds) -> KnownIds:
        if self.source.keep_state:
            return self.known
        items, categories = (self.known.ids.items, known.ids.items), (self.known.ids.categories, known.ids.categories)
        ids = EmbeddingIds.of(np.concatenate(items), np.concatenate(categories))
        return KnownIds.of(ids, known.own(ids.items) | self.known.own(ids.items))

    def _grown_fields(self, fitted: FittedFields) -> FittedFields:
        before, now = ([spec.name for spec in one.specs] for one in (self.fitted, fitted))
        if before != now:
            raise ConfigError(
                f"the description has the fields {', '.join(now) or '(none)'}, and --from {self.source.run} was "
                f"trained with {', '.join(before) or '(none)'}: start from a run with the same fields in the same order"
            )
        specs, codes = [], {}
        for old, new in zip(self.fitted.specs, fitted.specs, strict=True):
            if _lasting(old) != _lasting(new):
                raise ConfigError(
                    f"fields.{new.source}.{new.name} is described otherwise than in {self.source.run}: give it the "
                    "same source, kind, transform and buckets, or train without --from"
                )
            if new.listed:
                codes[new.name] = np.union1d(self.fitted.codes[new.name], fitted.codes[new.name])
                specs.append(msgspec.structs.replace(new, rows=len(codes[new.name]) + FIRST))
            else:
                specs.append(msgspec.structs.replace(old, rows=max(old.rows, new.rows)) if new.whole else old)
        return FittedFields(tuple(specs), codes)

    @torch.no_grad()
    def give(self, model: ClickModel, ids: EmbeddingIds, fitted: FittedFields = NO_FIELDS) -> list[str]:
        """Set the weights of `model`, which reads `ids` and `fitted` (both grown from this run's), to this run's.

        If its states are kept, the weights that states are made of no longer learn.

        Returns: the crosses of fields that start over.

        Raises:
            TrainingFailed: the file cannot be read any more; or states are to be kept, and items stand for others.
        """
        rows, fresh = self._rows(ids, fitted)
        try:
            with safe_open(str(Path(self.source.run) / run.MODEL), framework="pt") as file:
                known = set(file.keys())
                if self.source.keep_state:
                    self._check_members(
                        {name: file.get_tensor(name) for name in known if name.startswith(MEMBERS)}, model
                    )
                for name, value in model.state_dict(keep_vars=True).items():
                    if name.startswith(OF_DATA) or name in fresh or (OF_HEAD in name and name not in known):
                        continue
                    stored = file.get_tensor(name)
                    if name in rows:
                        torch.index_select(stored, 0, torch.from_numpy(rows[name]), out=value.detach())
                    else:
                        value.copy_(stored)
        except (OSError, SafetensorError, RuntimeError) as error:
            raise TrainingFailed(f"{self.source.run} cannot be started from: {error}") from error
        if self.source.keep_state:
            for weight in model.state_weights():
                weight.requires_grad_(False)
        return list(fresh.values())

    def _check_members(self, old: Mapping[str, Tensor], model: ClickModel) -> None:
        new = {name: value for name, value in model.state_dict().items() if name.startswith(MEMBERS)}
        if old.keys() != new.keys() or not all(torch.equal(old[name], new[name]) for name in new):
            raise TrainingFailed(
                f"items stand for other items than in {self.source.run}, so states would mean something else: keep the "
                "[members] of that run, and give new ones to export --members; or train without --keep-state"
            )

    def _rows(self, ids: EmbeddingIds, fitted: FittedFields) -> tuple[dict[str, Ints], dict[str, str]]:
        """By table, the old row that each row begins as; and the tables that start over, with their fields' names."""
        items, categories = self.known.ids.item_rows(ids.items), self.known.ids.category_rows(ids.categories)
        rows = {
            "items.weight": np.concatenate([[UNKNOWN_ROW], self.known.embedding_rows[items]]),
            "categories.weight": np.concatenate([[UNKNOWN_ROW], categories]),
        }
        old = {spec.name: spec for spec in self.fitted.specs}
        grew = {
            spec.name
            for spec in fitted.specs
            if spec.listed and not np.array_equal(fitted.codes[spec.name], self.fitted.codes[spec.name])
        }
        fresh: dict[str, str] = {}
        for spec in fitted.specs:
            name = TABLES["item" if spec.source == "item" else "request"].format(table_key(spec.name))
            if spec.kind == "cross" and grew & set(spec.of):
                fresh[name] = spec.name
            elif spec.tabled:
                rows[name] = self._field_rows(old[spec.name], spec, fitted.codes)
        return rows, fresh

    def _field_rows(self, old: FieldSpec, new: FieldSpec, codes: Mapping[str, NDArray[np.uint64]]) -> Ints:
        if not new.listed:
            every = np.arange(new.rows)
            return np.where(every < old.rows, every, UNKNOWN)
        at = places(self.fitted.codes[new.name], codes[new.name])
        return np.concatenate([np.arange(FIRST), np.where(at >= 0, at + FIRST, UNKNOWN)])


def _lasting(spec: FieldSpec) -> tuple[FieldSpec, bool]:
    """What must not change of a field: all but what is fitted to the data, or grows with it."""
    fitted = spec.listed or spec.whole or spec.kind == "numeric"
    rows = 0 if fitted else spec.rows
    unfitted = msgspec.structs.replace(spec, rows=rows, edges=(), bounds=None, mean=0.0, deviation=1.0, examples=())
    return unfitted, spec.tabled
