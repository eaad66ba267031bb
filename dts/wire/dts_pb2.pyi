from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Status(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    UNKNOWN: _ClassVar[Status]
    SUCCEEDED: _ClassVar[Status]
    FAILED: _ClassVar[Status]
    CANCELLED: _ClassVar[Status]
    RETRY: _ClassVar[Status]
UNKNOWN: Status
SUCCEEDED: Status
FAILED: Status
CANCELLED: Status
RETRY: Status

class Job(_message.Message):
    __slots__ = ("index", "args", "kwargs", "attempt", "kills", "fence", "options")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    KWARGS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    index: int
    args: bytes
    kwargs: bytes
    attempt: int
    kills: int
    fence: int
    options: Options
    def __init__(self, index: _Optional[int] = ..., args: _Optional[bytes] = ..., kwargs: _Optional[bytes] = ..., attempt: _Optional[int] = ..., kills: _Optional[int] = ..., fence: _Optional[int] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("soft_timeout", "timeout", "max_attempts", "retry_on", "memory_limit", "concurrency", "deadline", "recycle_after", "version", "batch")
    SOFT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    RETRY_ON_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    CONCURRENCY_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    RECYCLE_AFTER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    soft_timeout: float
    timeout: float
    max_attempts: int
    retry_on: _containers.RepeatedScalarFieldContainer[str]
    memory_limit: int
    concurrency: int
    deadline: float
    recycle_after: int
    version: str
    batch: int
    def __init__(self, soft_timeout: _Optional[float] = ..., timeout: _Optional[float] = ..., max_attempts: _Optional[int] = ..., retry_on: _Optional[_Iterable[str]] = ..., memory_limit: _Optional[int] = ..., concurrency: _Optional[int] = ..., deadline: _Optional[float] = ..., recycle_after: _Optional[int] = ..., version: _Optional[str] = ..., batch: _Optional[int] = ...) -> None: ...

class JobBatch(_message.Message):
    __slots__ = ("block", "run", "function", "jobs", "options", "lease", "first_line", "skipped")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FIRST_LINE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    block: str
    run: str
    function: str
    jobs: _containers.RepeatedCompositeFieldContainer[Job]
    options: Options
    lease: bool
    first_line: int
    skipped: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, block: _Optional[str] = ..., run: _Optional[str] = ..., function: _Optional[str] = ..., jobs: _Optional[_Iterable[_Union[Job, _Mapping]]] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., lease: _Optional[bool] = ..., first_line: _Optional[int] = ..., skipped: _Optional[_Iterable[int]] = ...) -> None: ...

class Error(_message.Message):
    __slots__ = ("type", "message", "traceback", "reason")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    traceback: str
    reason: str
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("index", "status", "value", "error", "duration", "offset", "attempt", "delay", "kills", "fence", "partials")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    KILLS_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PARTIALS_FIELD_NUMBER: _ClassVar[int]
    index: int
    status: Status
    value: bytes
    error: Error
    duration: float
    offset: float
    attempt: int
    delay: float
    kills: int
    fence: int
    partials: bytes
    def __init__(self, index: _Optional[int] = ..., status: _Optional[_Union[Status, str]] = ..., value: _Optional[bytes] = ..., error: _Optional[_Union[Error, _Mapping]] = ..., duration: _Optional[float] = ..., offset: _Optional[float] = ..., attempt: _Optional[int] = ..., delay: _Optional[float] = ..., kills: _Optional[int] = ..., fence: _Optional[int] = ..., partials: _Optional[bytes] = ...) -> None: ...

class ResultBatch(_message.Message):
    __slots__ = ("block", "run", "function", "worker", "version", "started", "results", "running", "concurrent", "claims", "progress", "memo")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    MEMO_FIELD_NUMBER: _ClassVar[int]
    block: str
    run: str
    function: str
    worker: str
    version: str
    started: float
    results: _containers.RepeatedCompositeFieldContainer[Result]
    running: _containers.RepeatedScalarFieldContainer[int]
    concurrent: bool
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    progress: _containers.RepeatedCompositeFieldContainer[Progress]
    memo: bool
    def __init__(self, block: _Optional[str] = ..., run: _Optional[str] = ..., function: _Optional[str] = ..., worker: _Optional[str] = ..., version: _Optional[str] = ..., started: _Optional[float] = ..., results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., running: _Optional[_Iterable[int]] = ..., concurrent: _Optional[bool] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ..., progress: _Optional[_Iterable[_Union[Progress, _Mapping]]] = ..., memo: _Optional[bool] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("index", "fence", "seconds")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    index: int
    fence: int
    seconds: float
    def __init__(self, index: _Optional[int] = ..., fence: _Optional[int] = ..., seconds: _Optional[float] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("index", "done", "total", "partials")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    PARTIALS_FIELD_NUMBER: _ClassVar[int]
    index: int
    done: float
    total: float
    partials: bytes
    def __init__(self, index: _Optional[int] = ..., done: _Optional[float] = ..., total: _Optional[float] = ..., partials: _Optional[bytes] = ...) -> None: ...

class ResultPart(_message.Message):
    __slots__ = ("receipt", "block", "jobs", "body", "content_encoding")
    RECEIPT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    JOBS_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    CONTENT_ENCODING_FIELD_NUMBER: _ClassVar[int]
    receipt: str
    block: int
    jobs: bytes
    body: bytes
    content_encoding: str
    def __init__(self, receipt: _Optional[str] = ..., block: _Optional[int] = ..., jobs: _Optional[bytes] = ..., body: _Optional[bytes] = ..., content_encoding: _Optional[str] = ...) -> None: ...

class ResultPage(_message.Message):
    __slots__ = ("parts",)
    PARTS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[ResultPart]
    def __init__(self, parts: _Optional[_Iterable[_Union[ResultPart, _Mapping]]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("worker", "host", "pid", "version", "time", "started", "routes", "cpu_percent", "memory_percent", "disk_percent", "load_1m", "children", "jobs_running", "functions", "running", "state", "uptime", "notes")
    class FunctionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: EventCounts
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[EventCounts, _Mapping]] = ...) -> None: ...
    WORKER_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    CPU_PERCENT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PERCENT_FIELD_NUMBER: _ClassVar[int]
    DISK_PERCENT_FIELD_NUMBER: _ClassVar[int]
    LOAD_1M_FIELD_NUMBER: _ClassVar[int]
    CHILDREN_FIELD_NUMBER: _ClassVar[int]
    JOBS_RUNNING_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    worker: str
    host: str
    pid: int
    version: str
    time: float
    started: float
    routes: _containers.RepeatedScalarFieldContainer[str]
    cpu_percent: float
    memory_percent: float
    disk_percent: float
    load_1m: float
    children: int
    jobs_running: int
    functions: _containers.MessageMap[str, EventCounts]
    running: _containers.RepeatedCompositeFieldContainer[RunningJob]
    state: str
    uptime: float
    notes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, worker: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., version: _Optional[str] = ..., time: _Optional[float] = ..., started: _Optional[float] = ..., routes: _Optional[_Iterable[str]] = ..., cpu_percent: _Optional[float] = ..., memory_percent: _Optional[float] = ..., disk_percent: _Optional[float] = ..., load_1m: _Optional[float] = ..., children: _Optional[int] = ..., jobs_running: _Optional[int] = ..., functions: _Optional[_Mapping[str, EventCounts]] = ..., running: _Optional[_Iterable[_Union[RunningJob, _Mapping]]] = ..., state: _Optional[str] = ..., uptime: _Optional[float] = ..., notes: _Optional[_Iterable[str]] = ...) -> None: ...

class RunningJob(_message.Message):
    __slots__ = ("job", "function", "started")
    JOB_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    job: str
    function: str
    started: float
    def __init__(self, job: _Optional[str] = ..., function: _Optional[str] = ..., started: _Optional[float] = ...) -> None: ...

class EventCounts(_message.Message):
    __slots__ = ("received", "done", "failed", "replaced")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    received: int
    done: int
    failed: int
    replaced: int
    def __init__(self, received: _Optional[int] = ..., done: _Optional[int] = ..., failed: _Optional[int] = ..., replaced: _Optional[int] = ...) -> None: ...

class LogRecord(_message.Message):
    __slots__ = ("host", "source", "time", "level", "logger", "message", "job")
    HOST_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    JOB_FIELD_NUMBER: _ClassVar[int]
    host: str
    source: str
    time: float
    level: int
    logger: str
    message: str
    job: str
    def __init__(self, host: _Optional[str] = ..., source: _Optional[str] = ..., time: _Optional[float] = ..., level: _Optional[int] = ..., logger: _Optional[str] = ..., message: _Optional[str] = ..., job: _Optional[str] = ...) -> None: ...
