"""Every argument is checked where it is given: promise D5."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from enum import Enum, IntEnum, StrEnum
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dbos_async
from dbos_async import (
    DBOS,
    DBOSClient,
    DBOSError,
    InvalidArgumentError,
    InvalidValueError,
    LaunchError,
    NotAnsweredError,
    RegistrationError,
    SendMessage,
    SetWorkflowID,
    Topic,
    WorkflowHandle,
    WrongPlaceError,
    embedded,
    fastapi,
    page,
)
from tests.support import arguments
from tests.support.arguments import Entry, surface, unplaced
from tests.support.eventually import eventually
from tests.support.wrong_values import FIRST, LAST, LIVES, Mute, Shouts

SURFACE = surface()
REFUSED = (InvalidArgumentError, InvalidValueError, RegistrationError)
"""What a wrong argument raises: never the error of a wrong place, which would hide it."""

Work = Callable[[], Awaitable[Any]]
Place = asyncio.Queue[tuple[Work, "asyncio.Future[Any]"]]
PLACES: dict[str, Place] = {}


async def work_off(place: Place) -> None:
    while True:
        work, done = await place.get()
        try:
            done.set_result(await work())
        except Exception as error:
            done.set_exception(error)


@DBOS.workflow(name="a workflow that calls")
async def in_workflow() -> None:
    await work_off(PLACES["workflow"])


@DBOS.step(name="a step that calls")
async def in_step() -> None:
    await work_off(PLACES["step"])


@DBOS.workflow(name="a workflow whose step calls")
async def in_step_of_workflow() -> None:
    await in_step()


async def call_in(place: str, work: Work) -> Any:
    if place == "outside":
        return await work()
    done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    PLACES[place].put_nowait((work, done))
    return await done


@DBOS.workflow(name="has an event and a stream")
async def lives() -> int:
    await DBOS.set_event("key", 1)
    await DBOS.write_stream("key", 1)
    return 1


class Ground:
    """A launched DBOS, a client, a workflow that has ended, and callers in a workflow and in a step."""

    def __init__(self, client: DBOSClient, handle: WorkflowHandle[Any], connection: Any) -> None:
        self.owners: dict[str, Any] = {"DBOS": DBOS, "DBOSClient": client, "WorkflowHandle": handle}
        self.owners |= {"fastapi": fastapi, "embedded": embedded, "page": page}
        self._connection = connection

    def call(self, entry: Entry, parameter: str | None = None, value: Any = None) -> Any:
        """Call the function with right arguments, but for this parameter."""
        owner, _, name = entry.name.rpartition(".")
        function = getattr(self.owners[owner] if owner else arguments, name)
        args, kwargs = entry.arguments(parameter, value)
        return function(*args, **kwargs)

    async def finish(self, result: Any) -> Any:
        """Wait for what a call returned, as users do."""
        if inspect.isasyncgen(result):
            with suppress(StopAsyncIteration):
                await anext(result)
            return await result.aclose()
        return await result if inspect.isawaitable(result) else result

    async def outcome(self, entry: Entry, parameter: str, value: Any, place: str = "outside") -> BaseException | None:
        """The error that such a call raises in this place, ``None`` if it is taken."""

        async def work() -> None:
            await self.finish(self.call(entry, parameter, value))

        try:
            async with asyncio.timeout(5):
                await call_in(place, work)
        except Exception as error:
            return error
        return None

    async def stored(self) -> list[Any]:
        """All rows of the tables."""
        tables = ("workflows", "steps", "messages", "delayed_messages", "events", "stream_entries")
        parts = [
            f"(select md5(string_agg(t::text, '|' order by t::text)) from dbos_async.{table} as t)" for table in tables
        ]
        return list(await self._connection.fetchrow(f"select {', '.join(parts)}"))


@asynccontextmanager
async def ground(url: str) -> AsyncIterator[Ground]:
    PLACES.update(workflow=asyncio.Queue(), step=asyncio.Queue())
    connection = await asyncpg.connect(url)
    async with DBOS(url), DBOSClient(url) as client:
        with SetWorkflowID(LIVES):
            handle = await DBOS.start_workflow(lives)
        await handle.get_result()
        callers = [await DBOS.start_workflow(each) for each in (in_workflow, in_step_of_workflow)]
        made = Ground(client, handle, connection)
        for place in PLACES:
            await call_in(place, DBOS.health)  # both are at work
        await eventually(lambda: _is_still(made))
        yield made
        for each in callers:
            await DBOS.cancel_workflow(each.workflow_id)
    await connection.close()


async def _is_still(made: Ground) -> bool:
    before = await made.stored()
    await asyncio.sleep(0.05)
    return before == await made.stored()


def problem_of(error: BaseException | None, entry: Entry, parameter: str, value: Any) -> str | None:
    """What is wrong with how a call ended; ``None`` if it raised a sentence of ours."""
    what = f"{entry.name}({parameter}={type(value).__name__} {ascii_of(value)})"
    if error is None:
        return f"{what} was taken"
    if not isinstance(error, DBOSError | UserWarning):  # warnings are errors here
        return f"{what} raised {error!r:.200}"
    sentence = str(error)
    if not sentence.endswith(".") or not sentence.isprintable() or len(sentence) > 1500:
        return f"{what} says {sentence!r:.300}"
    return None


def ascii_of(value: object) -> str:
    try:
        return ascii(value)[:60]
    except Exception:
        return "?"


def test_d5_the_public_surface_is_known_to_the_tests_of_its_arguments() -> None:
    assert unplaced() == [], "say in tests/support/arguments.py what these take"
    called = {name for name, entry in SURFACE.items() if any(entry.wrong(each) for each in entry.parameters)}
    assert set(SURFACE) - called <= {
        "DBOS.continue_as_new",
        "DBOS.count_messages",
        "DBOS.health",
        "DBOS.list_executors",
        "DBOS.now",
        "DBOS.random",
        "DBOS.shutdown",
        "DBOS.uuid",
        "DBOSClient.count_messages",
        "DBOSClient.list_executors",
        "WorkflowHandle.get_result",
        "WorkflowHandle.get_status",
    }


def test_d5_a_new_public_function_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def added(workflow_id: str, surprise: int) -> None: ...

    for owner in (DBOS, DBOSClient, WorkflowHandle):
        monkeypatch.setattr(owner, "added", staticmethod(added), raising=False)
    added.__module__ = fastapi.__name__
    monkeypatch.setattr(fastapi, "added", added, raising=False)
    monkeypatch.setattr(dbos_async, "added", added, raising=False)
    monkeypatch.setattr(dbos_async, "__all__", [*dbos_async.__all__, "added"])
    owners = ("DBOS", "DBOSClient", "WorkflowHandle", "fastapi")
    assert sorted(unplaced()) == sorted(["added", *(f"{owner}.added(surprise=)" for owner in owners)])


async def test_d5_every_wrong_argument_is_refused_in_one_sentence_and_stores_nothing(database_url: str) -> None:
    problems: list[str] = []
    async with ground(database_url) as made:
        before = await made.stored()
        for entry in SURFACE.values():
            for parameter in entry.parameters:
                for value in entry.wrong(parameter):
                    for place in ("outside", *PLACES) if entry.name.startswith("DBOS.") else ("outside",):
                        error = await made.outcome(entry, parameter, value, place)
                        problem = problem_of(error, entry, parameter, value)
                        # Whether a value fits is asked once it is known that it may be written here.
                        expected = (*REFUSED, WrongPlaceError) if parameter == "value" else REFUSED
                        if problem is None and not isinstance(error, expected):
                            problem = f"{entry.name}({parameter}=) raised {error!r:.200} {place}"
                        problems += [problem] if problem else []
        assert not problems, f"{len(problems)}:\n" + "\n".join(problems)
        assert await made.stored() == before


TEXTS = st.text(st.characters(exclude_categories=()), max_size=8) | st.sampled_from(
    ["\0", "\ud800", "x" * 513, "", "lives"]
)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=4) | st.complex_numbers()
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 10**400, -1, float("nan"), float("inf"), LAST, FIRST])
    | st.datetimes() | st.datetimes(timezones=st.timezones()) | st.dates() | st.timedeltas() | st.uuids() | st.decimals()
    | st.fractions() | st.builds(object) | st.builds(Mute) | st.builds(Shouts),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=4,
)  # fmt: skip
CALLS = [
    (entry.name, parameter)
    for entry in SURFACE.values()
    for parameter in entry.parameters
    # Any path of a folder is one, and a server would be made there; and what an endless limit allows would be waited for.
    if not entry.name.startswith("embedded.")
    and parameter not in ("args", "kwargs", "streams", "waits")
    and entry.name != "DBOS.sleep"
]


async def test_d5_whatever_is_passed_is_taken_or_refused_in_one_sentence(database_url: str) -> None:
    async with ground(database_url) as made:
        loop = asyncio.get_running_loop()

        async def check(name: str, parameter: str, value: Any) -> str | None:
            entry = SURFACE[name]
            for is_still in (False, True):  # A fork that an earlier call has made may run meanwhile.
                if is_still:
                    await eventually(lambda: _is_still(made))
                before = await made.stored()
                error = await made.outcome(entry, parameter, value)
                if error is None or isinstance(error, NotAnsweredError | UserWarning):  # it was taken
                    return None
                problem = problem_of(error, entry, parameter, value)
                if problem or before == await made.stored():
                    return problem
            return f"{name}({parameter}={ascii_of(value)}) has stored something"

        @settings(deadline=None, max_examples=1500, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(CALLS), ANYTHING)
        def property_(call: tuple[str, str], value: Any) -> None:
            problem = asyncio.run_coroutine_threadsafe(check(*call, value), loop).result()
            assert problem is None, problem

        await asyncio.to_thread(property_)


def in_another_loop(work: Work) -> BaseException | None:
    """What this raises in an event loop of another thread."""
    found: list[BaseException | None] = [None]

    async def run() -> None:
        async with asyncio.timeout(5):
            await work()

    def start() -> None:
        try:
            asyncio.run(run())
        except Exception as error:
            found[0] = error

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    return found[0]


LOOPLESS = {"DBOS", "DBOSClient", "DBOS.step", "DBOS.workflow", "fastapi.lifespan", "fastapi.add_error_handlers"}
LOOPLESS |= {
    "DBOS.transaction",
    "fastapi.client_lifespan",
    "fastapi.add_health_routes",
    "page.page",
    "DBOS.register_instance",
    "embedded.start",
    "embedded.join",
    "DBOS.run_step",  # outside of workflows it is a plain call
    *(each.__name__ for each in arguments.CONSTRUCTORS),
}
"""What belongs to no event loop."""


async def test_d6_every_verb_raises_one_sentence_in_another_event_loop(database_url: str) -> None:
    problems: list[str] = []
    async with ground(database_url) as made:
        before = await made.stored()
        for name in SURFACE.keys() - LOOPLESS:

            async def work(entry: Entry = SURFACE[name]) -> None:
                await made.finish(made.call(entry))

            error = await asyncio.to_thread(in_another_loop, work)
            expected = LaunchError if name == "DBOS.launch" else WrongPlaceError
            problem = problem_of(error, SURFACE[name], "", None)
            problems += [problem or f"{name} raised {error!r}"] if problem or not isinstance(error, expected) else []
        reading = DBOS.read_stream(LIVES, "key")
        assert isinstance(in_another_loop(lambda: anext(reading)), WrongPlaceError)
        for name in ("DBOS.read_stream", "DBOSClient.read_stream"):
            with pytest.raises(WrongPlaceError):
                await asyncio.to_thread(made.call, SURFACE[name])  # in a thread without any loop
        assert not problems, "\n".join(problems)
        assert await made.stored() == before


class Colour(StrEnum):
    RED = "red"


class Mixed(str, Enum):  # noqa: UP042  # the enum whose str() is not its text
    RED = "red"


class Number(IntEnum):
    ONE = 1


async def test_d5_subclasses_are_taken_as_the_plain_values_that_they_are(database_url: str, connection: Any) -> None:
    @DBOS.workflow(name=Mixed.RED)
    async def red() -> Any:
        await DBOS.set_event(Mixed.RED, 1)
        await DBOS.write_stream(Mixed.RED, 2)
        seen = [await DBOS.recv(Mixed.RED, Number.ONE), await DBOS.get_event(Mixed.RED, Mixed.RED)]
        return [
            *seen,
            [value async for value in DBOS.read_stream(Mixed.RED, Colour.RED, offset=Number.ONE, timeout_seconds=0)],
        ]

    async with DBOS(database_url, executor_id=Mixed.RED):
        with SetWorkflowID(Mixed.RED):
            handle = await DBOS.start_workflow(red)
        await DBOS.send(Mixed.RED, 3, Mixed.RED, idempotency_key=Colour.RED)
        await DBOS.send_bulk([SendMessage(Colour.RED, 4, Topic(Mixed.RED, int), idempotency_key=Mixed.RED)])
        with suppress(DBOSError):
            await handle.get_result()
        assert [each.workflow_id for each in await DBOS.list_workflows(name=Mixed.RED, id_prefix=Mixed.RED)] == ["red"]
        assert (await DBOS.get_all_events(Mixed.RED), handle.workflow_id) == ({"red": 1}, "red")
    keys = await connection.fetch("select key from dbos_async.steps where workflow_id = 'red' order by number")
    assert [key for (key,) in keys] == ["red", "red", "red", "red of red", "red of red"]
    assert await connection.fetchval("select count(*) from dbos_async.messages") == 1
