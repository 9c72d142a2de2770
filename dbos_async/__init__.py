"""Durable messages, events and streams between asyncio workflows, on the Postgres you already have."""

from dbos_async import _logs
from dbos_async._lifecycle.health import Health
from dbos_async._runs.start_options import SetApplicationVersion, SetStartDelay, SetWorkflowID, SetWorkflowTimeout
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.start import Workflow
from dbos_async._workflows.starts import Start
from dbos_async._workflows.status import WorkflowStatus
from dbos_async._workflows.step_functions import StepFunction
from dbos_async._workflows.step_list import WorkflowStep
from dbos_async.client import DBOSClient
from dbos_async.dbos import DBOS
from dbos_async.envelope import Envelope, Message, SendMessage
from dbos_async.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    DBOSError,
    InvalidArgumentError,
    InvalidCallError,
    InvalidMessageError,
    InvalidStreamValueError,
    InvalidValueError,
    LaunchError,
    LibraryTooOldError,
    MessageNotFoundError,
    MigrationNeededError,
    NoDatabaseError,
    RecordedError,
    RedeliveryError,
    RegistrationError,
    ReplayMismatchError,
    ResultTimeoutError,
    StepTimeoutError,
    StreamClosedError,
    StreamTimeoutError,
    SystemExitError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowEndedError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
    WorkflowParkedError,
    WrongPlaceError,
)
from dbos_async.keys import Event, Stream, Topic

_logs.install()

__all__ = [
    "ConfigurationError",
    "DBOS",
    "DBOSClient",
    "DBOSError",
    "DatabaseUnavailableError",
    "Envelope",
    "Event",
    "Health",
    "InvalidArgumentError",
    "InvalidCallError",
    "InvalidMessageError",
    "InvalidStreamValueError",
    "InvalidValueError",
    "LaunchError",
    "LibraryTooOldError",
    "Message",
    "MessageNotFoundError",
    "MigrationNeededError",
    "NoDatabaseError",
    "RecordedError",
    "RedeliveryError",
    "RegistrationError",
    "ReplayMismatchError",
    "ResultTimeoutError",
    "SendMessage",
    "SetApplicationVersion",
    "SetStartDelay",
    "SetWorkflowID",
    "SetWorkflowTimeout",
    "Start",
    "StepFunction",
    "StepTimeoutError",
    "Stream",
    "StreamClosedError",
    "StreamTimeoutError",
    "SystemExitError",
    "Topic",
    "Workflow",
    "WorkflowCancelledError",
    "WorkflowConflictError",
    "WorkflowEndedError",
    "WorkflowHandle",
    "WorkflowNotEndedError",
    "WorkflowNotFoundError",
    "WorkflowParkedError",
    "WorkflowStatus",
    "WorkflowStep",
    "WrongPlaceError",
]
