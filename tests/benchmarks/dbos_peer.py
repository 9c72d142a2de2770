"""DBOS Transact from PyPI as a peer, by its async API, in a process and a database of its own on the same server.

Treated fairly: it runs the very functions that ours runs. `dbos` is as its makers set it, only with logs for errors alone: it uses
LISTEN/NOTIFY and a pool of 20 connections. `dbos-tuned` is as fast as it could be made here by its settings: its calls share
16 threads, which on two cores is up to twice as fast as the many of its default (4, 8 and 24 were slower than 16), and its
notifications are gathered for 1 ms instead of 10. Pools of 8 and of 50 connections were no faster than 20.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any, ClassVar, Self

from tests.benchmarks.engines import Engine, Function


class Transact(Engine):
    """DBOS Transact."""

    is_slow: ClassVar[bool] = True
    options: ClassVar[dict[str, Any]] = {}

    def __init__(self, url: str, size: int) -> None:
        # Not a dependency of this project, so nothing of it is known to mypy.
        self._package: Any = importlib.import_module("dbos")
        self._dbos: Any = self._package.DBOS
        self._dbos(
            config={
                "name": "benchmark",
                "system_database_url": url,
                "log_level": "ERROR",
                **self.options,
            }
        )
        super().__init__(size)

    async def __aenter__(self) -> Self:
        self._dbos.launch()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._dbos.destroy()

    def workflow(self, name: str, function: Function) -> Function:
        async def run(*args: Any) -> Any:
            return await function(*args)

        registered: Function = self._dbos.workflow(name=name)(run)
        return registered

    async def start(self, function: Function, *args: Any, workflow_id: str | None = None) -> Any:
        with self._package.SetWorkflowID(workflow_id) if workflow_id else nullcontext():
            return await self._dbos.start_workflow_async(function, *args)

    async def send(self, destination_id: str, message: Any, topic: str) -> None:
        await self._dbos.send_async(destination_id, message, topic)

    async def recv(self, topic: str) -> Any:
        return await self._dbos.recv_async(topic)

    async def set_event(self, key: str, value: Any) -> None:
        await self._dbos.set_event_async(key, value)

    async def get_event(self, workflow_id: str, key: str) -> Any:
        return await self._dbos.get_event_async(workflow_id, key)

    async def write_stream(self, key: str, value: Any) -> None:
        await self._dbos.write_stream_async(key, value)

    def read_stream(self, workflow_id: str, key: str) -> AsyncIterator[Any]:
        values: AsyncIterator[Any] = self._dbos.read_stream_async(workflow_id, key)
        return values


class Tuned(Transact):
    """The same with other settings."""

    options: ClassVar[dict[str, Any]] = {"max_executor_threads": 16, "notification_coalesce_sec": 0.001}
