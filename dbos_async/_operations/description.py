"""One workflow as a conversation: what it did with whom, and what it waits for now."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, Field

from dbos_async._workflows.status import WorkflowStatus
from dbos_async._workflows.step_list import WorkflowStep
from dbos_async.envelope import Message


class DescribedStep(WorkflowStep, frozen=True):
    """One step with what belongs to it.

    - ``peer_id`` is the workflow at the other side: the destination of a send, the sender of a message that was received, the child
      that was started or awaited, the workflow whose event or stream was read; ``None`` where there is none.
    - ``topic`` is that of the message that was sent or received, ``None`` without one; ``message_id`` the one that was received.
    - ``deadline`` is until when a wait waits, or waited, ``None`` for ever.
    - ``is_cut`` is whether ``output`` or ``error`` is left out since it is large; `list_workflow_steps` has it.
    """

    peer_id: str | None = None
    topic: str | None = None
    message_id: UUID | None = None
    sent_at: datetime | None = None
    deadline: datetime | None = None
    is_cut: bool = False


class PresentWait(BaseModel, frozen=True):
    """What a workflow waits for now.

    ``what`` says it in words: "a message about 'paid'", "the end of step charge, attempt 3",
    "the end of step charge, which waits for its turn". ``until`` is the deadline, or when the
    next attempt begins; ``None`` means for ever. ``peer_id`` is the workflow that it waits for, ``last_error`` the
    error of the attempt before.
    """

    step: str
    verb: str
    key: str
    what: str
    since: datetime
    until: datetime | None
    peer_id: str | None
    last_error: str | None


class EventSummary(BaseModel, frozen=True):
    """The latest value of an event, when it was set, and how many values it has had; a large value is left out (``is_cut``)."""

    key: str
    value: Any
    set_at: datetime
    versions: int
    is_cut: bool = False


class StreamSummary(BaseModel, frozen=True):
    """A stream: the offset behind its last value, whether it is closed, and when it was written last."""

    key: str
    end: int
    is_closed: bool
    written_at: datetime


class WorkflowDescription(BaseModel, frozen=True):
    """One workflow as a conversation.

    - ``steps`` are the last ones, in the order in which they began, of ``step_count`` that are recorded. ``cursor`` is where the
      page of the ones before begins, ``None`` when there are none before.
    - ``waits`` is what it waits for now. It is empty when the workflow has ended or is parked, and while it runs without waiting.
    - ``messages`` are the oldest of those that wait for it and the last that were rejected; ``waiting``, ``rejected`` and
      ``delayed`` count all of them.
    - ``events``, ``streams`` and ``children`` have at most 100 each; ``children_count`` counts all.
    - ``status`` has no ``input``, ``output`` or ``error`` that is large: `list_workflows` has it.
    - ``now`` is the time of the database. ``executor_is_live`` is whether the executor that has the workflow keeps its lease.
      If not, a live executor takes it over.
    """

    status: WorkflowStatus
    now: datetime
    executor_is_live: bool
    waits: list[PresentWait]
    steps: list[DescribedStep]
    step_count: int
    messages: list[Message]
    waiting: int
    rejected: int
    delayed: int
    events: list[EventSummary]
    streams: list[StreamSummary]
    children: list[WorkflowStatus]
    children_count: int
    cursor: str | None = Field(default=None, repr=False)
