"""`DBOS`: the launched application, and the front door to every verb."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Final, Self, Unpack

from dbos_async import logs
from dbos_async._checks import check_optional_key
from dbos_async._database.database import Database
from dbos_async._executor import launched
from dbos_async._lifecycle.health import Health
from dbos_async._lifecycle.runtime import Runtime
from dbos_async._lifecycle.settings import Options, Settings, takes_options
from dbos_async._lifecycle.signals import SigtermHandler
from dbos_async._messaging.asking_verbs import AskingVerbs
from dbos_async._messaging.first_verbs import FirstVerbs
from dbos_async._messaging.verbs import MessagingVerbs
from dbos_async._messaging.watching_verbs import WatchingVerbs
from dbos_async._messaging.workflow_verbs import WorkflowMessagingVerbs
from dbos_async._messaging.writing_verbs import WritingVerbs
from dbos_async._operations.verbs import OperatingVerbs
from dbos_async._runs.context import ContextProperty, IsReplaying, StepContext
from dbos_async._transactions.verbs import TransactionVerbs
from dbos_async._workflows.launched_verbs import LaunchedWorkflowVerbs
from dbos_async._workflows.methods import WorkflowDecorator
from dbos_async._workflows.options import DEFAULT_ATTEMPTS, check_recovery_attempts, step_options
from dbos_async._workflows.registering import RegisteringVerbs
from dbos_async._workflows.retry_on import RetryOn
from dbos_async._workflows.step_functions import StepDecorator
from dbos_async.errors import InvalidArgumentError, LaunchError


class _Verbs(
    MessagingVerbs,
    AskingVerbs,
    WatchingVerbs,
    FirstVerbs,
    WritingVerbs,
    WorkflowMessagingVerbs,
    LaunchedWorkflowVerbs,
    OperatingVerbs,
):
    """The verbs of `DBOS`: each call finds the executor that is launched at that moment."""

    @property
    def _database(self) -> Database:
        return launched.database()


_verbs = _Verbs()


class DBOS(RegisteringVerbs):
    """One launched application: ``async with DBOS("postgresql://…"):`` connects, migrates, listens and takes over workflows.

    Without a URL it uses ``$DBOS_DATABASE_URL``, else it starts the embedded Postgres in ``.dbos_async/``. One DBOS is launched
    in a process at a time; its verbs are reached through the class or an instance alike.

    The URL may be one of a provider, of SQLAlchemy or of libpq (``postgres://…``, ``postgresql+asyncpg://…``, ``host=… dbname=…``).
    For what it leaves out there are the variables of libpq, such as ``PGHOST``, and ``~/.pgpass``.

    - ``listen_url`` is the URL of the connections that listen and keep the lease (``None``: the same URL): the way to the same
      database past a pooler in transaction mode.
    - ``listen=False`` does without notifications: the database is asked again and again for all that waits here. That is for
      poolers without a way past them, and for servers without LISTEN.
    - ``schema`` is the schema with the tables (``None``: ``$DBOS_SCHEMA``, else ``dbos_async``). Several applications in one
      database have one each, and see nothing of each other.
    - ``password`` is a function that makes the password of each new connection, such as a token that lasts for minutes (``None``:
      that of the URL). It has 10 seconds. A coroutine function is called in this event loop, any other in a thread; while code
      blocks this event loop, a lost connection of the lease comes back with the last password of a coroutine function.
    - ``max_connections`` is how many connections statements use at most, at least 1. Besides, a process has one to listen, one for
      its lease, one at times to look after a statement that takes long, and up to ``max_transactions``: 21 with the defaults.
    - ``executor_id`` names this executor (``None``: host and process id). A launch under the same name takes over the workflows
      of an earlier one that is gone.
    - ``application_version`` limits this executor to workflows of this version, or of none (``None``: it runs all).
    - ``max_running`` is how many workflows run here at a time, not counting those that wait.
    - ``max_transactions`` is how many transactional steps run here at a time, each with a connection of its own.
    - ``max_payload_bytes`` is how large the JSON of a message, event, stream value, argument list or result may be.
    - ``migrate=False`` only checks that the schema is up to date.
    - ``connect_timeout_seconds`` is how long calls outside workflows wait for a database that cannot be reached.
    - ``drain_seconds`` is how long running steps may take to finish at the end.
    - ``max_blocked_seconds`` is for how long code may block the event loop before other executors take the workflows over,
      at least 1.
    - ``retention`` is for how long workflows are kept after their end, a ``timedelta`` or seconds, at least 1 (``None``: for ever).
      After that an executor removes them whole, as `purge` does.
    - ``telemetry`` is whether OpenTelemetry is told what happens (``None``: if the program has set a provider of it before).

    Leaving the block lets running steps finish, stops the runs and gives their workflows back to other executors. A SIGTERM
    that the program does not handle itself does the same.

    Raises `ConfigurationError` when the database cannot be used, `DatabaseUnavailableError` when it cannot be reached in time, and
    `LaunchError` when a DBOS is launched already.

    Example:
        ```python
        @DBOS.workflow()
        async def checkout(order_id: str) -> str:
            return f"{order_id} is paid"

        async with DBOS():
            handle = await DBOS.start_workflow(checkout, "order-17")
            print(await handle.get_result())
        ```
    """

    workflow_id: ContextProperty[str] = ContextProperty(
        lambda context: context.run.workflow_id, "The id of the calling workflow, None outside of workflows."
    )
    step_id: ContextProperty[str] = ContextProperty(
        lambda context: context.path if isinstance(context, StepContext) else None,
        "The path of the calling step (4, or 4.1.2 in a task of its own), None outside of steps.",
    )
    attempt: ContextProperty[int] = ContextProperty(
        lambda context: context.attempt if isinstance(context, StepContext) else None,
        "Which attempt of the calling step this is, from 1, None outside of steps. After a crash the step begins again with 1.",
    )
    is_replaying: IsReplaying = IsReplaying()
    logger: Final[logging.Logger] = logs.logger
    """A logger whose records know their workflow (`dbos_async.logs.WorkflowContext`), and that no replay repeats."""

    send: Final = _verbs.send
    send_bulk: Final = _verbs.send_bulk
    recv: Final = _verbs.recv
    recv_envelope: Final = _verbs.recv_envelope
    wait_first: Final = _verbs.wait_first
    ask: Final = _verbs.ask
    get_answer: Final = _verbs.get_answer
    messages: Final = _verbs.messages
    list_messages: Final = _verbs.list_messages
    redeliver: Final = _verbs.redeliver

    set_event: Final = _verbs.set_event
    get_event: Final = _verbs.get_event
    watch_event: Final = _verbs.watch_event
    get_all_events: Final = _verbs.get_all_events

    write_stream: Final = _verbs.write_stream
    stream_writer: Final = _verbs.stream_writer
    write_stream_many: Final = _verbs.write_stream_many
    close_stream: Final = _verbs.close_stream
    read_stream: Final = _verbs.read_stream
    read_stream_entries: Final = _verbs.read_stream_entries
    read_streams: Final = _verbs.read_streams
    trim_stream: Final = _verbs.trim_stream

    transaction: Final = TransactionVerbs().transaction

    start_workflow: Final = _verbs.start_workflow
    start_step: Final = _verbs.start_step
    run_step: Final = _verbs.run_step
    continue_as_new: Final = _verbs.continue_as_new
    sleep: Final = _verbs.sleep
    sleep_until: Final = _verbs.sleep_until
    now: Final = _verbs.now
    random: Final = _verbs.random
    uuid: Final = _verbs.uuid
    patched: Final = _verbs.patched
    retrieve_workflow: Final = _verbs.retrieve_workflow
    list_workflows: Final = _verbs.list_workflows
    list_workflow_steps: Final = _verbs.list_workflow_steps
    cancel_workflow: Final = _verbs.cancel_workflow
    resume_workflow: Final = _verbs.resume_workflow
    fork_workflow: Final = _verbs.fork_workflow
    delete_workflow: Final = _verbs.delete_workflow
    cancel_workflows: Final = _verbs.cancel_workflows
    resume_workflows: Final = _verbs.resume_workflows
    delete_workflows: Final = _verbs.delete_workflows

    count_workflows: Final = _verbs.count_workflows
    count_messages: Final = _verbs.count_messages
    list_executors: Final = _verbs.list_executors
    describe_workflow: Final = _verbs.describe_workflow
    purge: Final = _verbs.purge

    @takes_options
    def __init__(self, url: str | None = None, **options: Unpack[Options]) -> None:
        self._runtime = Runtime(Settings(url, **options))
        self._sigterm_handler = SigtermHandler()

    async def __aenter__(self) -> Self:
        self._sigterm_handler.install()
        try:
            return await self._open()
        except BaseException as error:
            self._sigterm_handler.leave(error)
            raise

    async def _open(self) -> Self:
        global _current
        if _current is not None:
            raise LaunchError("DBOS is launched already: shut it down before launching another in this process.")
        _current = self
        try:
            await self._runtime.open()
        except BaseException:
            _current = None
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _current
        try:
            await self._runtime.close()
        finally:
            if _current is self:
                _current = None
            self._sigterm_handler.leave(error)

    @staticmethod
    @takes_options
    async def launch(url: str | None = None, **options: Unpack[Options]) -> DBOS:
        """Launch DBOS where a context manager does not fit. `DBOS.shutdown` ends it, and the program handles signals itself.

        URL, options and errors are those of `DBOS`.

        Example:
            ```python
            dbos = await DBOS.launch("postgresql://localhost/shop", max_running=100)
            await DBOS.shutdown()
            ```
        """
        return await DBOS(url, **options)._open()

    @staticmethod
    async def shutdown() -> None:
        """Stop the runs, give their workflows back to other executors, and close everything. A no-op when nothing is launched.

        Example:
            ```python
            await DBOS.launch()
            await DBOS.shutdown()
            ```
        """
        if _current is not None:
            _current._runtime.check_loop()
            await _current.__aexit__(None, None, None)

    @staticmethod
    async def health() -> Health:
        """How the launched DBOS stands: its database, listener, lease and services. Takes at most some seconds, also in an outage.

        Raises `LaunchError` when DBOS is not launched. `Health` explains what is answered.

        Example:
            ```python
            health = await DBOS.health()
            assert health.ok, health.reasons
            ```
        """
        if _current is None:
            raise launched.not_launched()
        _current._runtime.check_loop()
        return await _current._runtime.health()

    @staticmethod
    def workflow(name: str | None = None, max_recovery_attempts: int | None = 50) -> WorkflowDecorator:
        """Register an ``async def`` as a workflow: called, it runs durably, and after a crash it continues from its last step.

        Executors find it by its ``name`` (``None``: its qualified name) after a restart. When executors die under a workflow more
        than ``max_recovery_attempts`` times in a row without recording a new step, the workflow is parked (``None``: never).

        Static and class methods work, too, and methods of objects that `register_instance` has registered. A decorator that has
        made a ``def`` of an ``async def`` needs `functools.wraps`.

        Raises `InvalidArgumentError` when an option cannot be used, `RegistrationError` when the function cannot be a workflow
        (no coroutine, a generator, a bound method), or when another function has the name.

        Example:
            ```python
            @DBOS.workflow(name="greet")
            async def greet(name: str) -> str:
                return f"Hello, {name}!"

            assert await greet("Ada") == "Hello, Ada!"
            ```
        """
        if callable(name) or isinstance(name, classmethod):
            raise InvalidArgumentError("@DBOS.workflow needs its parentheses: write @DBOS.workflow().")
        return WorkflowDecorator(check_optional_key(name, "name"), check_recovery_attempts(max_recovery_attempts))

    @staticmethod
    def step(
        name: str | None = None,
        retries_allowed: bool = False,
        max_attempts: int = DEFAULT_ATTEMPTS,
        interval_seconds: float = 1.0,
        backoff_rate: float = 2.0,
        timeout_seconds: float | None = None,
        *,
        retry_on: RetryOn | None = None,
        max_interval_seconds: float | None = None,
        jitter: bool = False,
        max_concurrent: int | None = None,
    ) -> StepDecorator:
        """Register an ``async def`` or ``def`` as a step: a workflow records its result or exception and does not run it again.

        A ``def`` runs in a thread and is awaited like any other step. A record knows the step by its ``name`` (``None``: the
        qualified name of the function). An attempt that takes longer than ``timeout_seconds`` (``None``: no limit) raises
        `StepTimeoutError`. ``max_concurrent`` is how many attempts of it run in this process at once (``None``: any number); the
        others wait for their turn, first come, first served.

        With ``retries_allowed`` it is tried up to ``max_attempts`` times, and the last exception is the step's:

        - ``retry_on`` says after which exceptions: a type, several, or a function that answers True or False for one, which may
          be an ``async def`` (``None``: all but `InvalidValueError`). After any other exception the step ends at once.
        - The first pause takes ``interval_seconds``, each next one ``backoff_rate`` times as long, but at most
          ``max_interval_seconds`` (``None``: no maximum). With ``jitter`` it is a random part of that, from one half to the whole.
        - A step that raises `RetryAfter` is tried again after the time that it names, which counts as no attempt.

        Options of retries without ``retries_allowed`` do nothing, and a ``UserWarning`` says so.

        Raises `InvalidArgumentError` when an option cannot be used, and `RegistrationError` when the function cannot be a step
        (a generator, a lambda without a ``name``), or when another function has the name.

        Example:
            ```python
            @DBOS.step(retries_allowed=True, max_attempts=5, retry_on=OSError, timeout_seconds=10)
            def charge(cents: int) -> str:
                return f"charged {cents} cents"

            @DBOS.workflow()
            async def checkout() -> str:
                return await charge(1250)

            assert await checkout() == "charged 1250 cents"
            ```
        """
        if callable(name) or isinstance(name, classmethod):
            raise InvalidArgumentError("@DBOS.step needs its parentheses: write @DBOS.step().")
        options = step_options(
            name, retries_allowed, max_attempts, interval_seconds, backoff_rate, timeout_seconds,
            retry_on, max_interval_seconds, jitter, max_concurrent,
        )  # fmt: skip
        return StepDecorator(*options)


_current: DBOS | None = None
