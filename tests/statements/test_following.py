"""What a watcher and a reader of several streams see of transactions that commit late, forced by hand (C3, E2, S6)."""

from __future__ import annotations

from typing import Any

import pytest

from dbos_async._messaging.events import AWAIT_EVENT, READ_EVENT
from dbos_async._messaging.read_stream import FOLLOW_ANY
from tests.support.races import outcome
from tests.support.statements import execute, step

SET = """
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        values ('other', 'k', nextval('dbos_async.event_seq'), to_json($1::int), '1', 1, 0) returning seq
"""
END = "update dbos_async.workflows set status = 'SUCCESS', ended_at = now() where id = 'other'"
GO_ON = "update dbos_async.workflows set status = 'PENDING', ended_at = null where id = 'other'"


async def seen(connection: Any, after: int) -> tuple[Any, Any, bool]:
    (row,) = await execute(connection, READ_EVENT, ("other", "k", after))
    return row["seq"], row["value"], row["ended"]


async def test_c3_a_version_that_commits_after_a_later_one_was_seen_is_not_told(one: Any, two: Any) -> None:
    await one.execute(GO_ON)
    first = (await seen(one, 0))[0]
    await one.execute("begin")
    late = await one.fetchval(SET, 1)
    later = await two.fetchval(SET, 2)
    assert late < later
    assert await seen(two, first) == (later, "2", False)
    await one.execute("commit")
    assert await seen(two, later) == (None, None, False)
    await one.execute(END)
    assert await seen(two, later) == (None, None, True)
    assert await seen(two, first) == (later, "2", True), "the end and the last version are seen together"


@pytest.mark.parametrize("form", ["alone", ""])
async def test_c3_e4_a_step_that_watches_is_recorded_with_its_version_once(form: str, one: Any, two: Any) -> None:
    await one.execute(GO_ON)
    first = (await seen(one, 0))[0]
    row = (*step(1), "watch_event", "k of other", "other", "k", first, 60.0)
    assert outcome(await execute(one, AWAIT_EVENT, row, form=form)) == "wait"
    version = await two.fetchval(SET, 7)
    (done,) = await execute(one, AWAIT_EVENT, row, form=form)
    assert outcome([done]) == "done"
    assert f'"version" : {version}' in done["output"]
    await two.fetchval(SET, 8)
    (again,) = await execute(two, AWAIT_EVENT, row, form=form)
    assert (outcome([again]), again["output"]) == ("recorded", done["output"])


async def test_c3_get_event_and_watch_event_do_not_take_each_others_record(one: Any) -> None:
    watch = (*step(1), "watch_event", "k of other", "other", "k", 0, 60.0)
    assert outcome(await execute(one, AWAIT_EVENT, watch)) == "done"
    (other,) = await execute(one, AWAIT_EVENT, (*step(1), "get_event", *watch[5:]))
    assert (outcome([other]), other["recorded_verb"]) == ("recorded", "watch_event")


@pytest.mark.parametrize("form", ["alone", ""])
async def test_c3_s6_the_first_stream_that_has_something_to_tell_is_read(form: str, one: Any, two: Any) -> None:
    streams = '[[0, "w", "k", 0], [1, "other", "k", 3]]'
    await one.execute(GO_ON)
    row = (*step(1), "streams", streams, 60.0)
    assert outcome(await execute(one, FOLLOW_ANY, row, form=form)) == "wait"
    write = """
        insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
            values ($1, 'k', $2, '1', '1', 1, 0)
    """
    await two.execute("begin")
    await two.execute(write, "w", 0)
    await one.execute(write, "other", 3)
    (done,) = await execute(one, FOLLOW_ANY, row, form=form)
    assert outcome([done]) == "done"
    assert '"stream" : 1, "offset" : 3, "count" : 1' in done["output"], "the first one is not committed yet"
    await two.execute("commit")
    assert (await execute(one, FOLLOW_ANY, row, form=form))[0]["output"] == done["output"]
    (next_one,) = await execute(one, FOLLOW_ANY, (*step(2), "streams", streams, 60.0), form=form)
    assert '"stream" : 0, "offset" : 0, "count" : 1' in next_one["output"]
    (unknown,) = await execute(
        one, FOLLOW_ANY, (*step(3), "streams", '[[0, "w", "k", 0], [1, "nobody", "k", 0]]', 60.0), form=form
    )
    assert '"stream" : 1' in unknown["output"]
    assert '"end" : "unknown"' in unknown["output"]
