"""A small search for settings: trials of one configuration with some values changed, judged on validation alone.

A search space is a TOML file:

    trials = 20
    [parameters."training.learning_rate"]
    low = 1e-4
    high = 1e-2
    log = true
    [parameters."model.head"]
    choices = ["mlp", "deepfm"]

Each value must make a configuration with the other settings of the base. A trial is a run whose data has no test part
(`parts` of both tasks): no code of a trial can read a test label. The study is a journal file of optuna; a search
that was killed goes on with the trial that it was in, from its last epoch.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
import tomli_w
from rich.table import Table

from mimn import config_file, run
from mimn.config import ConfigError
from mimn.config_file import HasToml
from mimn.data.split import Part
from mimn.file_lock import hold
from mimn.toml_text import NotToml, parsed
from mimn.training.disk import named_if_full
from mimn.training.folder import TrainingFailed, check_place
from mimn.training.loop import Running
from mimn.training.schedule import Epoch, Measure

if TYPE_CHECKING:
    import optuna

SEEN: tuple[Part, ...] = ("train", "validation")
"""The parts whose labels a trial reads."""
STUDY, BEGUN, BEST, TRIAL = "study.journal", "search.toml", "best.toml", "trial"
FIXED = ("name", "data", "training.seed")
"""What a search may not change: its trials would not be comparable."""
INSTALL = "a search needs a package that is not installed ({}): pip install -e 'models[train,tune]'"
C = TypeVar("C", bound=HasToml)


class Parameter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The values that a setting may have: some, or a range. A range of whole numbers gives whole numbers."""

    choices: list[Any] = []
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    """Whether a range is searched by orders of magnitude."""

    def __post_init__(self) -> None:
        if bool(self.choices) == (self.low is not None or self.high is not None):
            raise ValueError("a parameter has either `choices` or `low` and `high`")
        if self.choices:
            return
        if self.low is None or self.high is None or not -math.inf < self.low < self.high < math.inf:
            raise ValueError("a range needs `low` below `high`")
        if self.log and self.low <= 0:
            raise ValueError("a range needs `low` above 0 with `log`")

    @property
    def examples(self) -> list[Any]:
        """Values to try a configuration with: every choice, or both ends."""
        return self.choices or [self.low, self.high]

    def suggested(self, trial: optuna.Trial, name: str) -> Any:
        """The value of this trial."""
        if self.choices:
            shown = [msgspec.json.encode(choice).decode() for choice in self.choices]  # optuna takes no lists
            return self.choices[shown.index(trial.suggest_categorical(name, shown))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)


class Space(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A search space."""

    parameters: dict[str, Parameter]
    """By the path of a setting: `min_count`, or the table's name and the setting's with a point between."""
    trials: int = 20
    """Trials in all, those of an interrupted search included."""
    seed: int = 0
    """Of the search; the trials have the configuration's."""

    def __post_init__(self) -> None:
        if not self.parameters or self.trials < 1 or self.seed < 0:
            raise ValueError("a search has at least one parameter and one trial, and a seed of 0 or more")
        for path in self.parameters:
            if any(path == fixed or path.startswith(f"{fixed}.") for fixed in FIXED):
                raise ValueError(f"{path} cannot be searched: trials with other data or seeds cannot be compared")


def read_space(path: Path, trials: int | None = None) -> Space:
    """The search space in a file; `trials` replaces its number of trials.

    Raises:
        ConfigError: it cannot be read, or a field is unknown, missing or of the wrong type; the message names it.
    """
    try:
        space = msgspec.convert(parsed(path.read_text("utf-8")), Space)
        return space if trials is None else msgspec.structs.replace(space, trials=trials)
    except (OSError, UnicodeDecodeError, NotToml, msgspec.ValidationError) as error:
        raise ConfigError(f"{path}: {error}") from error


@dataclass
class Search(Generic[C]):
    """One search in one folder."""

    base: C
    space: Space
    output: Path
    measure: Measure
    train: Callable[[C, Path, Running, bool], dict[str, Any]]
    """Trains a configuration on the parts `SEEN` into a folder, resuming what is there or not."""
    progress_bar: bool = False
    _study: Any = field(default=None, init=False)

    def run(self) -> Path:
        """All trials that are still to be made; returns the file of the best configuration.

        Raises:
            ConfigError: a value of the space makes no configuration.
            TrainingFailed: optuna is missing, the folder has another search, another process is searching there, or no
                trial came to an end.
        """
        try:
            import optuna  # noqa: F401
        except ImportError as error:
            raise TrainingFailed(INSTALL.format(error)) from error
        for path, parameter in self.space.parameters.items():
            for value in parameter.examples:
                self._configured({path: value})
        with named_if_full(self.output, "search with the same command"), self._begun():
            return self._run()

    def _run(self) -> Path:
        """As `run`, in a folder that no other process searches in."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(self.output / STUDY))),
            study_name="search",
            direction="maximize" if self.measure.higher_is_better else "minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
            load_if_exists=True,
        )
        while (trial := self._next()) is not None:
            self._try(trial)
            self._write_best()
        best = self.output / BEST
        if not best.exists():
            raise TrainingFailed(f"no trial of {self.output} came to an end: see the table above for the reasons")
        return best

    @property
    def begun(self) -> bool:
        """Whether there is a study to make a table of."""
        return self._study is not None

    def table(self) -> Table:
        """All trials, the best first."""
        found = self._study.trials
        sign = -1.0 if self.measure.higher_is_better else 1.0
        order = sorted(found, key=lambda one: (one.state.name != "COMPLETE", sign * (one.value or 0.0), one.number))
        table = Table("trial", f"validation {self.measure.name}", "epochs", *self.space.parameters, "")
        for one in order:
            value = f"{one.value:.5f}" if one.state.name == "COMPLETE" else one.state.name.lower()
            shown = [_shown(one.params.get(name)) for name in self.space.parameters]
            table.add_row(
                str(one.number), value, str(one.user_attrs.get("epochs", "")), *shown, one.user_attrs.get("why", "")
            )
        return table

    @contextmanager
    def _begun(self) -> Iterator[None]:
        """Note what is searched, or check that the folder's search is this one; keep other processes out meanwhile.

        Trials are made in one folder, and the study's journal tells every process of the same trial.
        """
        parameters = msgspec.to_builtins(self.space.parameters)
        searched = {"parameters": parameters, "seed": self.space.seed, "base": msgspec.to_builtins(self.base)}
        text = tomli_w.dumps(_known(searched))
        check_place(self.output)
        stored = self.output / BEGUN
        if not stored.exists() and self.output.exists() and any(self.output.iterdir()):
            raise TrainingFailed(f"{self.output} is not empty and holds no search: choose another folder")
        self.output.mkdir(parents=True, exist_ok=True)
        with stored.open("a+", encoding="utf-8") as file:
            if not hold(file):
                raise TrainingFailed(
                    f"another process is searching in {self.output}: wait until it has ended, or choose another folder"
                )
            file.seek(0)
            begun = file.read()
            if begun not in ("", text):
                raise TrainingFailed(
                    f"{stored} is another search: go on with its configuration and space, or choose another folder"
                )
            if not begun:
                file.write(text)
                file.flush()
            _cut_torn_line(self.output / STUDY)
            yield

    def _next(self) -> optuna.Trial | None:
        """The trial that an earlier process was in, or a new one; None when all are made."""
        import optuna

        trials = self._study.trials
        # Sampling is a function of the trials before, so an interrupted search finds what an unbroken one does.
        self._study.sampler = optuna.samplers.TPESampler(
            seed=self.space.seed + sum(one.state.is_finished() for one in trials)
        )
        for one in trials:
            if one.state == optuna.trial.TrialState.RUNNING:
                return optuna.Trial(self._study, one._trial_id)  # noqa: SLF001  # the constructor takes no other
        if len(trials) >= self.space.trials:
            return None
        shutil.rmtree(self.output / TRIAL, ignore_errors=True)
        asked: optuna.Trial = self._study.ask()
        return asked

    def _try(self, trial: optuna.Trial) -> None:
        """Train one trial and tell the study how it ended."""
        import optuna

        values = {name: of.suggested(trial, name) for name, of in self.space.parameters.items()}
        folder = self.output / TRIAL
        try:
            config = self._configured(values)
            running = Running(progress_bar=self.progress_bar, watchers=[_Reporter(trial, self.measure)])
            ended = folder / run.METRICS
            if ended.exists():  # killed between the run's end and the study's note of it
                record = msgspec.json.decode(ended.read_bytes())
            else:
                record = self.train(config, folder, running, (folder / run.CONFIG).exists())
        except optuna.TrialPruned as pruned:
            trial.set_user_attr("why", str(pruned))
            self._study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        except (ConfigError, TrainingFailed) as error:
            trial.set_user_attr("why", str(error).replace(str(folder), "the run"))
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_user_attr("epochs", record["epochs"])
            trial.set_user_attr("config", config.to_toml())
            self._study.tell(trial, record[f"validation_{self.measure.name}"])
        shutil.rmtree(folder, ignore_errors=True)

    def _write_best(self) -> None:
        complete = [one for one in self._study.trials if one.state.name == "COMPLETE"]
        if not complete:
            return
        run.write_text(self.output / BEST, self._study.best_trial.user_attrs["config"])

    def _configured(self, values: dict[str, Any]) -> C:
        """The base configuration with these values.

        Raises:
            ConfigError: they make no configuration.
        """
        whole = msgspec.to_builtins(self.base)
        for path, value in values.items():
            *tables, name = path.split(".")
            inner = whole
            for table in tables:
                inner = inner.setdefault(table, {}) if isinstance(inner, dict) else None
            if not isinstance(inner, dict):
                raise ConfigError(f"parameter {path}: {'.'.join(tables)} is no table of the configuration")
            inner[name] = value
        return config_file.decode(tomli_w.dumps(_known(whole)), f"parameter {', '.join(values)}", type(self.base))


class _Reporter:
    """A watcher that tells optuna of each epoch and ends a trial that is behind the others."""

    def __init__(self, trial: optuna.Trial, measure: Measure) -> None:
        self._trial, self._measure = trial, measure

    def begin(self, step: int) -> None:
        """Nothing."""

    def step(self, step: int, loss: float) -> None:
        """Nothing."""

    def epoch(self, number: int, step: int, epoch: Epoch, learning_rate: float, per_second: float) -> None:
        """Report the measure.

        Raises:
            optuna.TrialPruned: it is worse than the median of the earlier trials at this epoch.
        """
        import optuna

        self._trial.report(epoch.validation[self._measure.name], number)
        if self._trial.should_prune():
            raise optuna.TrialPruned(f"behind the median after epoch {number}")


def _cut_torn_line(journal: Path) -> None:
    """Remove a last line without an end: a full disk or a power cut left it, and optuna cannot read on behind it."""
    if journal.exists():
        with journal.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _known(values: Any) -> Any:
    """The same tables without what is None, which TOML does not have."""
    if not isinstance(values, dict):
        return values
    return {name: _known(value) for name, value in values.items() if value is not None}
