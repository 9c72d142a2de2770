"""Acting on many workflows: those that are selected, or all that match the filters, in portions.

Each portion is a request of its own. What is left is in its answer, a form that goes on by itself. So nothing is lost when the
browser is closed, a process is ended or the database goes away in the middle: the rest can be done later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

from markupsafe import escape
from starlette.datastructures import QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dbos_async._logs import counted
from dbos_async._page.answers import Form, go, render, site_of
from dbos_async._page.filters import Filters, moment
from dbos_async._page.site import Source
from dbos_async._workflows.status import PARKED
from dbos_async.errors import DatabaseUnavailableError, DBOSError

PORTION: Final = 200
"""How many workflows one request acts on."""


@dataclass(frozen=True)
class Action:
    """What can be done with many workflows: its words, and the statuses that it is for."""

    name: str
    done: str
    statuses: tuple[str, ...]
    warning: str

    async def perform(self, source: Source, workflow_id: str) -> bool:
        """Do it with one workflow. False if it did not apply any more."""
        if self.name == "cancel":
            return await source.cancel_workflow(workflow_id)
        act: Callable[[str], Awaitable[Any]] = (
            source.resume_workflow if self.name == "resume" else source.delete_workflow
        )
        await act(workflow_id)
        return True


ACTIONS: Final = {
    "cancel": Action(
        "cancel",
        "cancelled",
        ("PENDING", "DELAYED", *PARKED),
        "They stop where they stand. A cancelled workflow can be resumed.",
    ),
    "resume": Action("resume", "resumed", ("CANCELLED", *PARKED), "They go on after their last recorded step."),
    "delete": Action(
        "delete",
        "deleted",
        ("SUCCESS", "ERROR", "CANCELLED"),
        "Their steps, messages, events and streams go with them. Nothing brings them back.",
    ),
}


async def act(request: Request) -> Response:
    """Ask whether the action is meant; when it is, do a portion of it."""
    form = await Form.of(request)
    action = ACTIONS.get(form.text("action"))
    if action is None:
        raise HTTPException(422, "The action must be cancel, resume or delete.")
    query = form.text("query")
    filters = Filters.of(QueryParams(query))
    ids = [unquote(one) for one in form.all("id")]
    is_all = form.text("which") == "all"
    if not is_all and not ids:
        return go(request, f"workflows?{query}", failed="Select workflows first, or choose all that match.")
    source = site_of(request).source
    if form.text("confirmed") != "yes":
        return await _ask(request, source, action, filters, query, None if is_all else ids)
    if is_all:
        return await _portion_of_all(request, source, action, form, query)
    fitting = await source.list_workflows(workflow_id=ids, status=action.statuses, payloads=False, limit=len(ids))
    done, failures = await _perform(source, action, [one.workflow_id for one in fitting])
    return go(request, f"workflows?{query}", notice=_told(action, done), failed=failures)


async def _ask(
    request: Request, source: Source, action: Action, filters: Filters, query: str, ids: list[str] | None
) -> Response:
    """The screen that says how many workflows are meant."""
    if ids is None:
        arguments = filters.arguments(action.statuses)
        until = (moment(filters.until, "until") or datetime.now(UTC)).isoformat()
        found = [] if arguments is None else await source.count_workflows(**arguments)
    else:
        until = ""
        found = await source.count_workflows(workflow_id=ids, status=action.statuses)
    total = sum(one.count for one in found)
    if not total:
        return go(
            request, f"workflows?{query}", failed=f"None of these workflows can be {action.done} as they stand now."
        )
    return render(
        request,
        "confirm.html",
        action=action,
        total=total,
        counts=found,
        query=escape(query),
        until=until,
        ids=ids or [],
        is_all=ids is None,
        left_out=0 if ids is None else len(ids) - total,
    )


async def _portion_of_all(request: Request, source: Source, action: Action, form: Form, query: str) -> Response:
    """Act on the next portion of all that match and were there when it was confirmed."""
    filters = replace(Filters.of(QueryParams(query)), until=form.text("until"))
    arguments = filters.arguments(action.statuses) or {"status": list(action.statuses)}
    done, total = _number(form, "done"), _number(form, "total")
    portion = await source.list_workflows(
        **arguments, payloads=False, limit=PORTION, cursor=form.text("cursor") or None
    )
    acted, failures = await _perform(source, action, [one.workflow_id for one in portion])
    done += acted
    if failures or len(portion) < PORTION:
        return go(request, f"workflows?{query}", notice=_told(action, done), failed=failures)
    return render(
        request,
        "portions.html",
        action=action,
        query=escape(query),
        until=form.text("until"),
        done=done,
        total=max(total, done),
        cursor=portion[-1].cursor,
        stop=escape(f"workflows?{query}"),
    )


async def _perform(source: Source, action: Action, ids: list[str]) -> tuple[int, str | None]:
    """Act on these; how many there were, and what went wrong. The first outage of the database ends it."""
    answers = await asyncio.gather(*[action.perform(source, each) for each in ids], return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in errors:
        if not isinstance(error, DBOSError):
            raise error
    if not errors:
        return sum(answer is True for answer in answers), None
    away = next((error for error in errors if isinstance(error, DatabaseUnavailableError)), None)
    reason = "the database does not answer, look again before you repeat it" if away else str(errors[0]).rstrip(".")
    return sum(
        answer is True for answer in answers
    ), f"{counted(len(errors), 'workflow')} could not be {action.done}: {reason}."


def _told(action: Action, done: int) -> str | None:
    return f"{counted(done, 'workflow')} {action.done}." if done else None


def _number(form: Form, name: str) -> int:
    text = form.text(name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
