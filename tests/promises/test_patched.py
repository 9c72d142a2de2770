"""Changed code in running workflows: which way `DBOS.patched` sends them, and that every replay goes it again (W4)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSError,
    InvalidArgumentError,
    LaunchError,
    WorkflowEndedError,
    WrongPlaceError,
)
from tests.support.eventually import eventually
from tests.support.patched import (
    CODE,
    PLACES,
    RAN,
    become,
    deployed,
    end_of,
    endless,
    is_patched,
    line,
    note,
    outputs,
    patches_of,
    reaches,
    start,
    tasks,
    way,
)


@pytest.fixture(autouse=True)
def _clean() -> None:
    CODE["is"] = "old"
    RAN.clear()


@pytest.mark.parametrize("waits_at", [2, 4])
@pytest.mark.parametrize("place", range(5))
async def test_w4_a_workflow_goes_the_new_way_only_where_nothing_is_recorded_behind_it(
    place: int, waits_at: int, database_url: str
) -> None:
    async with deployed(database_url, "old"):
        await start(line, place)
        if waits_at == 4:
            await DBOS.send("w", "a", "go")
        await reaches("w", str(waits_at))
    is_new = place >= waits_at
    for _ in range(2):
        async with deployed(database_url, "new"):
            if waits_at == 2:
                await DBOS.send("w", "a", "go")
                waits_at = 4
            await reaches("w", "5" if is_new and place < 4 else "4")
    async with deployed(database_url, "new"):
        assert await end_of("w", "b") == way(place, is_new=is_new)
        assert await patches_of() == (("extra",) if is_new else ())


@pytest.mark.parametrize("place", range(5))
async def test_w4_new_code_goes_the_new_way_from_the_start_and_in_every_replay(place: int, database_url: str) -> None:
    async with deployed(database_url, "new"):
        await start(line, place)
        await reaches("w", "3" if place <= 1 else "2")
    for code in ("new", "last"):
        async with deployed(database_url, code):
            await reaches("w", "3" if place <= 1 else "2")
    async with deployed(database_url, "last"):
        await DBOS.send("w", "a", "go")
        await reaches("w", "5" if place <= 3 else "4")
        assert await end_of("w", "b") == way(place, is_new=True)
    assert RAN.count("new way") == 1


@pytest.mark.parametrize("where", PLACES)
async def test_w4_tasks_of_a_workflow_that_is_under_way_go_one_way(where: str, database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(tasks, where)
        await reaches("w", "0.1.2")
        await reaches("w", "0.2.2")
        await DBOS.send("w", "for a", "a")
        await reaches("w", "0.1.3")
    for _ in range(2):
        async with deployed(database_url, "new"):
            await reaches("w", "0.2.2")
    async with deployed(database_url, "new"):
        await DBOS.send("w", "for b", "b")
        main, a, b = await end_of("w", "now")
    assert main == (["new way of main", "now"] if where == "behind the tasks" else ["now"])
    assert a == ["a1", "for a", "a2"]
    assert b == ["b1", "for b", "b2"]


@pytest.mark.parametrize("where", PLACES)
async def test_w4_tasks_go_the_new_way_again_in_every_replay(where: str, database_url: str) -> None:
    async with deployed(database_url, "new"):
        await start(tasks, where)
        await DBOS.send("w", "for b", "b")
        last = "3" if where == "behind the wait of a task" else "2"
        await reaches("w", f"0.2.{last}" if where != "before the tasks" else f"1.2.{last}")
        recorded = await outputs("w")
    async with deployed(database_url, "new"):
        await DBOS.send("w", "for a", "a")
        recorded |= await outputs("w")
    async with deployed(database_url, "last"):
        main, a, b = await end_of("w", "now")
    is_in = where.endswith("a task")
    assert main == (["now"] if is_in else ["new way of main", "now"])
    for name, seen in (("a", a), ("b", b)):
        assert [each for each in seen if not each.startswith("new")] == [f"{name}1", f"for {name}", f"{name}2"]
        assert seen.count(f"new way of {name}") == is_in
    assert len(set(RAN)) == (6 if is_in else 5)
    assert [RAN.count(each) for each in recorded] == [1] * len(recorded)


@DBOS.workflow(name="patched at the end of one task")
async def one_ahead() -> list[str]:
    """The change comes after the last recorded step of ``a``, at a moment at which ``b`` has recorded more."""
    seen: list[str] = []

    async def a() -> None:
        await DBOS.recv("a", timeout_seconds=None)
        if is_patched():
            seen.append("new way of a")
        await asyncio.Event().wait()

    async def b() -> None:
        for _ in range(3):
            await DBOS.recv("b", timeout_seconds=None)
            if is_patched():
                await note("new way of b")
            await note("b")

    doing = asyncio.create_task(a())
    await b()
    doing.cancel()
    await asyncio.wait([doing])
    return seen


async def test_w4_the_first_answer_counts_and_looks_at_all_tasks(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(one_ahead)
        await DBOS.send("w", 1, "a")
        await reaches("w", "0.1.1")
        await DBOS.send("w", 1, "b")
        await reaches("w", "3")
    async with deployed(database_url, "new"):
        for _ in range(2):
            await DBOS.send("w", 1, "b")
        assert await end_of() == []
    assert RAN == ["b", "b", "b"]


@DBOS.workflow(name="patched in a loop")
async def loop() -> list[str]:
    seen: list[str] = []
    while (said := await DBOS.recv("go", timeout_seconds=None)) != "stop":
        seen.append(await note(f"new {said}" if is_patched() else f"old {said}"))
    return seen


async def test_w4_a_loop_goes_on_as_it_began(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(loop, workflow_id="old")
        await DBOS.send("old", "1", "go")
        await reaches("old", "3")
    async with deployed(database_url, "new"):
        await start(loop, workflow_id="new")
        for workflow_id in ("old", "new"):
            await DBOS.send(workflow_id, "2", "go")
        await reaches("old", "5")
        await reaches("new", "3")
    async with deployed(database_url, "new"):
        assert await end_of("old", "3", "stop") == ["old 1", "old 2", "old 3"]
        assert await end_of("new", "3", "stop") == ["new 2", "new 3"]


@DBOS.workflow(name="patched twice")
async def twice() -> list[bool]:
    seen = []
    if CODE["is"] == "new":
        seen.append(DBOS.patched("first"))
    await DBOS.recv("go", timeout_seconds=None)
    if CODE["is"] == "new":
        seen += [DBOS.patched("first"), DBOS.patched("second"), DBOS.patched("second")]
    await DBOS.recv("go", timeout_seconds=None)
    if CODE["is"] == "new":
        seen += [DBOS.patched("third"), DBOS.patched("second"), DBOS.patched("first")]
    return seen


async def test_w4_each_name_has_one_answer_in_a_workflow(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(twice)
        await reaches("w", "1")
    async with deployed(database_url, "new"):
        await DBOS.send("w", "1", "go")
        await reaches("w", "2")
        assert await patches_of() == ("second",)
    async with deployed(database_url, "new"):
        assert await end_of("w", "2") == [False, False, True, True, True, True, False]
        assert await patches_of() == ("second", "third")


@DBOS.workflow(name="patched only to tell")
async def only_asks() -> bool:
    return DBOS.patched("tells")


async def test_w4_what_was_answered_last_is_stored_with_the_end(database_url: str) -> None:
    async with deployed(database_url, "new"):
        assert await (await start(only_asks)).get_result()
        assert await patches_of() == ("tells",)


@DBOS.workflow(name="patched where a body had run")
async def body_had_run() -> str:
    if is_patched():
        return await note("new way")
    RAN.append("old body")
    return await endless()


async def test_w4_a_step_that_ran_and_was_not_recorded_leaves_the_workflow_free(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(body_had_run)
        await eventually(lambda: "endless body" in RAN)
    async with deployed(database_url, "new"):
        assert await end_of() == "new way"


@DBOS.workflow(name="patched after a mismatch")
async def mismatched() -> list[str]:
    seen = [await note("one")]
    if CODE["is"] == "careless" or is_patched():
        seen.append(await DBOS.recv("vat", timeout_seconds=1))
    seen.append(await DBOS.recv("go", timeout_seconds=None))
    return seen


async def test_w4_a_workflow_that_careless_code_has_parked_goes_on_with_patched(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(mismatched)
        await reaches("w", "2")
    async with deployed(database_url, "careless"):
        await become("w", "REPLAY_MISMATCH")
    async with deployed(database_url, "new"):
        await DBOS.resume_workflow("w")
        await start(mismatched, workflow_id="v")
        await reaches("v", "2")
        assert await end_of("w", "now") == ["one", "now"]
    async with deployed(database_url, "new"):
        await DBOS.cancel_workflow("v")
    async with deployed(database_url, "new"):
        await DBOS.resume_workflow("v")
        await DBOS.send("v", "DE1", "vat")
        assert await end_of("v", "now") == ["one", "DE1", "now"]


@DBOS.step(name="asks in a step whether it is patched")
async def asks_in_a_step() -> bool:
    return DBOS.patched("in a step")


async def asks_in_a_thread() -> bool:
    return await asyncio.to_thread(DBOS.patched, "in a thread")


@DBOS.workflow(name="patched from wrong places")
async def wrong_places(outlives: list[Any] | None = None) -> list[str]:
    said: list[str] = []
    asks: list[Callable[[], Awaitable[bool]]] = [asks_in_a_step, asks_in_a_thread]
    for ask in asks:
        try:
            await ask()
        except DBOSError as error:
            said.append(str(error))
    OUTLIVING.append(asyncio.create_task(asks_later()))
    return said


OUTLIVING: list[asyncio.Task[bool]] = []
IS_OVER = asyncio.Event()


async def asks_later() -> bool:
    await IS_OVER.wait()
    return DBOS.patched("too late")


async def test_w4_patched_says_where_it_works(database_url: str) -> None:
    with pytest.raises(LaunchError):
        DBOS.patched("not launched")
    OUTLIVING.clear()
    IS_OVER.clear()
    async with deployed(database_url, "new"):
        with pytest.raises(
            WrongPlaceError, match="patched works in workflows only and was called outside of workflows"
        ):
            DBOS.patched("outside")
        for name in ("", "x" * 513, "a\0b", 5, None, True):
            with pytest.raises(InvalidArgumentError, match="name"):
                DBOS.patched(name)  # type: ignore[arg-type]  # what is wrong with it
        said = await (await start(wrong_places)).get_result()
        assert (
            said[0]
            == "patched works in workflows only and was called inside a step: call it from the body of a workflow."
        )
        assert said[1].startswith("DBOS was launched in another event loop")
        IS_OVER.set()
        (late,) = await asyncio.gather(*OUTLIVING, return_exceptions=True)
        assert isinstance(late, WorkflowEndedError)
        assert await patches_of() == ()


@DBOS.workflow(name="patched after many tasks")
async def many_tasks(count: int) -> bool:
    async def work(number: int) -> None:
        await note(f"task {number}")
        if number == count // 2:
            await DBOS.recv("go", timeout_seconds=None)

    doing = [asyncio.create_task(work(number)) for number in range(count)]
    is_new = is_patched("before the end of the tasks")
    await asyncio.wait(doing)
    return is_new


@pytest.mark.parametrize("count", [99, 100, 150])
async def test_w4_one_of_many_tasks_that_is_past_the_call_sends_all_the_old_way(count: int, database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(many_tasks, count)
        await reaches("w", f"0.{count // 2 + 1}.2")
    async with deployed(database_url, "new"):
        await start(many_tasks, count, workflow_id="v")
        assert not await end_of("w", "now")
        assert await end_of("v", "now")
