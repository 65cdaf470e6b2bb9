from protos.v1 import types_pb2 as _types_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TapRequest(_message.Message):
    __slots__ = ("cursor",)
    CURSOR_FIELD_NUMBER: _ClassVar[int]
    cursor: int
    def __init__(self, cursor: _Optional[int] = ...) -> None: ...

class TapEvent(_message.Message):
    __slots__ = ("sequence", "capture", "chunk", "run_over", "all_over")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CAPTURE_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    RUN_OVER_FIELD_NUMBER: _ClassVar[int]
    ALL_OVER_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    capture: Capture
    chunk: _types_pb2.Chunk
    run_over: RunOver
    all_over: AllOver
    def __init__(self, sequence: _Optional[int] = ..., capture: _Optional[_Union[Capture, _Mapping]] = ..., chunk: _Optional[_Union[_types_pb2.Chunk, _Mapping]] = ..., run_over: _Optional[_Union[RunOver, _Mapping]] = ..., all_over: _Optional[_Union[AllOver, _Mapping]] = ...) -> None: ...

class Capture(_message.Message):
    __slots__ = ("header", "plan")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    PLAN_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.UploadHeader
    plan: bytes
    def __init__(self, header: _Optional[_Union[_types_pb2.UploadHeader, _Mapping]] = ..., plan: _Optional[bytes] = ...) -> None: ...

class RunOver(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class AllOver(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
