"""Changed code in running workflows: which way `DBOS.patched` sends them, and that every replay goes it again (W4)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dbos_async import (
    DBOS,
    DBOSError,
    InvalidArgumentError,
    LaunchError,
    SetWorkflowID,
    WorkflowEndedError,
    WorkflowHandle,
    WrongPlaceError,
)
from dbos_async._runs.step import RECORD
from tests.conftest import Connect
from tests.support.eventually import eventually
from tests.support.statements import execute

CODE = {"is": "old"}
RAN: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    CODE["is"] = "old"
    RAN.clear()


@asynccontextmanager
async def deployed(url: str, code: str, version: str | None = None) -> AsyncIterator[None]:
    """One life of the program with this code."""
    CODE["is"] = code
    async with DBOS(url, executor_id="program", drain_seconds=0, application_version=version):
        yield


def is_patched(name: str = "extra") -> bool:
    """What the code asks: the old code does not know of the change, and the last one has forgotten the old way."""
    return CODE["is"] == "last" or (CODE["is"] == "new" and DBOS.patched(name))


@DBOS.step(name="note of patches")
async def note(what: str) -> str:
    RAN.append(what)
    return what


async def reaches(workflow_id: str, step: str) -> None:
    """Wait until a step of the workflow is recorded, or has begun to wait."""

    async def there() -> bool:
        return step in {s.step for s in await DBOS.list_workflow_steps(workflow_id)}

    await eventually(there, f"step {step} of {workflow_id}")


async def become(workflow_id: str, status: str) -> None:
    """Wait until the workflow has this status."""

    async def there() -> bool:
        return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).status == status

    await eventually(there, f"{workflow_id} becomes {status}")


async def start(function: Any, *args: Any, workflow_id: str = "w") -> WorkflowHandle[Any]:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(function, *args)


async def end_of(workflow_id: str = "w", *messages: str) -> Any:
    for message in messages:
        await DBOS.send(workflow_id, message, "go")
    return await (await DBOS.retrieve_workflow(workflow_id)).get_result(timeout_seconds=20)


async def patches_of(workflow_id: str = "w") -> tuple[str, ...]:
    return (await (await DBOS.retrieve_workflow(workflow_id)).get_status()).patches


@DBOS.workflow(name="patched in a line")
async def line(place: int) -> list[str]:
    """Four acts, and at ``place`` the change."""
    seen: list[str] = []
    for number in range(5):
        if number == place:
            seen.append(await note("new way") if is_patched() else "old way")
        if number in (0, 2):
            seen.append(await note(f"act {number}"))
        elif number in (1, 3):
            seen.append(await DBOS.recv("go", timeout_seconds=None))
    return seen


def way(place: int, *, is_new: bool, first: str = "a", second: str = "b") -> list[str]:
    acts = ["act 0", first, "act 2", second]
    acts.insert(place, "new way" if is_new else "old way")
    return acts


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


@DBOS.workflow(name="patched in tasks")
async def tasks(where: str) -> list[list[str]]:
    """Two tasks, which change before or after their first verb, and a main task that changes before and after them."""

    async def work(name: str) -> list[str]:
        seen: list[str] = []
        if where == "before the first verb of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await note(f"{name}1"))
        if where == "behind the first verb of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await DBOS.recv(name, timeout_seconds=None))
        if where == "behind the wait of a task" and is_patched():
            seen.append(await note(f"new way of {name}"))
        seen.append(await note(f"{name}2"))
        return seen

    main: list[str] = []
    if where == "before the tasks" and is_patched():
        main.append(await note("new way of main"))
    found = await asyncio.gather(work("a"), work("b"))
    if where == "behind the tasks" and is_patched():
        main.append(await note("new way of main"))
    main.append(await DBOS.recv("go", timeout_seconds=None))
    return [main, *found]


PLACES = (
    "before the tasks",
    "before the first verb of a task",
    "behind the first verb of a task",
    "behind the wait of a task",
    "behind the tasks",
)


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
    async with deployed(database_url, "new"):
        await DBOS.send("w", "for a", "a")
        await asyncio.sleep(0)
    async with deployed(database_url, "last"):
        main, a, b = await end_of("w", "now")
    is_in = where.endswith("a task")
    assert main == (["now"] if is_in else ["new way of main", "now"])
    for name, seen in (("a", a), ("b", b)):
        assert [each for each in seen if not each.startswith("new")] == [f"{name}1", f"for {name}", f"{name}2"]
        assert seen.count(f"new way of {name}") == is_in
    assert len(RAN) == len(set(RAN)) == (6 if is_in else 5)


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


@DBOS.step()
async def endless() -> str:
    RAN.append("endless body")
    await asyncio.sleep(3600)
    return "old way"


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


async def test_w4_lists_and_counts_tell_which_workflows_may_need_the_old_way(database_url: str) -> None:
    async with deployed(database_url, "old"):
        await start(line, 3, workflow_id="old")
        await reaches("old", "2")
        await DBOS.send("old", "a", "go")
        await reaches("old", "4")
    async with deployed(database_url, "new"):
        await start(line, 3, workflow_id="new")
        await reaches("new", "2")
        assert {one.workflow_id for one in await DBOS.list_workflows(without_patch="extra")} == {"old", "new"}
        await DBOS.send("new", "a", "go")
        await reaches("new", "5")
        chosen: list[tuple[dict[str, Any], list[str]]] = [
            ({"patch": "extra"}, ["new"]),
            ({"without_patch": "extra"}, ["old"]),
        ]
        for filters, ids in chosen:
            for status in (None, "PENDING"):
                found = await DBOS.list_workflows(status=status, **filters)
                assert [one.workflow_id for one in found] == ids
                assert [one.count for one in await DBOS.count_workflows(status=status, **filters)] == [1]
            (newest,) = await DBOS.list_workflows(newest_first=True, workflow_id=["old", "new"], **filters)
            assert newest.patches == (("extra",) if ids == ["new"] else ())
        assert await DBOS.list_workflows(patch="another") == []
        assert await DBOS.list_workflows(patch="extra", without_patch="extra") == []
        await end_of("old", "b")
        assert await DBOS.list_workflows(status="PENDING", without_patch="extra") == []
        for name, text in (("patch", ""), ("without_patch", "a\0b")):
            with pytest.raises(InvalidArgumentError, match=name):
                await DBOS.list_workflows(**{name: text})  # type: ignore[arg-type]  # of all arguments


async def test_w4_names_are_any_text(database_url: str) -> None:
    names = ("a::b", "it's", '"quoted" \\ {}', "🪡 patch", "x" * 512, "?", "null")
    for name in names:
        CODE[name] = "new"

    async with deployed(database_url, "new"):
        await start(asks_for, [*names])
        await reaches("w", "1")
        assert await patches_of() == tuple(sorted(names))
        for name in names:
            assert [one.workflow_id for one in await DBOS.list_workflows(patch=name)] == ["w"]
    async with deployed(database_url, "new"):
        assert await end_of("w", "now") == [True] * 2 * len(names)


@DBOS.workflow(name="patched under many names")
async def asks_for(names: list[str]) -> list[bool]:
    seen = [DBOS.patched(name) for name in names]
    await DBOS.recv("go", timeout_seconds=None)
    return seen + [DBOS.patched(name) for name in names]


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("cut", range(1, 6))
async def test_w4_a_fork_goes_the_way_of_what_it_copies(cut: int, place: int, database_url: str) -> None:
    """Each copy ends with new code, whether the original went the old way or the new one."""
    async with deployed(database_url, "old"):
        await start(line, place, workflow_id="old")
        assert await end_of("old", "a", "b") == way(place, is_new=False)
    async with deployed(database_url, "new"):
        await start(line, place, workflow_id="new")
        assert await end_of("new", "a", "b") == way(place, is_new=True)
        expected = {"old": way(place, is_new=cut <= place + 1), "new": way(place, is_new=True)}
        for original, result in expected.items():
            with SetWorkflowID(f"copy of {original}"):
                copy = await DBOS.fork_workflow(original, cut)
            # What was received behind the cut waits again.
            assert await copy.get_result() == result
    async with deployed(database_url, "new", "1"):
        with SetWorkflowID("later"):
            await DBOS.fork_workflow("new", cut, application_version="2")
        assert await patches_of("later") == (("extra",) if cut > max(place, 1) else ())


async def test_w4_a_fork_cut_in_a_task_goes_the_way_of_what_it_copies(database_url: str) -> None:
    where = "behind the first verb of a task"
    async with deployed(database_url, "new"):
        await start(tasks, where)
        await DBOS.send("w", "for a", "a")
        await reaches("w", "0.1.4")
        await DBOS.send("w", "for b", "b")
        await reaches("w", "1")
        result = await end_of("w", "now")
        for cut in ("1", "2", "0.1.1", "0.1.2", "0.1.3", "0.1.4", "0.2.1", "0.2.2", "0.2.3", "0.2.4", "0.1.5"):
            with SetWorkflowID(f"at {cut}"):
                copy = await DBOS.fork_workflow("w", cut)
            assert await copy.get_result(timeout_seconds=20) == result, cut
    async with deployed(database_url, "old"):
        await start(tasks, where, workflow_id="old")
        await DBOS.send("old", "for a", "a")
        await reaches("old", "0.1.3")
    async with deployed(database_url, "new"):
        for cut, ways in (("0.1.3", 0), ("0.1.1", 2), ("1", 2)):
            with SetWorkflowID(f"old at {cut}"):
                copy = await DBOS.fork_workflow("old", cut)
            await DBOS.send(copy.workflow_id, "for b", "b")
            await DBOS.send(copy.workflow_id, "now", "go")
            _, a, b = await copy.get_result(timeout_seconds=20)
            assert sum("new" in text for text in a + b) == ways, cut


async def test_w4_a_late_row_of_the_run_before_takes_the_answer_back(database_url: str, connect: Connect) -> None:
    """A statement of old code was at the server when new code took the workflow over, and is committed then."""
    async with deployed(database_url, "old"):
        await start(late, 1)
        await eventually(lambda: "endless body" in RAN)
    old = await connect()
    transaction = old.transaction()
    await transaction.start()
    async with deployed(database_url, "old"):
        await eventually(lambda: RAN.count("endless body") == 2)
        (attempt,) = await old.fetchrow("select attempt from dbos_async.workflows where id = 'w'")
        row = "w", attempt, "", 1, "step", "endless", '"old way"', None, 0.0
        (answer,) = await execute(old, RECORD, row)
        assert answer["outcome"] == "done"
    async with deployed(database_url, "new"):
        await eventually(lambda: "new way" in RAN)
        assert await patches_of() == ("extra",)
        await transaction.commit()
        assert await end_of("w", "now") == ["old way", "now"]
        assert await patches_of() == ()
    RAN.clear()
    async with deployed(database_url, "old"):
        await start(late, 1, workflow_id="v")
        await eventually(lambda: "endless body" in RAN)
    async with deployed(database_url, "new"):
        assert await end_of("v", "now") == ["new way", "now"]


@DBOS.workflow(name="patched when a statement was under way")
async def late(number: int) -> list[str]:
    return [
        await note("new way") if is_patched() else await endless(),
        await DBOS.recv("go", timeout_seconds=None),
    ]


async def test_w4_a_late_run_stores_no_name(
    database_url: str, connection: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with deployed(database_url, "new"):
        for gate in (ASKED, TOLD):
            gate.clear()
        await start(asks_when_told)
        await eventually(ASKED.is_set)
        await connection.execute("update dbos_async.workflows set attempt = attempt + 1 where id = 'w'")
        TOLD.set()

        async def is_stopped() -> bool:
            return "another run has taken it over" in caplog.text

        await eventually(is_stopped)
        assert await patches_of() == ()
        assert RAN == []


ASKED, TOLD = asyncio.Event(), asyncio.Event()


@DBOS.workflow(name="patched by a late run")
async def asks_when_told() -> None:
    DBOS.patched("late")
    ASKED.set()
    await TOLD.wait()
    await note("too late")
