"""`DBOSClient`: the same verbs for a program that runs no workflows itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload
from uuid import UUID

from dbos_async._database.database import Database
from dbos_async._messaging import events, mailbox, send, streams
from dbos_async._workflows import control, delete, fork, handle, start
from dbos_async._workflows.handle import WorkflowHandle, WorkflowStatus, WorkflowStep
from dbos_async._workflows.start import Workflow
from dbos_async.envelope import Message, SendMessage
from dbos_async.errors import LaunchError, WrongPlaceError
from dbos_async.keys import Event, Stream, Topic, check_int

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

P = ParamSpec("P")
R = TypeVar("R")


class DBOSClient:
    """A connection to the workflows of an application: ``async with DBOSClient("postgresql://…") as client:``.

    Its verbs are those of `DBOS` outside of workflows, bound to this object; a process may have any number of clients.
    ``migrate=True`` lets it make the schema, too; by default it only checks that it is there.
    """

    def __init__(
        self,
        url: str,
        *,
        migrate: bool = False,
        max_payload_bytes: int = 8 * 2**20,
        connect_timeout_seconds: float = 30.0,
    ) -> None:
        self._url = url
        self._migrate = migrate
        self._max_payload_bytes = check_int(max_payload_bytes, 1, "max_payload_bytes")
        self._connect_timeout_seconds = connect_timeout_seconds
        self._opened: tuple[Database, asyncio.AbstractEventLoop] | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise LaunchError("This DBOSClient is open already: use one 'async with' block, or a client for each.")
        database = Database(
            self._url,
            connect_timeout_seconds=self._connect_timeout_seconds,
            max_payload_bytes=self._max_payload_bytes,
            max_connections=4,
        )
        try:
            await database.open(migrate=self._migrate)
        except BaseException:
            await database.close()
            raise
        self._opened = database, asyncio.get_running_loop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            database, self._opened = self._opened[0], None
            await database.close()

    @overload
    async def start_workflow(self, workflow: str, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]: ...
    @overload
    async def start_workflow(
        self, workflow: Workflow[..., R], /, *args: Any, connection: Connection, **kwargs: Any
    ) -> WorkflowHandle[R]: ...
    @overload
    async def start_workflow(
        self, workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs
    ) -> WorkflowHandle[R]: ...
    async def start_workflow(self, workflow: Any, /, *args: Any, **kwargs: Any) -> WorkflowHandle[Any]:
        """Start a workflow by its registered name, or its function; any live executor that knows it runs it.

        Arguments given with a name travel as plain JSON. Ids and ``connection=`` as in `DBOS.start_workflow`.
        """
        connection, kwargs = start.split_connection(workflow, kwargs)
        name, text, result_type = start.call_by_name(workflow, args, kwargs)
        return await start.start(self._database, name, text, result_type, None, connection)

    @overload
    async def send(
        self,
        destination_id: str,
        message: R,
        topic: Topic[R],
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None: ...
    @overload
    async def send(
        self,
        destination_id: str,
        message: Any,
        topic: str | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None: ...
    async def send(
        self,
        destination_id: str,
        message: Any,
        topic: str | Topic[Any] | None = None,
        *,
        idempotency_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Connection | None = None,
    ) -> None:
        """Send a message to a workflow; see `DBOS.send`."""
        message = SendMessage(destination_id, message, topic, idempotency_key, headers)
        await send.send(self._database, message, connection)

    async def send_bulk(self, messages: Sequence[SendMessage], *, connection: Connection | None = None) -> None:
        """Send all these messages, or none; see `DBOS.send_bulk`."""
        await send.send_bulk(self._database, messages, connection)

    @overload
    async def get_event(self, workflow_id: str, key: Event[R], timeout_seconds: float | None = 60) -> R | None: ...
    @overload
    async def get_event(self, workflow_id: str, key: str, timeout_seconds: float | None = 60) -> Any: ...
    async def get_event(self, workflow_id: str, key: str | Event[Any], timeout_seconds: float | None = 60) -> Any:
        """The latest value of an event; see `DBOS.get_event`."""
        return await events.get_event(self._database, workflow_id, key, timeout_seconds)

    async def get_all_events(self, workflow_id: str) -> dict[str, Any]:
        """The latest value of every event of a workflow; see `DBOS.get_all_events`."""
        return await events.get_all_events(self._database, workflow_id)

    @overload
    def read_stream(
        self, workflow_id: str, key: Stream[R], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[R, None]: ...
    @overload
    def read_stream(
        self, workflow_id: str, key: str, *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]: ...
    def read_stream(
        self, workflow_id: str, key: str | Stream[Any], *, offset: int = 0, timeout_seconds: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Yield each value of a stream in order; see `DBOS.read_stream`."""
        return streams.read_stream(self._database, workflow_id, key, offset, timeout_seconds)

    async def retrieve_workflow(self, workflow_id: str) -> WorkflowHandle[Any]:
        """The handle of an existing workflow; see `DBOS.retrieve_workflow`."""
        await handle.get_status(self._database, workflow_id)
        return WorkflowHandle(self._database, workflow_id)

    async def list_workflows(
        self,
        *,
        status: str | None = None,
        name: str | None = None,
        id_prefix: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        parent_id: str | None = None,
        unclaimable: bool | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[WorkflowStatus]:
        """The workflows that fit every filter; see `DBOS.list_workflows`."""
        return await handle.list_workflows(
            self._database, status=status, name=name, id_prefix=id_prefix, since=since, until=until,
            parent_id=parent_id, unclaimable=unclaimable, limit=limit, after=after,
        )  # fmt: skip

    async def list_workflow_steps(self, workflow_id: str) -> list[WorkflowStep]:
        """The recorded steps of a workflow; see `DBOS.list_workflow_steps`."""
        return await handle.list_workflow_steps(self._database, workflow_id)

    async def cancel_workflow(self, workflow_id: str) -> None:
        """Cancel a workflow; see `DBOS.cancel_workflow`."""
        await control.cancel(self._database, workflow_id)

    async def resume_workflow(self, workflow_id: str, *, application_version: str | None = None) -> WorkflowHandle[Any]:
        """Let a cancelled or parked workflow go on; see `DBOS.resume_workflow`."""
        await control.resume(self._database, workflow_id, application_version)
        return await self.retrieve_workflow(workflow_id)

    async def fork_workflow(
        self, workflow_id: str, start_step: int | str, *, application_version: str | None = None
    ) -> WorkflowHandle[Any]:
        """Start a copy of a workflow that goes on from one of its steps; see `DBOS.fork_workflow`."""
        return await fork.fork(self._database, workflow_id, start_step, application_version)

    async def delete_workflow(self, workflow_id: str) -> None:
        """Remove a workflow that has ended; see `DBOS.delete_workflow`."""
        await delete.delete(self._database, workflow_id)

    async def list_messages(
        self,
        workflow_id: str,
        *,
        topic: str | Topic[Any] | None = None,
        status: str | None = None,
        limit: int = 100,
        after: UUID | str | None = None,
    ) -> list[Message]:
        """The messages that were sent to a workflow; see `DBOS.list_messages`."""
        return await mailbox.list_messages(
            self._database, workflow_id, topic=topic, status=status, limit=limit, after=after
        )

    async def redeliver(self, message_id: UUID | str) -> None:
        """Append a copy of a rejected message to its queue; see `DBOS.redeliver`."""
        await mailbox.redeliver(self._database, message_id)

    @property
    def _database(self) -> Database:
        if self._opened is None:
            raise LaunchError("This DBOSClient is not open: write 'async with DBOSClient(url) as client:'.")
        database, loop = self._opened
        if asyncio.get_running_loop() is not loop:
            raise WrongPlaceError("This DBOSClient was opened in another event loop: open one in each loop.")
        return database
