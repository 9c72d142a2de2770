"""One workflow as a conversation: what it did with whom, on a time axis, and what it waits for now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._operations.description import DescribedStep, WorkflowDescription
from dbos_async._page.answers import render, site_of, wanted
from dbos_async._runs.end_request import CANCELLED
from dbos_async._workflows.delete import ENDED
from dbos_async._workflows.status import PARKED

PAGE: Final = 100
AXIS: Final = 1000
LEAST_BAR: Final = 4

_KINDS: Final = {
    "step": ("work", "runs"),
    "start_step": ("work", "starts"),
    "send": ("out", "sends"),
    "send_bulk": ("out", "sends"),
    "ask": ("out", "asks"),
    "answer": ("out", "answers"),
    "refuse": ("out", "refuses"),
    "set_event": ("out", "sets event"),
    "write_stream": ("out", "writes stream"),
    "write_stream_many": ("out", "writes stream"),
    "close_stream": ("out", "closes stream"),
    "start_workflow": ("out", "starts"),
    "fork_workflow": ("out", "forks"),
    "cancel_workflow": ("out", "cancels"),
    "cancel_workflows": ("out", "cancels"),
    "recv": ("in", "receives"),
    "recv_envelope": ("in", "receives"),
    "messages": ("in", "receives"),
    "wait_first": ("in", "waits for the first of"),
    "get_event": ("in", "reads event"),
    "watch_event": ("in", "watches event"),
    "read_stream": ("in", "reads stream"),
    "get_result": ("in", "awaits"),
    "get_answer": ("in", "awaits the answer of"),
    "sleep": ("pause", "sleeps"),
}


_TOLD: Final = json.loads(CANCELLED)
"""The error of the step by which a workflow is told to clean up."""
_RECEIVES: Final = ("recv", "recv_envelope", "messages")
_SENDS: Final = ("send", "ask")


@dataclass(frozen=True)
class Bar:
    """A step on the time axis: what it is, where it stands, how long it took or takes."""

    step: DescribedStep
    kind: str
    verb: str
    what: str
    x: float
    width: float
    seconds: float
    is_over: bool
    """Whether its workflow does not go on, so that it stays as it is."""

    @property
    def is_open(self) -> bool:
        """Whether it runs or waits."""
        return self.step.completed_at is None

    @property
    def state(self) -> str:
        """How it stands, in a word."""
        if self.step.error is not None:
            return "failed"
        if not self.is_open:
            return ""
        if self.is_over:
            return "unfinished"
        has_turn = self.step.verb != "step" or self.step.attempt is not None
        return "runs" if self.kind == "work" and has_turn else "waits"


async def workflow(request: Request) -> Response:
    """The conversation of one workflow; ``before`` is where the page of older steps begins."""
    workflow_id, before = wanted(request, "id"), request.query_params.get("before") or None
    found = await site_of(request).source.describe_workflow(workflow_id, limit=PAGE, before=before)
    status = found.status
    bars = bars_of(found)
    begin, end = axis_of(found)
    return render(
        request,
        "workflow.html",
        poll=_poll(found) if before is None else None,
        found=found,
        one=status,
        bars=bars,
        is_latest=before is None,
        begin=begin,
        seconds=(end - begin).total_seconds(),
        ticks=ticks_of((end - begin).total_seconds()),
        ended=ENDED,
        parked=PARKED,
        took=((status.ended_at or found.now) - status.created_at).total_seconds(),
        can_cancel=status.status not in ENDED,
        can_resume=status.status == "CANCELLED" or status.status in PARKED,
        can_delete=status.status in ENDED,
        fork_at=_cancelled_step(found) or _after_last(found),
    )


def _poll(found: WorkflowDescription) -> float:
    """How often the screen asks for news: an ended workflow may still be sent messages, or be resumed."""
    return 6 if found.status.status in ENDED or found.status.status in PARKED else 1.5


def axis_of(found: WorkflowDescription) -> tuple[datetime, datetime]:
    """The times at the ends of the axis: those of the steps on this page."""
    begin = min((step.started_at for step in found.steps), default=found.status.created_at)
    return begin, max([_end(found, step) for step in found.steps], default=found.now)


def _end(found: WorkflowDescription, step: DescribedStep) -> datetime:
    """Until when a step has lasted. One that a workflow has left unfinished ends with the workflow, as far as that is known."""
    if step.completed_at is not None:
        return step.completed_at
    return (
        found.now
        if found.status.status == "PENDING"
        else max(found.status.ended_at or step.started_at, step.started_at)
    )


def bars_of(found: WorkflowDescription) -> list[Bar]:
    """The steps with their places on the axis."""
    begin, end = axis_of(found)
    whole = max((end - begin).total_seconds(), 1e-6)
    bars: list[Bar] = []
    for step in found.steps:
        seconds = max((_end(found, step) - step.started_at).total_seconds(), 0.0)
        width = min(max(seconds / whole * AXIS, LEAST_BAR), AXIS)
        x = min(max((step.started_at - begin).total_seconds() / whole * AXIS, 0.0), AXIS - width)
        kind, verb = _KINDS.get(step.verb, ("other", step.verb.replace("_", " ")))
        is_over = found.status.status != "PENDING"
        bars.append(Bar(step, kind, verb, _what(step), round(x, 1), round(width, 1), seconds, is_over))
    return bars


def ticks_of(seconds: float) -> Sequence[tuple[float, float]]:
    """Where the marks of the axis stand, and how many seconds after its beginning each is."""
    return [(AXIS * part / 4, seconds * part / 4) for part in range(5)]


def _what(step: DescribedStep) -> str:
    """What a verb is about, in words that people have chosen: a topic, an event, a function."""
    if step.verb == "sleep":
        return ""
    if step.verb in _RECEIVES:
        return step.topic or step.key or "a message"
    if step.verb in _SENDS:
        return step.topic or "a message"
    return "" if step.verb in ("answer", "refuse", "get_answer") else step.key


def _cancelled_step(found: WorkflowDescription) -> str | None:
    """The step by which a workflow was told to clean up: a fork from there goes on as if nothing had been."""
    if found.status.status != "CANCELLED" or found.status.cancel_asked_at is None:
        return None
    return next((step.step for step in found.steps if step.error == _TOLD and "." not in step.step), None)


def _after_last(found: WorkflowDescription) -> str:
    """The step from which a fork repeats nothing of what is recorded: the one that failed or waits, else the one after the last."""
    recorded = [step for step in found.steps if "." not in step.step]
    if not recorded:
        return "1"
    last = recorded[-1]
    return last.step if last.error is not None or last.completed_at is None else str(int(last.step) + 1)
