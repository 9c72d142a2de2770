"""What the exit codes say, and which error has which."""

from __future__ import annotations

from enum import IntEnum

from dbos_async.errors import (
    AskTimeoutError,
    DBOSError,
    InvalidArgumentError,
    MessageNotFoundError,
    NotAnsweredError,
    RedeliveryError,
    RefusedError,
    WorkflowCancelledError,
    WorkflowConflictError,
    WorkflowNotEndedError,
    WorkflowNotFoundError,
    WorkflowParkedError,
)


class ExitCode(IntEnum):
    """What happened, for scripts. The guide has the same table."""

    DONE = 0
    ERROR = 1
    """Something else went wrong: the database cannot be reached, a value does not fit, a file cannot be written."""
    USAGE = 2
    """The command line is wrong: nothing was done."""
    NOT_FOUND = 3
    """No such workflow, message, event or stream."""
    NO_ANSWER = 4
    """The time was over before the result, the answer or the value was there."""
    FAILED = 5
    """The workflow has failed, was cancelled or is parked, or has refused or not answered."""
    NOT_NOW = 6
    """The state of the workflow or message does not allow this."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """Ends the command with one sentence on standard error and an exit code."""

    def __init__(self, sentence: str, code: ExitCode = ExitCode.ERROR) -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.code = code


_CODES: tuple[tuple[type[DBOSError], ExitCode], ...] = (
    (WorkflowNotFoundError, ExitCode.NOT_FOUND),
    (MessageNotFoundError, ExitCode.NOT_FOUND),
    (AskTimeoutError, ExitCode.NO_ANSWER),
    (RefusedError, ExitCode.FAILED),
    (NotAnsweredError, ExitCode.FAILED),
    (WorkflowCancelledError, ExitCode.FAILED),
    (WorkflowParkedError, ExitCode.FAILED),
    (WorkflowNotEndedError, ExitCode.NOT_NOW),
    (WorkflowConflictError, ExitCode.NOT_NOW),
    (RedeliveryError, ExitCode.NOT_NOW),
    (InvalidArgumentError, ExitCode.USAGE),
)


def code_of(error: DBOSError) -> ExitCode:
    """The exit code of an error."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    return ExitCode.NO_ANSWER if isinstance(error, TimeoutError) else ExitCode.ERROR
