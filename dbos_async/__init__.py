"""Durable messages, events and streams between asyncio workflows, on the Postgres you already have."""

from dbos_async._context import SetWorkflowID, SetWorkflowTimeout
from dbos_async.client import DBOSClient
from dbos_async.dbos import DBOS
from dbos_async.envelope import Envelope, SendMessage
from dbos_async.errors import (
    ConfigurationError,
    DatabaseUnavailableError,
    DBOSError,
    InvalidArgumentError,
    InvalidMessageError,
    InvalidValueError,
    LaunchError,
    LibraryTooOldError,
    MigrationNeededError,
    NoDatabaseError,
    RecordedError,
    RegistrationError,
    ReplayMismatchError,
    StepTimeoutError,
    StreamClosedError,
    StreamTimeoutError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowEndedError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
    WrongPlaceError,
)
from dbos_async.handle import WorkflowHandle, WorkflowStatus, WorkflowStep
from dbos_async.keys import Event, Stream, Topic

__all__ = [
    "ConfigurationError",
    "DBOS",
    "DBOSClient",
    "DBOSError",
    "DatabaseUnavailableError",
    "Envelope",
    "Event",
    "InvalidArgumentError",
    "InvalidMessageError",
    "InvalidValueError",
    "LaunchError",
    "LibraryTooOldError",
    "MigrationNeededError",
    "NoDatabaseError",
    "RecordedError",
    "RegistrationError",
    "ReplayMismatchError",
    "SendMessage",
    "SetWorkflowID",
    "SetWorkflowTimeout",
    "StepTimeoutError",
    "Stream",
    "StreamClosedError",
    "StreamTimeoutError",
    "Topic",
    "WorkflowCancelledError",
    "WorkflowConflictError",
    "WorkflowEndedError",
    "WorkflowHandle",
    "WorkflowNotEndedError",
    "WorkflowNotFoundError",
    "WorkflowStatus",
    "WorkflowStep",
    "WrongPlaceError",
]
