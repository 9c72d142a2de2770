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
from dbos_async._page.site import Source, database_of
from dbos_async._workflows.families import chunks, descendants_of
from dbos_async._workflows.status import PARKED
from dbos_async.errors import DatabaseUnavailableError, DBOSError

PORTION: Final = 200
"""How many workflows one request acts on."""
FAMILIES_AT_A_TIME: Final = 20
FAMILIES_WITHIN_SECONDS: Final = 1.5
"""After so long a request leaves further families to the next one: how many workflows they have is not known before."""


@dataclass(frozen=True)
class Action:
    """What can be done with many workflows: its words, and the statuses that it is for."""

    name: str
    done: str
    statuses: tuple[str, ...]
    warning: str
    has_families: bool
    """Whether it can also be done with all that they have started."""

    async def perform(self, source: Source, workflow_id: str) -> bool:
        """Do it with one workflow. False if it did not apply any more."""
        if self.name == "cancel":
            return await source.cancel_workflow(workflow_id)
        act: Callable[[str], Awaitable[Any]] = (
            source.resume_workflow if self.name == "resume" else source.delete_workflow
        )
        await act(workflow_id)
        return True

    async def perform_on_families(self, source: Source, workflow_ids: list[str]) -> list[str]:
        """Do it with these and all that they have started, and return what became of each."""
        if self.name == "cancel":
            return [*(await source.cancel_workflows(workflow_ids, children=True)).values()]
        return [*(await source.delete_workflows(workflow_ids, children=True)).values()]


@dataclass(frozen=True)
class Tally:
    """What requests have done: how many workflows were acted on, how many stay, and what went wrong.

    ``through`` is how many of those that match they went through, with or without what these have started.
    """

    done: int = 0
    stayed: int = 0
    through: int = 0
    failures: str | None = None

    def __add__(self, more: Tally) -> Tally:
        return Tally(
            self.done + more.done,
            self.stayed + more.stayed,
            self.through + more.through,
            more.failures or self.failures,
        )

    @property
    def problem(self) -> str | None:
        """What went wrong, or stands against it."""
        if self.failures or not self.stayed:
            return self.failures
        if self.stayed == 1:
            return "1 workflow stays: it has started one that has not ended. Cancel that first."
        return f"{self.stayed:,} workflows stay: they have started some that have not ended. Cancel these first."


ACTIONS: Final = {
    "cancel": Action(
        "cancel",
        "cancelled",
        ("PENDING", "DELAYED", *PARKED),
        "They stop where they stand. A cancelled workflow can be resumed.",
        True,
    ),
    "resume": Action("resume", "resumed", ("CANCELLED", *PARKED), "They go on after their last recorded step.", False),
    "delete": Action(
        "delete",
        "deleted",
        ("SUCCESS", "ERROR", "CANCELLED"),
        "Their steps, messages, events and streams go with them. Nothing brings them back.",
        True,
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
    perform = _perform_on_families if _with_children(action, form) else _perform
    tally = await perform(source, action, [one.workflow_id for one in fitting])
    return go(request, f"workflows?{query}", notice=_told(action, tally.done), failed=tally.problem)


def _with_children(action: Action, form: Form) -> bool:
    return action.has_families and form.text("children") == "yes"


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
        below=None if ids is None else await _below(source, action, ids),
    )


async def _below(source: Source, action: Action, ids: list[str]) -> int:
    """With how many more workflows it would be done with ``children``."""
    if not action.has_families:
        return 0
    fitting = await source.list_workflows(workflow_id=ids, status=action.statuses, payloads=False, limit=len(ids))
    chosen = {one.workflow_id for one in fitting}
    below = await descendants_of(database_of(source), chosen)
    return sum(
        one not in chosen and not (has_ended and action.name == "cancel") for one, (_, has_ended) in below.items()
    )


async def _portion_of_all(request: Request, source: Source, action: Action, form: Form, query: str) -> Response:
    """Act on the next portion of all that match and were there when it was confirmed."""
    filters = replace(Filters.of(QueryParams(query)), until=form.text("until"))
    arguments = filters.arguments(action.statuses) or {"status": list(action.statuses)}
    tally = Tally(_number(form, "done"), _number(form, "stayed"), _number(form, "through"))
    with_children = _with_children(action, form)
    portion = await source.list_workflows(
        **arguments, payloads=False, limit=PORTION, cursor=form.text("cursor") or None
    )
    perform = _some_families if with_children else _perform
    acted = await perform(source, action, [one.workflow_id for one in portion])
    tally += acted
    if tally.failures or (len(portion) < PORTION and acted.through == len(portion)):
        return go(request, f"workflows?{query}", notice=_told(action, tally.done), failed=tally.problem)
    through = tally.through if with_children else tally.done
    return render(
        request,
        "portions.html",
        action=action,
        query=escape(query),
        until=form.text("until"),
        done=tally.done,
        stayed=tally.stayed,
        through=through,
        total=max(_number(form, "total"), through),
        with_children=with_children,
        cursor=portion[acted.through - 1].cursor,
        stop=escape(f"workflows?{query}"),
    )


async def _some_families(source: Source, action: Action, ids: list[str]) -> Tally:
    """Act on the first of these and all that they have started, as many as one request has time for."""
    loop, tally = asyncio.get_running_loop(), Tally()
    give_up_at = loop.time() + FAMILIES_WITHIN_SECONDS
    for some in chunks(ids, FAMILIES_AT_A_TIME):
        tally += await _perform_on_families(source, action, some)
        if tally.failures or loop.time() > give_up_at:
            break
    return tally


async def _perform_on_families(source: Source, action: Action, ids: list[str]) -> Tally:
    """Act on these and all that they have started."""
    try:
        outcomes = await action.perform_on_families(source, ids)
    except DatabaseUnavailableError as error:
        failures = f"Not all of them could be {action.done} ({error.reason}): look again before you repeat it."
        return Tally(through=len(ids), failures=failures)
    return Tally(outcomes.count(action.done), outcomes.count("not ended"), len(ids))


async def _perform(source: Source, action: Action, ids: list[str]) -> Tally:
    """Act on these. The first outage of the database ends it."""
    answers = await asyncio.gather(*[action.perform(source, each) for each in ids], return_exceptions=True)
    errors = [answer for answer in answers if isinstance(answer, BaseException)]
    for error in errors:
        if not isinstance(error, DBOSError):
            raise error
    done = sum(answer is True for answer in answers)
    if not errors:
        return Tally(done, through=len(ids))
    away = next((error for error in errors if isinstance(error, DatabaseUnavailableError)), None)
    reason = "the database does not answer, look again before you repeat it" if away else str(errors[0]).rstrip(".")
    return Tally(
        done, through=len(ids), failures=f"{counted(len(errors), 'workflow')} could not be {action.done}: {reason}."
    )


def _told(action: Action, done: int) -> str | None:
    return f"{counted(done, 'workflow')} {action.done}." if done else None


def _number(form: Form, name: str) -> int:
    text = form.text(name)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
