"""The user state as a value, as bytes and under a key: the contract between UIC, its writer, and RTP, its reader.

Numpy only. Nothing here does I/O. The bytes are specified in docs/formats/state.md and docs/formats/progress.md and are
pinned by golden files: a change of the bytes forces every deployment to rebuild its states.
"""

from mimn.state.actions import Actions
from mimn.state.codec import (
    CorruptState,
    ForeignFingerprint,
    ForeignLayout,
    Staged,
    StateError,
    WrongUser,
    decode_state,
    encode_state,
    encode_states,
    header_of,
    headers_of,
    read_header,
    read_headers,
    read_tensors,
    stored_headers,
    stored_type,
    stored_values,
    tensors_of,
)
from mimn.state.digest import EMPTY_DIGEST, extend_digest, extend_digests, user_hash, user_hashes, witness
from mimn.state.event_list import EventList
from mimn.state.key import Keys, murmur2, namespace, partition_of
from mimn.state.layout import Block, LayoutError, StateLayout
from mimn.state.ledger import Ledger, rest_of
from mimn.state.progress import (
    AHEAD_WITHIN_MS,
    NO_TOPIC_ID,
    NOTHING_FOLDED,
    REMOVAL,
    BeingRemoved,
    CorruptProgress,
    Progress,
    decode_progress,
    encode_progress,
)
from mimn.state.sketch import Sketch
from mimn.state.user_state import HEADERS, StateHeader, UserState, header_rows

__all__ = [
    "AHEAD_WITHIN_MS",
    "EMPTY_DIGEST",
    "HEADERS",
    "NOTHING_FOLDED",
    "NO_TOPIC_ID",
    "REMOVAL",
    "Actions",
    "BeingRemoved",
    "Block",
    "CorruptProgress",
    "CorruptState",
    "EventList",
    "ForeignFingerprint",
    "ForeignLayout",
    "Keys",
    "LayoutError",
    "Ledger",
    "Progress",
    "Sketch",
    "Staged",
    "StateError",
    "StateHeader",
    "StateLayout",
    "UserState",
    "WrongUser",
    "decode_progress",
    "decode_state",
    "encode_progress",
    "encode_state",
    "encode_states",
    "extend_digest",
    "extend_digests",
    "header_of",
    "header_rows",
    "headers_of",
    "murmur2",
    "namespace",
    "partition_of",
    "read_header",
    "read_headers",
    "read_tensors",
    "rest_of",
    "stored_headers",
    "stored_type",
    "stored_values",
    "tensors_of",
    "user_hash",
    "user_hashes",
    "witness",
]
