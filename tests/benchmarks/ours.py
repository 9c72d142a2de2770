"""This library as a peer, by its public API, as a program of its users would use it: nothing is tuned for the benchmark.

`max_running` is raised above the 1,000 workflows that run at once, so that none of them has to queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any, Self

from dbos_async import DBOS, SetWorkflowID
from tests.benchmarks.engines import Engine, Function


class Ours(Engine):
    """dbos_async."""

    def __init__(self, url: str, size: int) -> None:
        super().__init__(size)
        self._dbos = DBOS(url, max_running=20_000)

    async def __aenter__(self) -> Self:
        await self._dbos.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._dbos.__aexit__(None, None, None)

    def workflow(self, name: str, function: Function) -> Function:
        async def run(*args: Any) -> Any:
            return await function(*args)

        registered: Function = DBOS.workflow(name=name)(run)
        return registered

    async def start(self, function: Function, *args: Any, workflow_id: str | None = None) -> Any:
        with SetWorkflowID(workflow_id) if workflow_id else nullcontext():
            return await DBOS.start_workflow(function, *args)

    async def send(self, destination_id: str, message: Any, topic: str) -> None:
        await DBOS.send(destination_id, message, topic)

    async def recv(self, topic: str) -> Any:
        return await DBOS.recv(topic)

    async def set_event(self, key: str, value: Any) -> None:
        await DBOS.set_event(key, value)

    async def get_event(self, workflow_id: str, key: str) -> Any:
        return await DBOS.get_event(workflow_id, key)

    async def write_stream(self, key: str, value: Any) -> None:
        await DBOS.write_stream(key, value)

    def read_stream(self, workflow_id: str, key: str) -> AsyncIterator[Any]:
        return DBOS.read_stream(workflow_id, key)
