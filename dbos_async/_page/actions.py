"""What people can do with one workflow or message."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._checks import check_delay, excerpt, seconds_in
from dbos_async._logs import counted
from dbos_async._page.answers import Form, go, render, site_of, wanted
from dbos_async._page.site import Source, database_of
from dbos_async._workflows.families import descendants_of
from dbos_async.errors import DatabaseUnavailableError, DBOSError, InvalidArgumentError


async def _act(request: Request, act: Callable[[str], Awaitable[str]]) -> Response:
    """Do something with the workflow of the URL, and go back to it with the news."""
    workflow_id = wanted(request, "id")
    try:
        return go(request, "workflow", id=workflow_id, notice=await act(workflow_id))
    except DatabaseUnavailableError:
        raise
    except DBOSError as error:
        return go(request, "workflow", id=workflow_id, failed=str(error))


async def send(request: Request) -> Response:
    """Send a message to a workflow."""
    form, source = await Form.of(request), site_of(request).source

    async def act(workflow_id: str) -> str:
        text, topic = form.text("payload"), form.text("topic")
        is_live = await source.send(workflow_id, json.loads(text), topic or None)
        return "The message was sent." if is_live else "The message is stored, but the workflow has ended."

    try:
        json.loads(form.text("payload"))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        return render(
            request, "send.html", 422, workflow_id=wanted(request, "id"), topic=form.text("topic"),
            payload=form.text("payload"), problem=f"The message is no JSON: {reason}. A text needs its quotes.",
        )  # fmt: skip
    return await _act(request, act)


async def cancel(request: Request) -> Response:
    """Cancel a workflow, with time to clean up if the form gives it some."""
    form, source = await Form.of(request), site_of(request).source
    question, told = "Cancel this workflow?", "Without time to clean up it stops where it stands. It can be resumed."
    if form.text("confirmed") != "yes":
        return await _ask(request, source, "cancel", question, told, form)
    try:
        seconds = cleanup_of(form.text("cleanup"))
    except InvalidArgumentError as error:
        return await _ask(request, source, "cancel", question, told, form, str(error))
    done = "cancelled" if seconds is None else "cancelled, with time to clean up"

    async def act(workflow_id: str) -> str:
        if form.text("children") == "yes":
            families = await source.cancel_workflows([workflow_id], children=True, cleanup_seconds=seconds)
            return f"{counted([*families.values()].count('cancelled'), 'workflow')} {done}."
        has_ended_it = await source.cancel_workflow(workflow_id, cleanup_seconds=seconds)
        return f"{done.capitalize()}." if has_ended_it else "It had ended before."

    return await _act(request, act)


def cleanup_of(text: str) -> float | None:
    """How long a cancelled workflow may clean up, from a field of a form; empty and ``0s``: no time, ``None``."""
    if not text.strip():
        return None
    seconds, what = seconds_in(text), "The time to clean up"
    if seconds is None:
        raise InvalidArgumentError(f"{what} must be a time such as 30s, 15m, 1h or 2d and is {excerpt(text)}.")
    return check_delay(seconds, what)


async def resume(request: Request) -> Response:
    """Let a cancelled or parked workflow go on, for another version if the form names one."""
    form, source = await Form.of(request), site_of(request).source

    async def act(workflow_id: str) -> str:
        await source.resume_workflow(workflow_id, application_version=form.text("version") or None)
        return "Resumed. An executor that can run it goes on after the last recorded step."

    return await _act(request, act)


async def fork(request: Request) -> Response:
    """Start a copy of a workflow from one of its steps, and go to the copy."""
    form, source = await Form.of(request), site_of(request).source
    workflow_id, step = wanted(request, "id"), form.text("step").strip()
    try:
        handle = await source.fork_workflow(workflow_id, step, application_version=form.text("version") or None)
    except DatabaseUnavailableError:
        raise
    except DBOSError as error:
        return go(request, "workflow", id=workflow_id, failed=str(error))
    return go(request, "workflow", id=handle.workflow_id, notice=f"This is the copy that goes on from step {step}.")


async def delete(request: Request) -> Response:
    """Remove a workflow that has ended."""
    form, source = await Form.of(request), site_of(request).source
    workflow_id = wanted(request, "id")
    if form.text("confirmed") != "yes":
        told = "Its steps, messages, events and streams go with it. Nothing brings them back."
        return await _ask(request, source, "delete", "Delete this workflow?", told, form)
    try:
        await source.delete_workflow(workflow_id, children=form.text("children") == "yes")
    except DatabaseUnavailableError:
        raise
    except DBOSError as error:
        return go(request, "workflow", id=workflow_id, failed=str(error))
    return go(request, "workflows", notice="The workflow was deleted.")


async def redeliver(request: Request) -> Response:
    """Append a copy of a rejected message to its queue."""
    form = await Form.of(request)
    back = form.text("back")
    place = f"messages?{back}" if back else "messages"
    try:
        await site_of(request).source.redeliver(wanted(request, "id"))
    except DatabaseUnavailableError:
        raise
    except DBOSError as error:
        return go(request, place, failed=str(error))
    return go(request, place, notice="A copy of the message waits in its queue.")


async def _ask(
    request: Request, source: Source, action: str, question: str, told: str, form: Form, problem: str | None = None
) -> Response:
    """Ask whether the action is meant, or ask again with what was typed and the problem with that."""
    workflow_id = wanted(request, "id")
    below = await descendants_of(database_of(source), [workflow_id])
    ended = [has_ended for _, has_ended in below.values()]
    return render(
        request, "ask.html", 422 if problem else 200, action=action, question=question, told=told, workflow_id=workflow_id,
        below=ended.count(False) if action == "cancel" else len(ended), problem=problem, cleanup=form.text("cleanup"),
        with_children=form.text("children") == "yes",
    )  # fmt: skip
