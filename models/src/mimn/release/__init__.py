"""Releases and rollouts as values: which bundles serve which users, how that may change, and what must hold first.

Pure: numpy, msgspec and a hash. RTP reads the record and follows it; `uic rollout` changes it. The bytes are specified
in docs/formats/rollout.md and pinned by a golden file.
"""

from mimn.release.arms import BUCKETS, Buckets, bucket_of, resized, size, table
from mimn.release.gates import Comparison, Finding, Gate, behind, compare, foreign, not_built, out_of_memory
from mimn.release.headers import Headers, read_headers
from mimn.release.record import (
    MAX_RECORD_BYTES,
    Arm,
    CorruptRecord,
    Entry,
    Hold,
    Record,
    Release,
    Rollout,
    State,
    decode_record,
    encode_record,
    record_key,
)
from mimn.release.rollout import (
    Checked,
    Conflict,
    GateClosed,
    NotAllowed,
    Refused,
    abort,
    begin,
    canary,
    collect,
    observe,
    promote,
    retire,
    rollback,
    shadow,
)

__all__ = [
    "BUCKETS",
    "MAX_RECORD_BYTES",
    "Arm",
    "Buckets",
    "Checked",
    "Comparison",
    "Conflict",
    "CorruptRecord",
    "Entry",
    "Finding",
    "Gate",
    "GateClosed",
    "Headers",
    "Hold",
    "NotAllowed",
    "Record",
    "Refused",
    "Release",
    "Rollout",
    "State",
    "abort",
    "begin",
    "behind",
    "bucket_of",
    "canary",
    "collect",
    "compare",
    "decode_record",
    "encode_record",
    "foreign",
    "not_built",
    "observe",
    "out_of_memory",
    "promote",
    "read_headers",
    "record_key",
    "resized",
    "retire",
    "rollback",
    "shadow",
    "size",
    "table",
]
