"""A replay that sends elsewhere is seen, and what older releases have recorded of sends goes on replaying (W4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from dbos_async import DBOS, SendMessage, SetWorkflowID, WorkflowParkedError
from dbos_async._messaging.send_keys import bulk_key, send_key
from tests.support.eventually import eventually

Targets = Sequence[tuple[str, str | None]]
CODE: dict[str, Targets] = {}

NAMES = ["a", "a (b)", "c", "a (b (c", '["a (b)", ""]', "a ()", "b) (c"]


@DBOS.workflow(name="receives for ever")
async def receiver() -> None:
    await DBOS.recv("end", timeout_seconds=None)


@DBOS.workflow(name="sends")
async def sends() -> str:
    targets = CODE["targets"]
    if len(targets) == 1:
        await DBOS.send(targets[0][0], 1, targets[0][1])
    else:
        await DBOS.send_bulk([SendMessage(name, 1, topic) for name, topic in targets])
    await DBOS.recv("go", timeout_seconds=None)
    return "done"


async def sent(url: str, targets: Targets) -> None:
    """Let a workflow send to these, in a program that has ended."""
    CODE["targets"] = targets
    async with DBOS(url, executor_id="program"):
        for name in NAMES:
            with SetWorkflowID(name):
                await DBOS.start_workflow(receiver)
        with SetWorkflowID("w"):
            await DBOS.start_workflow(sends)
        await eventually(_waits)


async def _waits() -> bool:
    return any(step.verb == "recv" for step in await DBOS.list_workflow_steps("w"))


async def replayed(url: str, targets: Targets) -> str:
    """How the workflow goes on when its code sends to these."""
    CODE["targets"] = targets
    async with DBOS(url, executor_id="program"):
        await DBOS.send("w", None, "go")
        handle = await DBOS.retrieve_workflow("w")
        try:
            return str(await handle.get_result(timeout_seconds=20))
        except WorkflowParkedError:
            return str((await handle.get_status()).error["message"])


MANY: Targets = [("a", "t")] * 20

CHANGES: list[tuple[Targets, Targets]] = [
    ([("a", None)], [("c", None)]),
    ([("a", "b")], [("a", None)]),
    ([("a", "b")], [("a", "c")]),
    ([("a", "b")], [("a (b)", None)]),
    ([("a (b)", None)], [("a", "b")]),
    ([("a", "b (c")], [("a (b", "c")]),
    ([("a (b)", None)], [('["a (b)", ""]', None)]),
    ([("a", "b) (c")], [("a (b)", "c")]),
    ([("a", None), ("a", None)], [("c", None), ("c", None)]),
    ([("a", None), ("c", None)], [("c", None), ("a", None)]),
    ([("a", "b"), ("c", None)], [("a (b)", None), ("c", None)]),
    ([("a", None), ("c", None)], [("a", None), ("c", None), ("c", None)]),
    (MANY, [*MANY[1:], ("c", "t")]),
    (MANY, [*MANY[1:], ("a", "u")]),
    (MANY, MANY[1:]),
]


@pytest.mark.parametrize(("recorded", "asked"), CHANGES)
async def test_w4_a_replay_that_sends_elsewhere_is_parked(recorded: Targets, asked: Targets, database_url: str) -> None:
    await sent(database_url, recorded)
    assert "was recorded as send" in await replayed(database_url, asked)


@pytest.mark.parametrize("targets", [change[0] for change in CHANGES])
async def test_w4_a_replay_that_sends_to_the_same_goes_on(targets: Targets, database_url: str) -> None:
    await sent(database_url, targets)
    assert await replayed(database_url, targets) == "done"


def by_old_rule(targets: Targets) -> str:
    """The key that releases up to 0.1 recorded."""
    ((name, topic), *others) = targets
    return f"{len(targets)} messages" if others else f"{name} ({topic})" if topic else name


OLD: list[Targets] = [
    [("a", None)], [("a", "b")], [("a (b)", None)], [("a", "b (c")], [("a (b (c", None)], [("a ()", None)],
    [('["a (b)", ""]', None)], [("a", None), ("c", "b")], MANY,
]  # fmt: skip


@pytest.mark.parametrize("targets", OLD)
async def test_w4_what_an_older_release_has_sent_goes_on_replaying(
    targets: Targets, database_url: str, connection: Any
) -> None:
    await sent(database_url, targets)
    await connection.execute(
        "update dbos_async.steps set key = $1 where workflow_id = 'w' and number = 1", by_old_rule(targets)
    )
    # Its fork does so, too.
    async with DBOS(database_url, executor_id="program"):
        fork = await DBOS.fork_workflow("w", 2)
        await DBOS.send(fork.workflow_id, None, "go")
        assert await fork.get_result(timeout_seconds=20) == "done"
    assert await replayed(database_url, targets) == "done"


@pytest.mark.parametrize(
    ("recorded", "asked"),
    [([("a", "b")], [("a", "c")]), ([("a (b (c", None)], [("c", None)]), (MANY, MANY[1:])],
)
async def test_w4_what_an_older_release_has_sent_elsewhere_is_seen_as_far_as_it_was_recorded(
    recorded: Targets, asked: Targets, database_url: str, connection: Any
) -> None:
    await sent(database_url, recorded)
    await connection.execute(
        "update dbos_async.steps set key = $1 where workflow_id = 'w' and number = 1", by_old_rule(recorded)
    )
    assert "was recorded as send" in await replayed(database_url, asked)


def test_w4_different_targets_have_different_keys() -> None:
    parts = ["a", "b", "a (b)", " (", "(", ")", "a (", "b)", '["a (b)", ""]', '"', '", "', "[", "]", "a (b) (c)"]
    targets = [(name, topic) for name in parts for topic in ["", *parts]]
    assert len({send_key(target) for target in targets}) == len(targets)
    keys: Callable[[Sequence[tuple[str, str]]], str] = lambda each: bulk_key(each, "w")  # noqa: E731
    for count in (1, 8):  # 8 are named, 9 have a digest
        lists = [[("x", "")] * count + [target] for target in targets] + [[("x", "")] * count]
        assert len({keys(each) for each in lists}) == len(lists)
    assert send_key(("order-17", "payment")) == "order-17 (payment)"
    assert keys([("a", ""), ("c", "t")]) == '2 messages to ["a", "c (t)"]'
