from protos.v1 import types_pb2 as _types_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ClientMessage(_message.Message):
    __slots__ = ("hello", "heartbeat")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    heartbeat: Heartbeat
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("protocol", "client_id", "versions", "backends", "codecs", "machine_card")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    BACKENDS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    MACHINE_CARD_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    client_id: str
    versions: _containers.ScalarMap[str, str]
    backends: _containers.RepeatedScalarFieldContainer[str]
    codecs: _containers.RepeatedScalarFieldContainer[str]
    machine_card: bytes
    def __init__(self, protocol: _Optional[int] = ..., client_id: _Optional[str] = ..., versions: _Optional[_Mapping[str, str]] = ..., backends: _Optional[_Iterable[str]] = ..., codecs: _Optional[_Iterable[str]] = ..., machine_card: _Optional[bytes] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("sequence", "sent_wall_ns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_wall_ns: int
    def __init__(self, sequence: _Optional[int] = ..., sent_wall_ns: _Optional[int] = ...) -> None: ...

class ServerMessage(_message.Message):
    __slots__ = ("welcome", "round_start", "heartbeat", "round_closed", "farewell")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ROUND_START_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    ROUND_CLOSED_FIELD_NUMBER: _ClassVar[int]
    FAREWELL_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    round_start: RoundStart
    heartbeat: HeartbeatReply
    round_closed: RoundClosed
    farewell: Farewell
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., round_start: _Optional[_Union[RoundStart, _Mapping]] = ..., heartbeat: _Optional[_Union[HeartbeatReply, _Mapping]] = ..., round_closed: _Optional[_Union[RoundClosed, _Mapping]] = ..., farewell: _Optional[_Union[Farewell, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("protocol", "versions", "heartbeat_s")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_S_FIELD_NUMBER: _ClassVar[int]
    protocol: int
    versions: _containers.ScalarMap[str, str]
    heartbeat_s: float
    def __init__(self, protocol: _Optional[int] = ..., versions: _Optional[_Mapping[str, str]] = ..., heartbeat_s: _Optional[float] = ...) -> None: ...

class RoundStart(_message.Message):
    __slots__ = ("plan", "weights", "attempt")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    plan: bytes
    weights: bytes
    attempt: int
    def __init__(self, plan: _Optional[bytes] = ..., weights: _Optional[bytes] = ..., attempt: _Optional[int] = ...) -> None: ...

class HeartbeatReply(_message.Message):
    __slots__ = ("sequence", "sent_wall_ns", "server_wall_ns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    SENT_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    SERVER_WALL_NS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    sent_wall_ns: int
    server_wall_ns: int
    def __init__(self, sequence: _Optional[int] = ..., sent_wall_ns: _Optional[int] = ..., server_wall_ns: _Optional[int] = ...) -> None: ...

class RoundClosed(_message.Message):
    __slots__ = ("run_id", "round", "accepted")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    round: int
    accepted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, run_id: _Optional[str] = ..., round: _Optional[int] = ..., accepted: _Optional[_Iterable[str]] = ...) -> None: ...

class Farewell(_message.Message):
    __slots__ = ("reason", "finished")
    REASON_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    reason: str
    finished: bool
    def __init__(self, reason: _Optional[str] = ..., finished: bool = ...) -> None: ...

class UploadPart(_message.Message):
    __slots__ = ("header", "chunk")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    header: _types_pb2.UploadHeader
    chunk: _types_pb2.Chunk
    def __init__(self, header: _Optional[_Union[_types_pb2.UploadHeader, _Mapping]] = ..., chunk: _Optional[_Union[_types_pb2.Chunk, _Mapping]] = ...) -> None: ...

class UploadReceipt(_message.Message):
    __slots__ = ("ticket", "sha256", "already_had_it")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    ALREADY_HAD_IT_FIELD_NUMBER: _ClassVar[int]
    ticket: _types_pb2.Ticket
    sha256: str
    already_had_it: bool
    def __init__(self, ticket: _Optional[_Union[_types_pb2.Ticket, _Mapping]] = ..., sha256: _Optional[str] = ..., already_had_it: bool = ...) -> None: ...

class ArtefactRequest(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: str
    def __init__(self, sha256: _Optional[str] = ...) -> None: ...

class PhaseReport(_message.Message):
    __slots__ = ("ticket", "attempt", "phases", "evaluation", "clock_offset_s", "clock_uncertainty_s", "machine_card", "surroundings")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_FIELD_NUMBER: _ClassVar[int]
    CLOCK_OFFSET_S_FIELD_NUMBER: _ClassVar[int]
    CLOCK_UNCERTAINTY_S_FIELD_NUMBER: _ClassVar[int]
    MACHINE_CARD_FIELD_NUMBER: _ClassVar[int]
    SURROUNDINGS_FIELD_NUMBER: _ClassVar[int]
    ticket: _types_pb2.Ticket
    attempt: int
    phases: _containers.RepeatedCompositeFieldContainer[PhaseRecord]
    evaluation: Evaluation
    clock_offset_s: float
    clock_uncertainty_s: float
    machine_card: str
    surroundings: bytes
    def __init__(self, ticket: _Optional[_Union[_types_pb2.Ticket, _Mapping]] = ..., attempt: _Optional[int] = ..., phases: _Optional[_Iterable[_Union[PhaseRecord, _Mapping]]] = ..., evaluation: _Optional[_Union[Evaluation, _Mapping]] = ..., clock_offset_s: _Optional[float] = ..., clock_uncertainty_s: _Optional[float] = ..., machine_card: _Optional[str] = ..., surroundings: _Optional[bytes] = ...) -> None: ...

class PhaseRecord(_message.Message):
    __slots__ = ("phase", "start_mono_ns", "duration_s", "cpu_s", "measured", "measured_missing", "modelled", "modelled_missing")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    START_MONO_NS_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    CPU_S_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    MEASURED_MISSING_FIELD_NUMBER: _ClassVar[int]
    MODELLED_FIELD_NUMBER: _ClassVar[int]
    MODELLED_MISSING_FIELD_NUMBER: _ClassVar[int]
    phase: str
    start_mono_ns: int
    duration_s: float
    cpu_s: float
    measured: _containers.RepeatedCompositeFieldContainer[EnergyReading]
    measured_missing: str
    modelled: ModelledEnergy
    modelled_missing: str
    def __init__(self, phase: _Optional[str] = ..., start_mono_ns: _Optional[int] = ..., duration_s: _Optional[float] = ..., cpu_s: _Optional[float] = ..., measured: _Optional[_Iterable[_Union[EnergyReading, _Mapping]]] = ..., measured_missing: _Optional[str] = ..., modelled: _Optional[_Union[ModelledEnergy, _Mapping]] = ..., modelled_missing: _Optional[str] = ...) -> None: ...

class EnergyReading(_message.Message):
    __slots__ = ("energy_j", "uncertainty_j", "duration_s", "rail", "boundary", "method", "coverage", "n_samples", "longest_gap_s", "meter", "flags")
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    UNCERTAINTY_J_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    RAIL_FIELD_NUMBER: _ClassVar[int]
    BOUNDARY_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    COVERAGE_FIELD_NUMBER: _ClassVar[int]
    N_SAMPLES_FIELD_NUMBER: _ClassVar[int]
    LONGEST_GAP_S_FIELD_NUMBER: _ClassVar[int]
    METER_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    energy_j: float
    uncertainty_j: float
    duration_s: float
    rail: str
    boundary: str
    method: str
    coverage: float
    n_samples: int
    longest_gap_s: float
    meter: str
    flags: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, energy_j: _Optional[float] = ..., uncertainty_j: _Optional[float] = ..., duration_s: _Optional[float] = ..., rail: _Optional[str] = ..., boundary: _Optional[str] = ..., method: _Optional[str] = ..., coverage: _Optional[float] = ..., n_samples: _Optional[int] = ..., longest_gap_s: _Optional[float] = ..., meter: _Optional[str] = ..., flags: _Optional[_Iterable[str]] = ...) -> None: ...

class ModelledEnergy(_message.Message):
    __slots__ = ("energy_j", "low_j", "high_j", "model", "inputs")
    ENERGY_J_FIELD_NUMBER: _ClassVar[int]
    LOW_J_FIELD_NUMBER: _ClassVar[int]
    HIGH_J_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    energy_j: float
    low_j: float
    high_j: float
    model: str
    inputs: str
    def __init__(self, energy_j: _Optional[float] = ..., low_j: _Optional[float] = ..., high_j: _Optional[float] = ..., model: _Optional[str] = ..., inputs: _Optional[str] = ...) -> None: ...

class Evaluation(_message.Message):
    __slots__ = ("n_correct", "n_examples", "mean_loss")
    N_CORRECT_FIELD_NUMBER: _ClassVar[int]
    N_EXAMPLES_FIELD_NUMBER: _ClassVar[int]
    MEAN_LOSS_FIELD_NUMBER: _ClassVar[int]
    n_correct: int
    n_examples: int
    mean_loss: float
    def __init__(self, n_correct: _Optional[int] = ..., n_examples: _Optional[int] = ..., mean_loss: _Optional[float] = ...) -> None: ...

class PhaseReceipt(_message.Message):
    __slots__ = ("already_had_it",)
    ALREADY_HAD_IT_FIELD_NUMBER: _ClassVar[int]
    already_had_it: bool
    def __init__(self, already_had_it: bool = ...) -> None: ...
