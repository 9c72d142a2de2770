"""What is registered is checked where it is written, or when DBOS launches, and never at its first result: promise D5."""

from __future__ import annotations

import logging
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from dbos_async import DBOS, DBOSClient, DBOSError, InvalidArgumentError, InvalidCallError, RegistrationError
from dbos_async._workflows import registry
from tests.support.wrong_values import Mute, Shouts

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForTypeCheckers

ACTS: list[str] = []


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What cannot be resolved would fail the launches of other tests."""
    names, signatures = dict(registry.registered), set(registry.step_signatures)
    ACTS.clear()
    yield
    registry.registered.clear()
    registry.registered.update(names)
    for signature in set(registry.step_signatures) - signatures:
        registry.step_signatures.discard(signature)


def workflow_of_unknown_result() -> Any:
    @DBOS.workflow(name="of an unknown result")
    async def unresolved() -> OnlyForTypeCheckers:
        ACTS.append("ran")
        raise AssertionError

    return unresolved


def workflow_of_unknown_argument() -> Any:
    @DBOS.workflow(name="of an unknown argument")
    async def unresolved(cents: OnlyForTypeCheckers | None = None) -> None:
        ACTS.append("ran")

    return unresolved


def step_of_unknown_result() -> Any:
    @DBOS.step(name="step of an unknown result")
    async def unresolved() -> OnlyForTypeCheckers:
        ACTS.append("ran")
        raise AssertionError

    @DBOS.workflow(name="awaits it")
    async def awaits() -> None:
        await unresolved()

    return awaits


def thread_step_of_unknown_result() -> Any:
    @DBOS.step(name="thread step of an unknown result")
    def unresolved() -> list[OnlyForTypeCheckers]:
        ACTS.append("ran")
        return []

    @DBOS.workflow(name="awaits a thread")
    async def awaits() -> None:
        await unresolved()

    return awaits


UNRESOLVED = [
    workflow_of_unknown_result,
    workflow_of_unknown_argument,
    step_of_unknown_result,
    thread_step_of_unknown_result,
]


@pytest.mark.parametrize("register", UNRESOLVED)
async def test_d5_an_annotation_that_nothing_resolves_is_told_at_launch(
    database_url: str, register: Callable[[], Any], connection: Any
) -> None:
    registered = register()
    with pytest.raises(RegistrationError, match="OnlyForTypeCheckers.* is not defined"):
        async with DBOS(database_url):
            pass
    assert await connection.fetchval("select count(*) from dbos_async.executors") == 0
    del registered
    _drop_unresolved()
    async with DBOS(database_url):
        pass  # nothing of the launch that failed is left


def _drop_unresolved() -> None:
    for signature in list(registry.step_signatures):
        try:
            signature.resolve()
        except RegistrationError:
            registry.step_signatures.discard(signature)
    for name, workflow in list(registry.registered.items()):
        try:
            workflow.signature.resolve()
        except RegistrationError:
            del registry.registered[name]


@pytest.mark.parametrize("register", UNRESOLVED)
async def test_d5_after_the_launch_it_is_told_before_anything_is_done(dbos: DBOS, register: Callable[[], Any]) -> None:
    registered = register()
    for _ in range(2):
        with pytest.raises(RegistrationError, match="OnlyForTypeCheckers.* is not defined"):
            await registered()
    assert ACTS == []
    for found in await DBOS.list_workflows():
        assert await DBOS.list_workflow_steps(found.workflow_id) == []


@pytest.mark.parametrize("register", UNRESOLVED[:2])
async def test_d5_a_workflow_that_a_client_starts_does_nothing_either(
    dbos: DBOS, database_url: str, register: Callable[[], Any]
) -> None:
    name = register().name
    async with DBOSClient(database_url) as client:
        handle = await client.start_workflow(name)
        with pytest.raises(RegistrationError, match="OnlyForTypeCheckers.* is not defined"):
            await handle.get_result()
    assert ACTS == []


@pytest.mark.parametrize("decorator", [DBOS.workflow, DBOS.step])
@pytest.mark.parametrize("wrong", [5, None, "x", object(), Mute(), Shouts()])
def test_d5_what_is_no_function_is_refused_where_it_is_decorated(decorator: Any, wrong: Any) -> None:
    with pytest.raises(RegistrationError) as raised:
        decorator()(wrong)
    assert str(raised.value).isprintable()
    assert str(raised.value).endswith(".")


@pytest.mark.parametrize("decorator", [DBOS.workflow, DBOS.step])
def test_d5_the_name_of_a_function_must_be_a_name(decorator: Any) -> None:
    async def function() -> None: ...

    function.__qualname__ = "x" * 513
    with pytest.raises(InvalidArgumentError, match="name of a (workflow|step) must have at most 512 characters"):
        decorator()(function)


async def test_d5_without_a_limit_of_recoveries_a_workflow_is_never_parked(dbos: DBOS) -> None:
    @DBOS.workflow(name="never parked", max_recovery_attempts=None)
    async def never() -> int:
        return 1

    assert await never() == 1
    assert never.max_recovery_attempts == 2**31 - 1


@pytest.mark.parametrize(
    "options", [{"max_attempts": 5}, {"max_attempts": 3}, {"interval_seconds": 2}, {"backoff_rate": 1.5}]
)
def test_d5_retries_that_are_not_allowed_are_told_where_they_are_written(options: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="add retries_allowed=True") as told:
        DBOS.step(**options)
    assert [each.filename for each in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DBOS.step(retries_allowed=True, **options)
        DBOS.step(retries_allowed=False)
        DBOS.step(max_attempts=1, interval_seconds=1, backoff_rate=2)


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[DBOSClient]:
    async with DBOSClient(database_url) as opened:
        yield opened


def warned(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(record.levelno == logging.WARNING and text in record.getMessage() for record in caplog.records)


async def test_w10_a_client_hears_once_of_a_name_that_nobody_knows_and_the_status_says_so(
    dbos: DBOS, client: DBOSClient, caplog: pytest.LogCaptureFixture
) -> None:
    @DBOS.workflow(name="known later")
    async def later(n: int) -> int:
        return n

    handles = [await client.start_workflow("nobody knows it", 1) for _ in range(3)]
    assert warned(caplog, "No live executor knows a workflow named 'nobody knows it'") == 1
    for handle in handles:
        status = await handle.get_status()
        assert (status.status, status.unclaimable) == ("PENDING", True)
    assert [each.workflow_id for each in await client.list_workflows(unclaimable=True)] == [
        each.workflow_id for each in handles
    ]
    assert all(each.unclaimable for each in await client.list_workflows())


async def test_w10_a_name_that_is_known_is_not_told(
    database_url: str, client: DBOSClient, caplog: pytest.LogCaptureFixture
) -> None:
    @DBOS.workflow(name="known")
    async def known(n: int) -> int:
        return n

    async with DBOS(database_url, application_version="2"):
        handle = await client.start_workflow("known", 1)
        assert await handle.get_result() == 1
        assert await (await client.start_workflow(known, 2)).get_result() == 2
        assert not (await handle.get_status()).unclaimable
        assert warned(caplog, "No live executor") == 0
        async with DBOSClient(database_url, application_version="1") as other:
            handle = await other.start_workflow("known", 1)
            assert (await handle.get_status()).unclaimable
        assert warned(caplog, "No live executor knows a workflow named 'known' of version '1'") == 1


async def test_d5_arguments_that_a_function_does_not_take_are_heard_of(
    dbos: DBOS, client: DBOSClient, caplog: pytest.LogCaptureFixture
) -> None:
    @DBOS.workflow(name="takes one")
    async def takes_one(cents: int) -> int:
        return cents

    handle = await client.start_workflow("takes one", 1, 2)
    assert warned(caplog, "The workflow 'takes one' will fail") == 1
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        await handle.get_result()
    assert (await handle.get_status()).status == "ERROR"
    for start in (client.start_workflow, DBOS.start_workflow):
        with pytest.raises(InvalidCallError, match="cannot be called with these arguments: missing a required"):
            await start(takes_one)  # type: ignore[call-overload]  # the mistake under test
    assert isinstance(InvalidCallError("x"), TypeError)
    assert len(await DBOS.list_workflows()) == 1


async def test_d5_in_a_workflow_a_wrong_argument_is_an_error_like_any(dbos: DBOS) -> None:
    @DBOS.workflow(name="catches wrong arguments")
    async def catches() -> list[str]:
        said: list[str] = []
        for call in (
            lambda: DBOS.list_workflows(name="a\0b"),
            lambda: DBOS.fork_workflow("x", 2**31),
            lambda: DBOS.fork_workflow("no such", 1),
        ):
            try:
                await call()
            except DBOSError as error:
                said.append(str(error))
        await DBOS.list_workflows(limit=0)
        return said

    handle = await DBOS.start_workflow(catches)
    with pytest.raises(InvalidArgumentError, match="limit must be a whole number of at least 1 and is 0"):
        await handle.get_result()
    assert (await handle.get_status()).status == "ERROR"
