from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_VIEW: _ClassVar[Action]
    ACTION_CLICK: _ClassVar[Action]
    ACTION_CART: _ClassVar[Action]
    ACTION_FAVORITE: _ClassVar[Action]
    ACTION_PURCHASE: _ClassVar[Action]
    ACTION_ERASE_ITEM: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
ACTION_VIEW: Action
ACTION_CLICK: Action
ACTION_CART: Action
ACTION_FAVORITE: Action
ACTION_PURCHASE: Action
ACTION_ERASE_ITEM: Action

class BehaviorEvent(_message.Message):
    __slots__ = ("event_id", "user_id", "item_id", "category_id", "action", "event_time", "item_text", "category_text")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    EVENT_TIME_FIELD_NUMBER: _ClassVar[int]
    ITEM_TEXT_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_TEXT_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    user_id: str
    item_id: int
    category_id: int
    action: Action
    event_time: int
    item_text: str
    category_text: str
    def __init__(self, event_id: _Optional[str] = ..., user_id: _Optional[str] = ..., item_id: _Optional[int] = ..., category_id: _Optional[int] = ..., action: _Optional[_Union[Action, str]] = ..., event_time: _Optional[int] = ..., item_text: _Optional[str] = ..., category_text: _Optional[str] = ...) -> None: ...
