"""The bundle: everything that serving needs from one trained model, as a directory that never changes once written.

Numpy only, except for `graph`, which runs the graphs with onnxruntime (extra `serve`) and must be imported by name. The
format is specified in docs/formats/bundle.md.
"""

from mimn.bundle.bundle import Bundle, IdSketch, load_bundle, read_manifest
from mimn.bundle.golden import Golden, GoldenMismatch
from mimn.bundle.item_table import ItemTable
from mimn.bundle.members import MemberIndex
from mimn.bundle.reads import Reads
from mimn.bundle.specs import (
    ActionSpec,
    BlockSpec,
    BundleError,
    GraphSpec,
    InputSpec,
    ItemTableSpec,
    LedgerSpec,
    Manifest,
    MembersSpec,
    SketchSpec,
    StateSpec,
    TensorSpec,
    check_name,
)
from mimn.bundle.vocabulary import EmbeddingTable
from mimn.bundle.writer import About, FieldData, GraphFile, HeadData, StateData, write_bundle

__all__ = [
    "About",
    "ActionSpec",
    "BlockSpec",
    "Bundle",
    "BundleError",
    "EmbeddingTable",
    "FieldData",
    "Golden",
    "GoldenMismatch",
    "GraphFile",
    "GraphSpec",
    "HeadData",
    "IdSketch",
    "InputSpec",
    "ItemTable",
    "ItemTableSpec",
    "LedgerSpec",
    "Manifest",
    "MemberIndex",
    "MembersSpec",
    "Reads",
    "SketchSpec",
    "StateData",
    "StateSpec",
    "TensorSpec",
    "check_name",
    "load_bundle",
    "read_manifest",
    "write_bundle",
]
