"""The model's hyper-parameters: one frozen value, written into every run folder and every bundle.

Training, export and the parity tests read it. The services do not: they read the bundle's layout and graphs. Switches
have the paper's names; the choices of the published code are one preset, `official`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, get_args

from mimn.bundle.item_table import MOST_NEIGHBORS
from mimn.bundle.members import read_width
from mimn.bundle.reads import GROUPS, width
from mimn.state.layout import Block, BlockType, StateLayout
from mimn.state.ledger import Ledger
from mimn.state.sketch import Sketch

Variant = Literal["paper", "official", "pooling", "ledger"]
Rebalance = Literal["none", "shift", "transfer"]
Padding = Literal["hold", "reset", "run"]
HeadNorm = Literal["none", "batch"]
HeadName = Literal[
    "paper",
    "mlp",
    "deep_crossing",
    "fm",
    "fnn",
    "pnn_inner",
    "pnn_outer",
    "wide_deep",
    "deepfm",
    "dcn",
    "dcn_v2",
    "nfm",
    "afm",
]


MAX_SKETCH_CELLS = 1 << 16
MAX_LEDGER_BUCKETS = 1 << 13
MAX_HALF_LIFE = 36_500
"""Days: a century, which is as good as forever."""


class ConfigError(ValueError):
    """A configuration value that cannot be used; the message names the field and the fix."""


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """What all models share: embeddings, the auxiliary loss of models with steps, a sketch, and the head's MLP."""

    embedding_dim: int = 16
    """E: width of one id's embedding."""
    auxiliary_loss: bool = False
    """Predict the next event from each step's output (DIEN's auxiliary loss)."""
    auxiliary_weight: float = 1.0
    history_product: bool = False
    """The head also reads the elementwise product of the candidate and the mean event vector, a measure of how similar
    they are. Not in the paper. It makes the state no larger, since the state holds the mean anyway."""
    sketch_category_cells: int = 0
    """Counters of categories (`mimn.state.sketch`); the head reads the candidate's. 0 = no counters."""
    sketch_item_cells: int = 0
    """Counters in each of the two hashed rows of items; 0 = no counters."""
    sketch_half_lives: tuple[int, ...] = (0, 30)
    """Days after which an event counts half, one value per set of counters; 0 = never. Used only with a sketch."""
    sketch_limit: float = 0.0
    """What a user's counters of one half-life may add up to. Above, the head reads them scaled down together, so that
    they add up to this. 0 = no limit. Training on impressions sets both limits (`mimn.impressions.limits`)."""
    count_limit: float = 0.0
    """The most events that the head reads as the number of a user's events. 0 = no limit."""
    ledger_buckets: int = 0
    """Buckets of eight items each in a user's ledger (`mimn.state.ledger`); the head reads it. 0 = no ledger."""
    ledger_reads: tuple[str, ...] = ()
    """The groups of values that the head reads (`mimn.bundle.reads`); empty: all of them, or none with
    `member_reads`."""
    ledger_types: tuple[str, ...] = ()
    """Kinds of types that items have: `category`, fields of items in the data set's description, or pairs as `a*b`."""
    ledger_vectors: int = 32
    """Width of the vectors in the table of items. Used only with a ledger."""
    ledger_least_users: int = 2
    """Items of fewer train users are not in that table. Used only with a ledger."""
    ledger_neighbors: int = 0
    """Neighbors of each item in that table (`mimn.data.neighbors`); 0: none, and the group `neighbors` is not read."""
    ledger_neighbor_l2: float = 200.0
    """How strongly their weights are drawn to 0. Used only with neighbors."""
    member_reads: bool = False
    """The head reads in the ledger how often and how recently the user touched the items that the candidate stands for,
    or the candidate itself (`mimn.bundle.members`)."""
    member_half_lives: tuple[int, ...] = (7, 30, 120)
    """Days after which a touch of a member counts half. Used only with `member_reads`."""
    head: HeadName = "paper"
    """What stands above the state's read-outs: `paper` is the model's own, the others are field heads
    (`mimn.nn.heads`), which take any state."""
    head_units: tuple[int, int] = (200, 80)
    """Hidden widths of the MLP, and of a field head's deep part."""
    head_norm: HeadNorm = "none"
    """Batch normalization of the MLP's input. The published heads always have their own affine layer there."""
    head_dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least_one(self, "embedding_dim")
        two_widths(self, "head_units")
        one_of(self, "head", HeadName)
        one_of(self, "head_norm", HeadNorm)
        if self.head != "paper" and self.head_norm != "none":
            raise ConfigError(f"head_norm must be 'none' with head {self.head!r}: only the paper's MLP has it")
        if not self.auxiliary_weight >= 0.0:
            raise ConfigError(f"auxiliary_weight must be 0 or more, not {self.auxiliary_weight}")
        if not 0.0 <= self.head_dropout < 1.0:
            raise ConfigError(f"head_dropout must be in [0, 1), not {self.head_dropout}")
        for field in ("sketch_category_cells", "sketch_item_cells"):
            if not 0 <= getattr(self, field) <= MAX_SKETCH_CELLS:
                raise ConfigError(f"{field} must be 0 to {MAX_SKETCH_CELLS}, not {getattr(self, field)}")
        half_lives(self, "sketch_half_lives", least=0)
        for field in ("sketch_limit", "count_limit"):
            if not 0.0 <= getattr(self, field) < math.inf:
                raise ConfigError(f"{field} must be 0 or more, not {getattr(self, field)}")
        if self.member_reads and not self.ledger_buckets:
            raise ConfigError("ledger_buckets must be above 0 with member_reads: the ledger is what they are read of")
        if not 0 <= self.ledger_buckets <= MAX_LEDGER_BUCKETS:
            raise ConfigError(f"ledger_buckets must be 0 to {MAX_LEDGER_BUCKETS}, not {self.ledger_buckets}")
        at_least_one(self, "ledger_vectors", "ledger_least_users")
        if unknown := sorted(set(self.ledger_reads) - set(GROUPS)):
            raise ConfigError(f"ledger_reads must be of {', '.join(GROUPS)}, not {', '.join(unknown)}")
        if not 0 <= self.ledger_neighbors <= MOST_NEIGHBORS:
            raise ConfigError(f"ledger_neighbors must be 0 to {MOST_NEIGHBORS}, not {self.ledger_neighbors}")
        if not self.ledger_neighbor_l2 > 0:
            raise ConfigError(f"ledger_neighbor_l2 must be above 0, not {self.ledger_neighbor_l2}")
        if "neighbors" in self.ledger_reads and not self.ledger_neighbors:
            raise ConfigError("ledger_reads names neighbors: ledger_neighbors, how many, must be above 0")
        half_lives(self, "member_half_lives", least=1)
        if self.sketch_category_cells % 2:
            raise ConfigError(f"sketch_category_cells must be even, not {self.sketch_category_cells}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """The config that a parsed TOML table or a manifest's `model` holds; the inverse of `dataclasses.asdict`.

        Raises:
            ConfigError: an unknown field, a value of the wrong type, or one that cannot be used.
        """
        return cls(**typed_fields(cls, values))

    @property
    def width(self) -> int:
        """D: width of an event vector, of a memory slot and of an interest channel."""
        return 2 * self.embedding_dim

    @property
    def read_widths(self) -> list[int]:
        """Width of what the head reads of the ledger: none, or one."""
        return [self.read_width] if self.ledger_buckets else []

    @property
    def sketch(self) -> Sketch | None:
        """The counters in a user's state, None if there are no counters."""
        sketch = Sketch(self.sketch_category_cells, self.sketch_item_cells, self.sketch_half_lives)
        return sketch if sketch.cells else None

    @property
    def ledger(self) -> Ledger | None:
        """The ledger in a user's state, None if there is none."""
        return Ledger(self.ledger_buckets) if self.ledger_buckets else None

    @property
    def read_groups(self) -> tuple[str, ...]:
        """What the head reads of the ledger with the table of items, in the order of `GROUPS`."""
        if self.member_reads and not self.ledger_reads:
            return ()
        known = GROUPS if self.ledger_neighbors else GROUPS[:-1]
        return tuple(group for group in known if group in (self.ledger_reads or known))

    @property
    def read_width(self) -> int:
        """R: how many values that is for one candidate; 0 without a ledger."""
        if not self.ledger_buckets:
            return 0
        members = read_width(self.member_half_lives) if self.member_reads else 0
        return width(self.read_groups, len(self.ledger_types)) + members


def at_least_one(config: Any, *fields: str) -> None:
    """Raises ConfigError if a field of `config` is less than 1."""
    for field in fields:
        if getattr(config, field) < 1:
            raise ConfigError(f"{field} must be at least 1, not {getattr(config, field)}")


def half_lives(config: Any, field: str, *, least: int) -> None:
    """Raises ConfigError if a field of `config` is not one or more different numbers of days."""
    days = getattr(config, field)
    if not days or len(set(days)) != len(days) or not least <= min(days) <= max(days) <= MAX_HALF_LIFE:
        raise ConfigError(f"{field} must be distinct days, {least} to {MAX_HALF_LIFE}, not {days}")


def two_widths(config: Any, field: str) -> None:
    """Raises ConfigError if a field of `config` is not two positive numbers."""
    units = getattr(config, field)
    if len(units) != 2 or min(units) < 1:
        raise ConfigError(f"{field} must be two positive widths, not {units}")


def one_of(config: Any, field: str, values: Any) -> None:
    """Raises ConfigError if a field of `config` is not one of the values of a Literal."""
    if getattr(config, field) not in get_args(values):
        raise ConfigError(f"{field} must be one of {', '.join(get_args(values))}, not {getattr(config, field)!r}")


@dataclass(frozen=True, kw_only=True)
class MimnConfig(SharedConfig):
    """Sizes and switches of MIMN.

    `paper` is the paper's equations, with our choices where the paper says nothing; `official` is the authors'
    published code, including its bugs; `pooling` is the baseline without memory (the mean of the event vectors) behind
    the same interface; `ledger` keeps nothing that weights write: a count of events, and a ledger. The event vector is
    item embedding ++ category embedding, so its width D is twice the embedding size E. D is also the width of a memory
    slot and of an interest channel.
    """

    variant: Variant = "paper"
    controller_units: int = 32
    """H: units of the controller GRU."""
    slots: int = 4
    """m: memory slots, and interest channels when `memory_induction` is on."""
    memory_induction: bool = True
    """MIU: one interest channel per slot (paper, eq. 9)."""
    utilization: bool = True
    """MUR: re-balance the write weights by past utilization, and regularize utilization (paper, eq. 6 to 8)."""
    rebalance: Rebalance = "transfer"
    """How MUR re-balances: `transfer` = the paper's weight transfer matrix, `shift` = the published code's shift and
    sharpen. Used only with `utilization`."""
    bounded_writes: bool = False
    """Add only as much as is erased: M_i + w_i e (a - M_i), so a slot stays within [-1, 1] at any length. The paper's
    rule (False) adds without a bound: if training closes the erase gate, a slot grows with the history."""
    utilization_weight: float = 1e-5
    """lambda of the utilization loss. The loss sums squares of write weights that are summed over a history, so it
    grows with the square of the history's length: with 1e-5, 200 events all written to one of four slots cost 0.3. The
    form in the published code (`official`, with 1e-3) is also divided by m^2 and the batch size."""
    padding: Padding = "hold"
    """What a masked event does. `hold` keeps the whole state; only then does a batch equal incremental folding. The
    published code has `reset` (most of the state returns to its initial value) and `run` (a zero event)."""
    context_features: tuple[str, ...] = ()
    """Names of numeric request features that the head reads in addition to the candidate and the state. A bundle may
    have them; what is trained has fields instead (`mimn.run_config`)."""
    attention_units: tuple[int, int] = (80, 40)
    """Hidden widths of the channel attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "controller_units", "slots")
        two_widths(self, "attention_units")
        for field, values in (("variant", Variant), ("rebalance", Rebalance), ("padding", Padding)):
            one_of(self, field, values)
        if not self.utilization_weight >= 0.0:
            raise ConfigError(f"utilization_weight must be 0 or more, not {self.utilization_weight}")
        if len(set(self.context_features)) != len(self.context_features) or not all(self.context_features):
            raise ConfigError(f"context_features must be distinct and not empty, not {self.context_features}")
        if self.context_features and self.head != "paper":
            raise ConfigError(f"context_features must be empty with head {self.head!r}: it reads fields")
        if self.shifts and self.slots < 3:
            raise ConfigError(f"slots must be at least 3 with rebalance 'shift', not {self.slots}")
        if (self.padding == "hold") == (self.variant == "official"):
            raise ConfigError(
                f"padding {self.padding!r} does not exist in variant {self.variant!r}: "
                "official has 'reset' and 'run', the others have 'hold'"
            )
        without_memory = self.variant in ("pooling", "ledger")
        if without_memory and (self.memory_induction or self.utilization or self.auxiliary_loss):
            raise ConfigError(
                f"memory_induction, utilization and auxiliary_loss must be false in variant {self.variant!r}: "
                "it has no memory"
            )
        if self.variant == "ledger" and (not self.ledger_buckets or self.history_product):
            raise ConfigError(
                "ledger_buckets must be above 0 and history_product false in variant 'ledger': its state is a ledger "
                "and a count of events"
            )
        if self.variant == "official":
            self._check_official()

    def _check_official(self) -> None:
        if self.utilization and self.rebalance != "shift":
            raise ConfigError(f"rebalance must be 'shift' in variant 'official', not {self.rebalance!r}")
        if self.head != "paper":
            raise ConfigError(f"head must be 'paper' in variant 'official', not {self.head!r}")
        added = self.context_features or self.history_product or self.bounded_writes or self.sketch
        if added or self.ledger:
            raise ConfigError(
                "context_features must be empty, history_product and bounded_writes false, sketch cells and "
                "ledger_buckets 0 in variant 'official': the published code has none of them"
            )

    @classmethod
    def official(cls, **changes: Any) -> Self:
        """The published code's choices, with `changes`: both flags off, padding runs the cell (Amazon Books)."""
        defaults: dict[str, Any] = {
            "variant": "official",
            "memory_induction": False,
            "utilization": False,
            "rebalance": "shift",
            "utilization_weight": 1e-3,
            "padding": "run",
        }
        return cls(**(defaults | changes))

    @classmethod
    def pooling(cls, **changes: Any) -> Self:
        """The baseline without memory (Embedding&MLP), with `changes`."""
        defaults: dict[str, Any] = {"variant": "pooling", "memory_induction": False, "utilization": False}
        return cls(**(defaults | changes))

    @property
    def shifts(self) -> bool:
        """Whether write weights are re-balanced by shift and sharpen."""
        return self.utilization and self.rebalance == "shift"

    @property
    def transfers(self) -> bool:
        """Whether write weights are re-balanced by the weight transfer matrix."""
        return self.utilization and self.rebalance == "transfer"


def typed_fields(config: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as arguments of the dataclass `config`, whose fields all have defaults.

    Raises:
        ConfigError: an unknown field, or a value that does not have the type of the field's default.
    """
    known = {field.name: field for field in fields(config)}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"unknown field {', '.join(unknown)}; the fields are {', '.join(known)}")
    return {name: _typed(name, value, known[name].default) for name, value in values.items()}


def _typed(name: str, value: Any, default: Any) -> Any:
    """`value`, checked against the type of the field's default; lists become tuples, whole numbers floats."""
    if isinstance(default, tuple):
        if isinstance(value, list | tuple) and all(type(v) is (int if default else str) for v in value):
            return tuple(value)
    elif isinstance(default, float):
        if type(value) in (int, float):
            return float(value)
    elif type(value) is type(default):
        return value
    raise ConfigError(f"{name} must be like {default!r}, not {value!r}")


def state_layout(config: MimnConfig, dtype: BlockType = "float32") -> StateLayout:
    """The blocks of a user's state in `config` (see `whole_state`).

    Raises:
        LayoutError: as `cell_layout`.
    """
    return whole_state(cell_layout(config, dtype), config)


def whole_state(cell: StateLayout, config: SharedConfig) -> StateLayout:
    """The blocks of a user's state: the cell's, between the two of the sketch if there is one, and the ledger."""
    blocks, sketch, ledger = cell.blocks, config.sketch, config.ledger
    if sketch is not None:
        blocks = (sketch.first_block, *blocks, sketch.last_block)
    return StateLayout(blocks if ledger is None else (*blocks, ledger.block))


def cell_layout(config: MimnConfig, dtype: BlockType = "float32") -> StateLayout:
    """The blocks of a state that the step graph reads and writes.

    `dtype` is how the recurrent part (controller, read vector, memory, channels: all in or near [-1, 1]) is stored. The
    means are always float32: the 1,000th event moves a mean by a thousandth, which float16 would round away. They are
    means and not sums, so no number grows with the history and precision is the same at any length.

    Raises:
        LayoutError: float16 with an odd number of recurrent values (an odd `controller_units`).
    """
    m, D, H = config.slots, config.width, config.controller_units
    if config.variant == "ledger":
        return StateLayout((Block("count", (1,)),))
    if config.variant == "pooling":
        return StateLayout((Block("history_mean", (D,)), Block("count", (1,))))
    blocks = [Block("controller", (H,), dtype), Block("read", (D,), dtype), Block("memory", (m, D), dtype)]
    if config.memory_induction:
        blocks.append(Block("channels", (m, D), dtype))
    if config.variant == "official":
        # What the published code also carries from step to step: the step's output, the channel that was updated last
        # (all others are zero), and the add vectors by slot.
        blocks.append(Block("output", (H,)))
        if config.memory_induction:
            blocks.append(Block("last_channel", (m, D)))
        blocks += [Block("utilization", (m,)), Block("add_sum", (m, D)), Block("history_sum", (D,))]
        return StateLayout(tuple(blocks))
    if config.utilization:
        blocks.append(Block("shares", (m,)))
    blocks += [Block("add_mean", (D,)), Block("history_mean", (D,)), Block("count", (1,))]
    return StateLayout(tuple(blocks))
