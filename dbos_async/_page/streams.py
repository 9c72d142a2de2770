"""A stream, as it is written."""

from __future__ import annotations

import re
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dbos_async._page.answers import render, site_of, wanted
from dbos_async.fastapi import stream_response

MAX_SHOWN_VALUES: Final = 1000
"""How many of the last values a new page shows."""


async def stream(request: Request) -> Response:
    """The screen of a stream; a script of it follows the values."""
    workflow_id, key = wanted(request, "id"), wanted(request, "key")
    found = await site_of(request).source.describe_workflow(workflow_id, limit=1)
    summary = next((one for one in found.streams if one.key == key), None)
    end = 0 if summary is None else summary.end
    asked = request.query_params.get("from", "")
    if asked and not re.fullmatch("[0-9]{1,10}", asked):
        raise HTTPException(422, "from must be an offset: a whole number, at least 0.")
    first = int(asked) if asked else max(end - MAX_SHOWN_VALUES, 0)
    return render(
        request, "stream.html", workflow_id=workflow_id, key=key, summary=summary, end=end, one=found.status, first=first,
        most=MAX_SHOWN_VALUES,
    )  # fmt: skip


async def live(request: Request) -> Response:
    """The values, as server-sent events."""
    return await stream_response(request, wanted(request, "id"), wanted(request, "key"), client=site_of(request).client)
