"""`DBOSClient`: the same verbs for a program that runs no workflows itself."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from dbos_async._checks import check_flag, check_int, check_loop, check_optional_key, check_url
from dbos_async._database.access import DEFAULT_SCHEMA, Access, Password
from dbos_async._database.database import Database
from dbos_async._messaging.asking_verbs import AskingVerbs
from dbos_async._messaging.verbs import MessagingVerbs
from dbos_async._messaging.watching_verbs import WatchingVerbs
from dbos_async._operations.verbs import OperatingVerbs
from dbos_async._runs.start_options import wanted_version
from dbos_async._telemetry.choosing import find_telemetry
from dbos_async._workflows import start
from dbos_async._workflows.handle import WorkflowHandle
from dbos_async._workflows.known import KnownNames
from dbos_async._workflows.registry import call_by_name
from dbos_async._workflows.start import Workflow
from dbos_async._workflows.verbs import WorkflowVerbs
from dbos_async.errors import ConfigurationError, LaunchError

if TYPE_CHECKING:
    from dbos_async._runs.transaction import Connection

OTHER_LOOP = "This DBOSClient was opened in another event loop: use it there, or open one in each loop."

P = ParamSpec("P")
R = TypeVar("R")


class DBOSClient(MessagingVerbs, AskingVerbs, WatchingVerbs, WorkflowVerbs, OperatingVerbs):
    """A connection to the workflows of an application: ``async with DBOSClient("postgresql://…") as client:``.

    Its verbs are those of `DBOS` outside of workflows, called on this object: where their examples write ``DBOS.send(…)``, write
    ``client.send(…)``. A process may have any number of clients, each used in the event loop that opened it.

    Without a URL it uses ``$DBOS_DATABASE_URL``. It starts no embedded Postgres: without either, opening it raises
    `ConfigurationError`. ``migrate=True`` also creates or updates the schema; by default it is only checked. ``max_payload_bytes``
    is how large the JSON of a message or argument list may be. A call waits ``connect_timeout_seconds`` for a database that cannot
    be reached, then it raises `DatabaseUnavailableError`. ``application_version`` is the version of the executors that may run what
    this client starts; ``None`` leaves that to the first executor that claims it, and `SetApplicationVersion` names one for some
    starts. ``listen=False`` and ``telemetry`` are as for `DBOS`. Results are plain JSON values unless the workflow is started by
    its function.

    Example:
        ```python
        async with DBOSClient("postgresql://localhost/shop") as client:
            handle = await client.start_workflow("checkout", "order-17")
            await client.send(handle.workflow_id, "paid", "payment_status")
        ```
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        listen_url: str | None = None,
        listen: bool = True,
        schema: str = DEFAULT_SCHEMA,
        password: Password | None = None,
        max_connections: int = 4,
        migrate: bool = False,
        max_payload_bytes: int = 8 * 2**20,
        connect_timeout_seconds: float = 30.0,
        application_version: str | None = None,
        telemetry: bool | None = None,
    ) -> None:
        self._url = None if url is None else check_url(url)
        self._access = Access(
            self._url or "postgresql:",
            listen_url=listen_url,
            listen=listen,
            schema=schema,
            password=password,
            max_connections=max_connections,
            connect_timeout_seconds=connect_timeout_seconds,
        )
        self._migrate = check_flag(migrate, "migrate")
        self._max_payload_bytes = check_int(max_payload_bytes, 1, "max_payload_bytes")
        self._application_version = check_optional_key(application_version, "application_version")
        self._telemetry = None if telemetry is None else check_flag(telemetry, "telemetry")
        self._known_names = KnownNames()
        self._opened: tuple[Database, asyncio.AbstractEventLoop] | None = None

    async def __aenter__(self) -> Self:
        if self._opened is not None:
            raise LaunchError("This DBOSClient is open already: use one 'async with' block, or a client for each.")
        database = Database(
            replace(self._access, url=self._find_url()),
            max_payload_bytes=self._max_payload_bytes,
            telemetry=find_telemetry(self._telemetry),
        )
        database.application_version = self._application_version
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
            check_loop(self._opened[1], OTHER_LOOP)
            database, self._opened = self._opened[0], None
            await database.close()

    def _find_url(self) -> str:
        url = os.environ.get("DBOS_DATABASE_URL") if self._url is None else self._url
        if url is None or url == "":
            raise ConfigurationError(
                "No database: pass the URL of the application's database to DBOSClient(...), or set DBOS_DATABASE_URL."
            )
        return url

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
        """Start a workflow by its registered name, or by its function; any live executor that knows it runs it.

        Returns the handle once the start is committed. Arguments given with a name travel as plain JSON, and the result is a plain
        JSON value. Ids, versions, ``connection=`` and errors are those of `DBOS.start_workflow`.

        The first start of a name that no live executor knows logs a warning. The workflow then waits for an executor, and its
        `WorkflowStatus.unclaimable` is true. Arguments that its function does not take end the workflow in ERROR.

        Example:
            ```python
            @DBOS.workflow(name="checkout")  # in the application
            async def checkout(item: str, cents: int = 100) -> str:
                return f"{item} for {cents} cents"

            handle = await client.start_workflow("checkout", "widget", cents=1250)  # elsewhere
            assert await handle.get_result() == "widget for 1250 cents"
            ```
        """
        connection, kwargs = start.split_connection(workflow, kwargs)
        name, text, result_type = call_by_name(workflow, args, kwargs)
        version = wanted_version.get() or self._application_version
        database = self._database
        handle = await start.start(database, name, text, result_type, None, connection, self._application_version)
        await self._known_names.warn_once(database, name, version, args, kwargs)
        return handle

    @property
    def _database(self) -> Database:
        if self._opened is None:
            raise LaunchError("This DBOSClient is not open: write 'async with DBOSClient(url) as client:'.")
        database, loop = self._opened
        check_loop(loop, OTHER_LOOP)
        return database
