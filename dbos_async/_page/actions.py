"""What people can do with one workflow or message."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._logs import counted
from dbos_async._page.answers import Form, go, render, site_of, wanted
from dbos_async._page.site import Source, database_of
from dbos_async._workflows.families import descendants_of
from dbos_async.errors import DatabaseUnavailableError, DBOSError


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
    """Cancel a workflow."""
    form, source = await Form.of(request), site_of(request).source
    if form.text("confirmed") != "yes":
        told = "It stops where it stands. It can be resumed."
        return await _ask(request, source, "cancel", "Cancel this workflow?", told)

    async def act(workflow_id: str) -> str:
        if form.text("children") == "yes":
            outcomes = [*(await source.cancel_workflows([workflow_id], children=True)).values()]
            return f"{counted(outcomes.count('cancelled'), 'workflow')} cancelled."
        return "Cancelled." if await source.cancel_workflow(workflow_id) else "It had ended before."

    return await _act(request, act)


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
        return await _ask(request, source, "delete", "Delete this workflow?", told)
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


async def _ask(request: Request, source: Source, action: str, question: str, told: str) -> Response:
    workflow_id = wanted(request, "id")
    below = await descendants_of(database_of(source), [workflow_id])
    ended = [has_ended for _, has_ended in below.values()]
    return render(
        request, "ask.html", action=action, question=question, told=told, workflow_id=workflow_id,
        below=ended.count(False) if action == "cancel" else len(ended),
    )  # fmt: skip
