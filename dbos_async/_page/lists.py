"""The list of workflows, with its filters in the URL."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from dbos_async._page.answers import query_of, render, site_of
from dbos_async._page.filters import Filters
from dbos_async._workflows.status import STATUSES, WorkflowStatus
from dbos_async.errors import InvalidArgumentError

PAGE = 50


async def workflows(request: Request) -> Response:
    """A page of the workflows that fit."""
    filters, cursor = Filters.of(request.query_params), request.query_params.get("cursor") or None
    found: list[WorkflowStatus] = []
    problem = None
    try:
        found = await site_of(request).source.list_workflows(
            **filters.arguments() or {}, newest_first=not filters.oldest, payloads=False, limit=PAGE + 1, cursor=cursor
        )
    except InvalidArgumentError as error:
        problem = str(error)
    page = found[:PAGE]
    following = [*filters.pairs, ("cursor", page[-1].cursor or "")] if len(found) > PAGE else None
    return render(
        request,
        "workflows.html",
        422 if problem else 200,
        poll=5 if cursor is None and not problem else None,
        filters=filters,
        query=query_of(filters.pairs),
        workflows=page,
        statuses=STATUSES,
        problem=problem,
        is_first=cursor is None,
        following=query_of(following) if following else None,
    )


async def count(request: Request) -> Response:
    """How many workflows fit. It comes after the list, since it reads all of them."""
    filters = Filters.of(request.query_params)
    found = await site_of(request).source.count_workflows(**filters.arguments() or {})
    return render(request, "count.html", count=sum(one.count for one in found))
