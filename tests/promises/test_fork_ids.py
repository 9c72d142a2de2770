"""A fork has another id, and replays what the original recorded of itself and of what is named after it (W4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dbos_async import DBOS, InvalidArgumentError, SendMessage, SetWorkflowID, SetWorkflowTimeout
from dbos_async._runs.own_ids import are_same
from tests.support.eventually import eventually

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    RAN.clear()


@DBOS.step(name="note of ids in a fork")
async def note(what: str) -> str:
    RAN.append(what)
    return what


@DBOS.workflow(name="is told")
async def told() -> None:
    await DBOS.set_event("e", 1)
    await DBOS.write_stream("s", 1)


@DBOS.workflow(name="names itself")
async def names_itself(verb: str, pattern: str) -> str:
    name = pattern.format(DBOS.workflow_id)
    many = [SendMessage(name, 1)] * 20
    acts: dict[str, Any] = {
        "send": lambda: DBOS.send(name, 1),
        "send with a topic": lambda: DBOS.send(name, 1, "t"),
        "send to a topic": lambda: DBOS.send(str(DBOS.workflow_id), 1, name),
        "send_bulk": lambda: DBOS.send_bulk([SendMessage(name, 1), SendMessage("banana", 1, name)]),
        "a large send_bulk": lambda: DBOS.send_bulk([*many, SendMessage(name, 1, name)]),
        "get_event": lambda: DBOS.get_event(name, "e", timeout_seconds=0),
        "get_event by key": lambda: DBOS.get_event("banana", name, timeout_seconds=0),
        "read_stream": lambda: _read(name),
        "get_all_events": lambda: DBOS.get_all_events(name),
        "retrieve_workflow": lambda: DBOS.retrieve_workflow(name),
        "get_result": lambda: _result(name),
        "list_workflow_steps": lambda: DBOS.list_workflow_steps(name),
        "list_messages": lambda: DBOS.list_messages(name),
        "resume_workflow": lambda: DBOS.resume_workflow(name),
        "cancel_workflow": lambda: DBOS.cancel_workflow(name if name != DBOS.workflow_id else "banana"),
        "set_event": lambda: DBOS.set_event(name, 1),
        "write_stream": lambda: DBOS.write_stream(name, 1),
        "recv": lambda: DBOS.recv(name, timeout_seconds=0),
        "start_workflow": lambda: _start(f"child of {name}"),
        "fork_workflow": lambda: DBOS.fork_workflow(name if name != DBOS.workflow_id else "banana", 1),
    }
    await acts[verb]()
    return await note("end")


VERBS = [
    "send", "send with a topic", "send to a topic", "send_bulk", "a large send_bulk", "get_event", "get_event by key",
    "read_stream", "get_all_events", "retrieve_workflow", "get_result", "list_workflow_steps", "list_messages",
    "resume_workflow", "cancel_workflow", "set_event", "write_stream", "recv", "start_workflow", "fork_workflow",
]  # fmt: skip


async def _read(name: str) -> list[Any]:
    try:
        return [value async for value in DBOS.read_stream(name, "s", timeout_seconds=0)]
    except TimeoutError:
        return []


async def _result(name: str) -> Any:
    try:
        return await (await DBOS.retrieve_workflow(name)).get_result(timeout_seconds=0)
    except TimeoutError:
        return None


async def _start(workflow_id: str) -> Any:
    with SetWorkflowID(workflow_id):
        return await DBOS.start_workflow(told)


async def _there(*workflow_ids: str) -> None:
    for workflow_id in workflow_ids:
        with SetWorkflowID(workflow_id):
            await (await DBOS.start_workflow(told)).get_result()


async def _replays(workflow_id: str, fork_id: str) -> None:
    """A fork that repeats nothing ends as its original."""
    steps = await DBOS.list_workflow_steps(workflow_id)
    RAN.clear()
    with SetWorkflowID(fork_id):
        fork = await DBOS.fork_workflow(workflow_id, max(int(step.step) for step in steps) + 1)
    assert await fork.get_result(timeout_seconds=20) == "end"
    assert RAN == []
    assert [step.key for step in await DBOS.list_workflow_steps(fork_id)] == [step.key for step in steps]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("pattern", ["{}", "{}-child", "banana of {}"])
async def test_w4_a_fork_replays_whatever_the_original_did_with_its_own_id(verb: str, pattern: str, dbos: DBOS) -> None:
    """The id is as short as can be, and occurs in other names by chance."""
    await _there("banana", "b-child", "banana of b", "a" * 40)
    with SetWorkflowID("b" if pattern != "{}" else "a"):
        handle = await DBOS.start_workflow(names_itself, verb, pattern)
    assert await handle.get_result(timeout_seconds=20) == "end"
    await _replays(handle.workflow_id, "the fork")
    # A fork of the fork does so, too, when nobody remembers the fork.
    again = await DBOS.fork_workflow("the fork", len(await DBOS.list_workflow_steps("the fork")) + 1)
    await again.get_result(timeout_seconds=20)
    await DBOS.delete_workflow("the fork")
    third = (
        "third" if verb == "a large send_bulk" else "ana"
    )  # so short an id is in some names, but not in their digest
    await _replays(again.workflow_id, third)
    assert "0" not in {step.step for step in await DBOS.list_workflow_steps(third)}


@DBOS.workflow(name="of an argument")
async def of_an_argument(me: str) -> str:
    await DBOS.send("a (x)", 1)
    await DBOS.get_event("z of a", "e", timeout_seconds=0)
    await DBOS.send(f"{me}", 1)
    await DBOS.send_bulk([SendMessage("banana", 1)] * 9)
    return await note("end")


async def test_w4_names_that_only_look_like_the_own_id_replay_in_a_fork(dbos: DBOS) -> None:
    await _there("a (x)", "z of a", "banana", "banana split")
    with SetWorkflowID("a"):
        handle = await DBOS.start_workflow(of_an_argument, "a")
    await handle.get_result()
    await _replays("a", "another")
    await _replays("another", "n")


@DBOS.workflow(name="races with itself")
async def races_with_itself() -> Any:
    me = str(DBOS.workflow_id)
    first = asyncio.create_task(DBOS.get_event(me, "e", timeout_seconds=3600))
    second = asyncio.create_task(DBOS.recv(f"to {me}", timeout_seconds=3600))
    await asyncio.sleep(0)
    await note("before")
    await DBOS.recv("go", None)
    await DBOS.set_event("e", "now")
    await DBOS.send(me, "mine", f"to {me}")
    return [await first, await second]


async def test_w4_a_wait_for_itself_goes_on_in_a_fork_under_its_name(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(races_with_itself)
    await DBOS.send("w", None, "go")
    assert await handle.get_result(timeout_seconds=20) == ["now", "mine"]
    for start in (1, 2, 3, 4):
        fork = await DBOS.fork_workflow("w", start)
        if start < 3:
            await DBOS.send(fork.workflow_id, None, "go")
        assert await fork.get_result(timeout_seconds=20) == ["now", "mine"], start


def test_w4_keys_are_compared_relative_to_the_ids_of_the_workflow() -> None:
    ids = ["new", "old", "old-er"]
    for recorded, asked, same in [
        ("old", "new", True), ("old", "old", True), ("old-er", "new", True), ("x-old-y", "x-new-y", True), ("old", "other", False),
        ("old-x", "new-y", False), ("old", "new-x", False), ("", "", True), ("oldnew", "newnew", True), ("oldold", "new", False),
    ]:  # fmt: skip
        assert are_same([recorded], [asked], ids) is same, (recorded, asked)
    assert not are_same(["a", "b"], ["a"], ids)


async def test_w4_a_fork_from_step_1_runs_everything_again(dbos: DBOS) -> None:
    @DBOS.workflow(name="gathers first")
    async def gathers() -> list[str]:
        found = list(await asyncio.gather(note("a"), note("b")))
        return [*found, await note("c")]

    handle = await DBOS.start_workflow(gathers)
    await handle.get_result()
    for start in (1, "1"):
        RAN.clear()
        fork = await DBOS.fork_workflow(handle.workflow_id, start)
        assert await fork.get_result() == ["a", "b", "c"]
        assert sorted(RAN) == ["a", "b", "c"]
    RAN.clear()
    fork = await DBOS.fork_workflow(handle.workflow_id, "0.2.1")
    await fork.get_result()
    assert sorted(RAN) in (["a", "b", "c"], ["b", "c"])


async def test_d5_a_start_step_beyond_the_last_is_refused_and_makes_no_fork(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        await (await DBOS.start_workflow(told)).get_result()
    RAN.clear()
    start: Any
    for start in (4, 100, 2**31 - 1):
        with pytest.raises(InvalidArgumentError, match=f"must be at most 3, .* and is {start}"):
            await DBOS.fork_workflow("w", start)
    for start in ("2.1.1", "0.1.1"):
        with pytest.raises(InvalidArgumentError, match="has recorded none"):
            await DBOS.fork_workflow("w", start)
    for start in (2**31, "1." + "9" * 20, "٣"):
        with pytest.raises(InvalidArgumentError, match="start_step must be the number of a step"):
            await DBOS.fork_workflow("w", start)
    assert len(await DBOS.list_workflows()) == 1
    assert await (await DBOS.fork_workflow("w", 3)).get_result() is None


async def test_w6_a_fork_has_the_deadline_of_its_block(dbos: DBOS) -> None:
    with SetWorkflowID("w"):
        await (await DBOS.start_workflow(told)).get_result()
    with SetWorkflowTimeout(60):
        fork = await DBOS.fork_workflow("w", 1)
    status = await fork.get_status()
    assert status.deadline is not None
    assert 59 < (status.deadline - status.created_at).total_seconds() < 61
    assert (await (await DBOS.fork_workflow("w", 1)).get_status()).deadline is None


@DBOS.workflow(name="fails somewhere")
async def fails(where: str) -> None:
    await note("one")
    if where == "step":
        await DBOS.send("nobody", 1)
    if where == "body":
        raise ValueError("not yet repaired")
    if where == "branch":
        await asyncio.gather(DBOS.send("nobody", 1))


@pytest.mark.parametrize(
    ("where", "call", "does"),
    [
        ("step", "'w', 2", "runs its last step again"),
        ("branch", "'w', '1.1.1'", "runs its last step again"),
        ("body", "'w', 2", "repeats its recorded steps and goes on with the code as it is now"),
        ("nowhere", "'w', 1", "runs it again"),
    ],
)
async def test_w6_resuming_what_has_ended_says_which_fork_to_make(
    where: str, call: str, does: str, dbos: DBOS, caplog: pytest.LogCaptureFixture
) -> None:
    with SetWorkflowID("w"):
        handle = await DBOS.start_workflow(fails, where)
    await eventually(lambda: _ended(handle))
    status = await handle.get_status()
    await DBOS.resume_workflow("w")
    assert await handle.get_status() == status
    assert [record.message for record in caplog.records if "resuming" in record.message] == [
        (
            f"Workflow 'w' has ended in {status.status}, and resuming it changes nothing: "
            f"DBOS.fork_workflow({call}) makes a copy that {does}."
        )
    ]


async def _ended(handle: Any) -> bool:
    return (await handle.get_status()).status in ("SUCCESS", "ERROR")
