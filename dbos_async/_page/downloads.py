"""Whole values as plain texts, for those that are too long to stand on a page."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from dbos_async._page.answers import say, site_of, wanted
from dbos_async._page.site import Source
from dbos_async._page.texts import json_of
from dbos_async.envelope import Message

MOST_NEWER: Final = 1000
"""So many messages may have come since a list was shown, and its first one is still found."""


async def value(request: Request) -> Response:
    """One whole value, as a file: of a workflow, a step, an event or a message."""
    what = wanted(request, "what")
    if what == "message":
        message = await message_of(request)
        if message is None:
            return say(request, 404, "Not found", "This message is not there any more: load the list again.")
        return _file(f"message-{message.id}", message.payload)
    source, workflow_id = site_of(request).source, wanted(request, "id")
    if what in ("input", "output", "error"):
        status = await (await source.retrieve_workflow(workflow_id)).get_status()
        return _file(what, getattr(status, what))
    if what == "event":
        events = await source.get_all_events(workflow_id)
        key = wanted(request, "key")
        if key not in events:
            return say(request, 404, "Not found", "This event is not set.")
        return _file("event", events[key])
    if what == "step":
        return await _step(request, source, workflow_id)
    raise HTTPException(422, "what must be input, output, error, event, step or message.")


async def _step(request: Request, source: Source, workflow_id: str) -> Response:
    path = wanted(request, "step")
    branch, _, number = path.rpartition(".")
    if not (number.isascii() and number.isdecimal()):
        raise HTTPException(422, "step must be the number of a step, such as 4 or 4.1.2.")
    before = f"{branch}.{int(number) - 1}" if branch else str(int(number) - 1)
    found = await source.list_workflow_steps(workflow_id, after=before, limit=1)
    if not found or found[0].step != path:
        return say(request, 404, "Not found", "This step is not recorded.")
    return _file(f"step-{path}", found[0].output if found[0].error is None else found[0].error)


async def message_of(request: Request) -> Message | None:
    """The message of the URL. It is found from the place before it in its list, the newest one among those that are first now."""
    query, message_id = request.query_params, wanted(request, "message")
    list_messages = partial(
        site_of(request).source.list_messages,
        query.get("workflow") or None,
        topic=query.get("topic") or None,
        status=query.get("status") or None,
        newest_first=True,
    )
    cursor = query.get("cursor") or None
    found = await list_messages(limit=1, cursor=cursor)
    if not (found and str(found[0].id) == message_id) and cursor is None:
        newer = await list_messages(limit=MOST_NEWER, payloads=False)
        place = next((at for at, one in enumerate(newer) if str(one.id) == message_id), 0)
        found = await list_messages(limit=1, cursor=newer[place - 1].cursor) if place else []
    return found[0] if found and str(found[0].id) == message_id else None


def _file(name: str, content: Any) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}.txt"'}
    return PlainTextResponse(json_of(content), headers=headers)
