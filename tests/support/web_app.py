"""A small web application, and the workflows that it starts and follows."""

from __future__ import annotations

import json
import os
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from dbos_async import (
    DBOS,
    SetWorkflowID,
    Stream,
    Topic,
)
from dbos_async._executor import launched
from dbos_async.fastapi import add_error_handlers, lifespan, stream_response
from tests.support.web import Event


class Step(BaseModel):
    name: str
    share: float


CENTS = Topic("cents", list[int])
STEPS = Stream("k", Step)


@DBOS.workflow(name="web write")
async def write(values: list[Any], ending: str = "") -> None:
    for value in values:
        await DBOS.write_stream("k", value)
    if ending == "close":
        await DBOS.close_stream("k")
    if ending == "fail":
        raise OSError("secret reason")
    if ending:
        while (more := await DBOS.recv(timeout_seconds=None)) is not None:
            await DBOS.write_stream("k", more)


@DBOS.workflow(name="web bulk")
async def bulk(count: int) -> None:
    """So many values that hardly compress, of 100 kB each."""
    for _ in range(count):
        await DBOS.write_stream("k", os.urandom(50_000).hex())


@DBOS.workflow(name="web typed")
async def typed() -> None:
    await DBOS.write_stream(STEPS, Step(name="two\nlines\r\n\u2028é😀", share=0.5))


@DBOS.workflow(name="web pay")
async def pay() -> int:
    cents = await DBOS.recv(CENTS)
    return sum(cents or [])


async def start(workflow_id: str, *arguments: Any, workflow: Any = write) -> Any:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(workflow, *arguments)


def watched() -> int:
    """For how many keys this process waits."""
    return len(launched.executor().database.wakeups)


def application(url: str, **options: Any) -> FastAPI:
    """One path for everything that these tests ask."""
    app = FastAPI(lifespan=lifespan(url, executor_id="web"))
    add_error_handlers(app)

    @app.get("/{workflow_id}/stream")
    async def stream(request: Request, workflow_id: str) -> Response:
        return await stream_response(request, workflow_id, "k", **options)

    @app.post("/{workflow_id}/payment")
    async def payment(workflow_id: str, request: Request) -> None:
        await DBOS.send(workflow_id, await request.json(), CENTS)

    return app


def values(found: list[Event]) -> list[Any]:
    return [json.loads(event.data) for event in found if event.event == "message"]


def ids(found: list[Event]) -> list[int]:
    return [int(event.id or "") for event in found if event.event == "message"]
