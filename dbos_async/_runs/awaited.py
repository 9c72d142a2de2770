"""What `DBOS.wait_first` asks of each thing that it can wait for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from dbos_async._database.database import Database
from dbos_async._runs.step_result import StepResult


@dataclass(slots=True, kw_only=True)
class Awaited:
    """One wait: what the statement looks for, what wakes it, and what it brings."""

    kind: Literal["topic", "event", "stream", "workflow", "step"]
    name: str
    """What the record of the wait calls it."""
    id: str | None = None
    """The workflow that it is about; ``None`` for topics and steps, which are of the workflow that waits."""
    key: str | None = None
    after: int | None = None
    """The version of an event from which on a later one is waited for, or the first offset of a stream."""
    keys: Sequence[bytes]
    """What changes when it may be ready."""
    is_ready: Callable[[], bool] | None = None
    """Whether it is ready, for what this process itself knows."""
    read: Callable[[str | None, StepResult], Any]
    """What it brings, decoded from the record: the recorded value and the result of the step."""


@runtime_checkable
class CanBeAwaited(Protocol):
    """A handle. Topics, questions, events and streams are plain names, and the verb knows what to do with them."""

    def __dbos_wait__(self, database: Database) -> Awaited:
        """How a workflow of this database waits for it."""
        ...
