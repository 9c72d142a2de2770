"""Durable messages, events and streams between asyncio workflows, on the Postgres you already have."""

from dbos_async import _logs
from dbos_async._lifecycle.health import Health
from dbos_async._messaging.stream_writer import StreamWriter
from dbos_async._operations.counts import ExecutorStatus, MessageCount, WorkflowCount
from dbos_async._operations.description import (
    DescribedStep,
    EventSummary,
    PresentWait,
    StreamSummary,
    WorkflowDescription,
)
from dbos_async._operations.purge import PurgeResult
from dbos_async._runs.start_options import SetApplicationVersion, SetStartDelay, SetWorkflowID, SetWorkflowTimeout
from dbos_async._transactions.functions import TransactionFunction
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.start import Workflow
from dbos_async._workflows.start_step import StepHandle
from dbos_async._workflows.starts import Start
from dbos_async._workflows.status import WorkflowStatus
from dbos_async._workflows.step_functions import StepFunction
from dbos_async._workflows.step_list import WorkflowStep
from dbos_async.client import DBOSClient
from dbos_async.dbos import DBOS
from dbos_async.envelope import Asked, Envelope, Message, SendMessage
from dbos_async.errors import (
    AskTimeoutError,
    ConfigurationError,
    DatabaseUnavailableError,
    DBOSError,
    EventTimeoutError,
    InvalidAnswerError,
    InvalidArgumentError,
    InvalidCallError,
    InvalidEventValueError,
    InvalidMessageError,
    InvalidStreamValueError,
    InvalidValueError,
    LaunchError,
    LibraryTooOldError,
    MessageNotFoundError,
    MigrationNeededError,
    NoDatabaseError,
    NotAnsweredError,
    RecordedError,
    RedeliveryError,
    RefusedError,
    RegistrationError,
    ReplayMismatchError,
    ResultTimeoutError,
    RetryAfter,
    StepCancelledError,
    StepTimeoutError,
    StreamClosedError,
    StreamTimeoutError,
    StreamTrimmedError,
    SystemExitError,
    TransactionError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowEndedError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
    WorkflowParkedError,
    WrongPlaceError,
)
from dbos_async.keys import Event, Question, Stream, Topic
from dbos_async.waits import EventEnd, EventOf, EventValue, Rewind, StreamEnd, StreamOf, StreamValue, Wait

_logs.install()

__all__ = [
    "AskTimeoutError",
    "Asked",
    "ConfigurationError",
    "DBOS",
    "DBOSClient",
    "DBOSError",
    "DatabaseUnavailableError",
    "DescribedStep",
    "Envelope",
    "Event",
    "EventEnd",
    "EventOf",
    "EventSummary",
    "EventTimeoutError",
    "EventValue",
    "ExecutorStatus",
    "Health",
    "InvalidAnswerError",
    "InvalidArgumentError",
    "InvalidCallError",
    "InvalidEventValueError",
    "InvalidMessageError",
    "InvalidStreamValueError",
    "InvalidValueError",
    "LaunchError",
    "LibraryTooOldError",
    "Message",
    "MessageCount",
    "MessageNotFoundError",
    "MigrationNeededError",
    "NoDatabaseError",
    "NotAnsweredError",
    "PresentWait",
    "PurgeResult",
    "Question",
    "RecordedError",
    "RedeliveryError",
    "RefusedError",
    "RegistrationError",
    "ReplayMismatchError",
    "ResultTimeoutError",
    "RetryAfter",
    "Rewind",
    "SendMessage",
    "SetApplicationVersion",
    "SetStartDelay",
    "SetWorkflowID",
    "SetWorkflowTimeout",
    "Start",
    "StepCancelledError",
    "StepFunction",
    "StepHandle",
    "StepTimeoutError",
    "Stream",
    "StreamClosedError",
    "StreamEnd",
    "StreamOf",
    "StreamSummary",
    "StreamTimeoutError",
    "StreamTrimmedError",
    "StreamValue",
    "StreamWriter",
    "SystemExitError",
    "Topic",
    "TransactionError",
    "TransactionFunction",
    "Wait",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowConflictError",
    "WorkflowCount",
    "WorkflowDescription",
    "WorkflowEndedError",
    "WorkflowHandle",
    "WorkflowNotEndedError",
    "WorkflowNotFoundError",
    "WorkflowParkedError",
    "WorkflowStatus",
    "WorkflowStep",
    "WrongPlaceError",
]
