"""The messages of all workflows or of one: those that wait, that were rejected, or that are delayed."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._page.answers import query_of, render, say, site_of
from dbos_async._page.downloads import message_of
from dbos_async.errors import InvalidArgumentError

PAGE: Final = 50
OF_ALL: Final = ("rejected", "waiting", "delayed")
OF_ONE: Final = (*OF_ALL, "received")


async def messages(request: Request) -> Response:
    """A page of messages, the newest first."""
    query = request.query_params
    workflow_id, topic = query.get("workflow") or None, query.get("topic") or None
    cursor = query.get("cursor") or None
    choices = OF_ALL if workflow_id is None else OF_ONE
    status = query.get("status") or ("rejected" if workflow_id is None else None)
    if workflow_id is None and status == "received":
        raise InvalidArgumentError("Received messages are shown of one workflow: name it.")
    found = await site_of(request).source.list_messages(
        workflow_id, topic=topic, status=status, newest_first=True, payloads=False, limit=PAGE + 1, cursor=cursor
    )
    page = found[:PAGE]
    kept = {"status": status, "workflow": workflow_id, "topic": topic}
    pairs = [(name, value) for name, value in kept.items() if value]
    following = [*pairs, ("cursor", page[-1].cursor or "")] if len(found) > PAGE else None
    # A message is found again from the one before it.
    places = [cursor, *[one.cursor for one in page]]
    return render(
        request,
        "messages.html",
        poll=5 if cursor is None else None,
        messages=list(zip(page, places, strict=False)),
        status=status,
        workflow_id=workflow_id,
        topic=topic,
        choices=choices,
        is_first=cursor is None,
        back=query_of(pairs),
        following=query_of(following) if following else None,
    )


async def payload(request: Request) -> Response:
    """The payload of one message, as far as it stands on a page."""
    message = await message_of(request)
    if message is None:
        return say(request, 404, "Not found", "This message is not there any more: load the list again.")
    return render(request, "payload.html", message=message, query=str(request.query_params))
