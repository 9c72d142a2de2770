"""The names that OpenTelemetry is given, and how many different ones."""

from __future__ import annotations

from typing import Final

SYSTEM: Final = "messaging.system"
OPERATION: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
TOPIC: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

WORKFLOW_ID: Final = "dbos_async.workflow.id"
WORKFLOW_NAME: Final = "dbos_async.workflow.name"
ATTEMPT: Final = "dbos_async.workflow.attempt"
OUTCOME: Final = "dbos_async.workflow.outcome"
VERSION: Final = "dbos_async.workflow.version"
STATUS: Final = "dbos_async.workflow.status"
UNCLAIMABLE: Final = "dbos_async.workflow.unclaimable"
DESTINATION_ID: Final = "dbos_async.destination.workflow.id"
PATH: Final = "dbos_async.step.path"
STEP_NAME: Final = "dbos_async.step.name"
STEP_ATTEMPTS: Final = "dbos_async.step.attempts"
EVENT: Final = "dbos_async.event.key"
STREAM: Final = "dbos_async.stream.key"
STREAM_OF: Final = "dbos_async.stream.workflow.id"
VALUES: Final = "dbos_async.stream.values"
STATEMENT: Final = "dbos_async.statement"
STATE: Final = "dbos_async.state"

MAX_LABELS: Final = 200
OTHER: Final = "_other"


class Labels:
    """Names that others choose, as labels of metrics: every name after the first 200 is ``_other``."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """The label of a name. Threads may ask, too."""
        known = self._known
        if name in known:
            return name
        if len(known) >= MAX_LABELS:
            return OTHER
        known.add(name)
        return name


def error_type(error: BaseException) -> str:
    """The name of the class of an error, as ``error.type`` has it."""
    return type(error).__qualname__


def title(verb: str, name: str | None) -> str:
    """The name of a span: the verb and what it is about."""
    return f"{verb} {name}" if name else verb
