from ctr.event.v1 import behavior_event_pb2 as _behavior_event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PublishBehaviorsRequest(_message.Message):
    __slots__ = ("events",)
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_behavior_event_pb2.BehaviorEvent]
    def __init__(self, events: _Optional[_Iterable[_Union[_behavior_event_pb2.BehaviorEvent, _Mapping]]] = ...) -> None: ...

class LogPosition(_message.Message):
    __slots__ = ("partition", "offset")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class PublishBehaviorsResponse(_message.Message):
    __slots__ = ("positions",)
    POSITIONS_FIELD_NUMBER: _ClassVar[int]
    positions: _containers.RepeatedCompositeFieldContainer[LogPosition]
    def __init__(self, positions: _Optional[_Iterable[_Union[LogPosition, _Mapping]]] = ...) -> None: ...

class GetUserStateRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class StateBlock(_message.Message):
    __slots__ = ("name", "shape", "dtype", "values", "words")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    dtype: str
    values: _containers.RepeatedScalarFieldContainer[float]
    words: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., dtype: _Optional[str] = ..., values: _Optional[_Iterable[float]] = ..., words: _Optional[_Iterable[int]] = ...) -> None: ...

class GetUserStateResponse(_message.Message):
    __slots__ = ("partition", "fingerprint", "lineage", "era", "last_offset", "event_count", "last_event_time", "digest", "partial", "blocks")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    LINEAGE_FIELD_NUMBER: _ClassVar[int]
    ERA_FIELD_NUMBER: _ClassVar[int]
    LAST_OFFSET_FIELD_NUMBER: _ClassVar[int]
    EVENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    LAST_EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    PARTIAL_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    fingerprint: str
    lineage: int
    era: int
    last_offset: int
    event_count: int
    last_event_time: int
    digest: bytes
    partial: bool
    blocks: _containers.RepeatedCompositeFieldContainer[StateBlock]
    def __init__(self, partition: _Optional[int] = ..., fingerprint: _Optional[str] = ..., lineage: _Optional[int] = ..., era: _Optional[int] = ..., last_offset: _Optional[int] = ..., event_count: _Optional[int] = ..., last_event_time: _Optional[int] = ..., digest: _Optional[bytes] = ..., partial: _Optional[bool] = ..., blocks: _Optional[_Iterable[_Union[StateBlock, _Mapping]]] = ...) -> None: ...

class EraseUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class EraseUserResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: LogPosition
    def __init__(self, position: _Optional[_Union[LogPosition, _Mapping]] = ...) -> None: ...

class EraseItemRequest(_message.Message):
    __slots__ = ("user_id", "item_id", "item_text")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_TEXT_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    item_id: int
    item_text: str
    def __init__(self, user_id: _Optional[str] = ..., item_id: _Optional[int] = ..., item_text: _Optional[str] = ...) -> None: ...

class EraseItemResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: LogPosition
    def __init__(self, position: _Optional[_Union[LogPosition, _Mapping]] = ...) -> None: ...
