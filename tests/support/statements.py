"""Every statement of the library, and for each verb of a run a call of it that a test can make by hand."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import dbos_async
from dbos_async._database.statement import Statement
from dbos_async._messaging import answer, ask, events, first, read_stream, recv, send, send_later, streams, trim
from dbos_async._runs import sleep
from dbos_async._runs.step import RECORD
from dbos_async._workflows import handle, start

Row = tuple[Any, ...]


def all_statements() -> dict[str, Statement]:
    """Every Statement constant of the package, by its name."""
    found: dict[str, Statement] = {}
    for info in pkgutil.walk_packages(dbos_async.__path__, "dbos_async."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, Statement):
                found[value.name] = value
    return found


QUESTION, ANSWERED = uuid4(), uuid4()
"""A question to `w`, and one that another workflow has answered."""

FORMS = ("usual, alone", "new, alone", "new", "alone", "")
"""The forms of a statement: for usual calls, for new ones or for any, and for one row alone or for a batch."""


def forms(statement: Statement) -> dict[str, str]:
    """The SQL of each form that the statement has."""
    found = {"": statement.sql.batch, "alone": statement.sql.one_row}
    if statement.sql_if_new is not None:
        found |= {"new": statement.sql_if_new.batch, "new, alone": statement.sql_if_new.one_row}
    if statement.sql_if_usual is not None:
        found["usual, alone"] = statement.sql_if_usual
    return found


def arguments(form: str, numbers: list[int], rows: tuple[Row, ...], *, is_ordered: bool = False) -> list[Any]:
    """What is passed to the SQL of this form; the columns of the order are null."""
    if is_ordered:
        rows = tuple((*row, None, None) for row in rows)
    return [0, *rows[0]] if form.endswith("alone") else [numbers, *map(list, zip(*rows, strict=True))]


async def execute(connection: Any, statement: Statement, *rows: Row, calls: int = 1, form: str = "alone") -> list[Any]:
    """Execute a statement for these rows, each a call of its own; with ``calls=1`` and many rows they are one call.

    It is said in that ``form``, or in the next one that there is for so many rows. A call that turns out to be no usual one is made
    by the form for new ones, as the library does.
    """
    numbers = list(range(len(rows))) if calls != 1 or len(rows) == 1 else [0] * len(rows)
    if len(rows) > 1:
        form = form.removesuffix("alone").removesuffix(", ").replace("usual", "new")
    there_are = forms(statement)
    if form.startswith("usual") and form in there_are:
        row = arguments(form, numbers, rows, is_ordered=statement.is_ordered)
        answered: list[Any] = await connection.fetch(there_are[form], *row)
        if answered:
            return answered
    form = form.replace("usual", "new")
    form = next(other for other in (form, form.removeprefix("new").removeprefix(", "), "") if other in there_are)
    found: list[Any] = await connection.fetch(
        there_are[form], *arguments(form, numbers, rows, is_ordered=statement.is_ordered)
    )
    return found


@dataclass(frozen=True)
class Act:
    """A verb of the workflow ``w`` as a statement: how to call it as a given step, and how often its effect happened."""

    statement: Statement
    row: Callable[[Row, str], Row]
    effects: str
    """SQL that counts what the act did."""
    works_in_steps: bool = False


def _send(step: Row, tag: str) -> Row:
    return (*step, "send", "other", uuid4(), "other", "", f'"{tag}"', None, b"d", None, None, None, None, None)


def _send_bulk(step: Row, tag: str) -> Row:
    return (*step, "send", "other", uuid4(), "other", "", f'"{tag}"', None, b"d", None, None)


def _send_later(step: Row, tag: str) -> Row:
    return (*_send_bulk(step, tag), 60.0, *[None] * 10)


def _start_and_send(step: Row, tag: str) -> Row:
    start = "1", "f", "{}", None, None, uuid4(), None, None, None, b"u"
    row = (*step, "send", "other", uuid4(), "started", "", f'"{tag}"', None, b"d", None, None)
    return (*row, None, *start)


def _take(step: Row, tag: str) -> Row:
    return (*step, "recv", "", 60.0, False)


def _ask(step: Row, tag: str) -> Row:
    return (*step, "other", uuid4(), "other", "", f'"{tag}"', b"d", None, None, 60.0, None, None)


_acts = itertools.count(1)

ACTS = {
    "RECORD": Act(
        RECORD, lambda step, tag: (*step, "step", "f", f'"{tag}"', None, 0.0), "select 0 where false"
    ),
    "SLEEP": Act(sleep.SLEEP, lambda step, tag: (*step, 0.0), "select 0 where false"),
    "SEND": Act(
        send.SEND, _send, "select count(*) from dbos_async.messages where destination_id = 'other'", True
    ),
    "SEND_BULK": Act(
        send.SEND_BULK, _send_bulk, "select count(*) from dbos_async.messages where destination_id = 'other'", True
    ),
    "ASK": Act(ask.ASK, _ask, "select count(*) from dbos_async.messages where destination_id = 'other'"),
    "GET_ANSWER": Act(
        ask.GET_ANSWER, lambda step, tag: (*step, str(ANSWERED), ANSWERED, 60.0), "select 0 where false"
    ),
    "ANSWER": Act(
        answer.ANSWER,
        lambda step, tag: (*step, "answer", str(QUESTION), QUESTION, f'"{tag}"', None),
        "select count(*) from dbos_async.messages where destination_id = 'w' and answered_at is not null",
        True,
    ),
    "SEND_LATER": Act(
        send_later.SEND_LATER, _send_later, "select count(*) from dbos_async.delayed_messages where destination_id = 'other'", True
    ),
    "TAKE": Act(
        recv.TAKE,
        _take,
        "select count(*) from dbos_async.messages where destination_id = 'w' and received_at is not null",
    ),
    "FIRST": Act(
        first.FIRST,
        lambda step, tag: (*step, '["topic "]', '[{"kind":"topic","key":""}]', 60.0),
        "select count(*) from dbos_async.messages where destination_id = 'w' and received_at is not null",
    ),
    "SET_EVENT": Act(
        events.SET_EVENT,
        lambda step, tag: (*step, "1", "k", f'"{tag}"', next(_acts), b"d"),
        "select count(*) from dbos_async.events where workflow_id = 'w'",
        True,
    ),
    "AWAIT_EVENT": Act(
        events.AWAIT_EVENT,
        lambda step, tag: (*step, "watch_event", "k of other", "other", "k", 0, 60.0),
        "select 0 where false",
    ),
    "WRITE": Act(
        streams.WRITE,
        lambda step, tag: (*step, "1", "write_stream", "k", f'"{tag}"', next(_acts), -1, b"d"),
        "select count(*) from dbos_async.stream_entries where workflow_id = 'w'",
        True,
    ),
    "APPEND": Act(
        streams.APPEND,
        lambda step, tag: (
            *step, "1", "write_stream_many", "k", f'["{tag}", "{tag}"]', None, None, next(_acts), -1, b"d"
        ),
        "select count(*) from dbos_async.stream_entries where workflow_id = 'w'",
        True,
    ),
    "FOLLOW": Act(
        read_stream.FOLLOW,
        lambda step, tag: (*step, "read_stream", "k of other", "other", "k", 0, 60.0),
        "select 0 where false",
    ),
    "FOLLOW_ANY": Act(
        read_stream.FOLLOW_ANY,
        lambda step, tag: (*step, "[]", '[[0, "other", "k", 0]]', 60.0),
        "select 0 where false",
    ),
    "TRIM": Act(
        trim.TRIM,
        lambda step, tag: (*step, "k of other", "other", "k", 2, 2000),
        "select count(distinct workflow_id) from dbos_async.stream_entries where workflow_id = 'other' and trimmed is not null",
        True,
    ),
    "AWAIT_RESULT": Act(handle.AWAIT_RESULT, lambda step, tag: (*step, "other", None, False), "select 0 where false"),
    "START_CHILD": Act(
        start.START_CHILD,
        lambda step, tag: (
            *step, "1", f"child-{uuid4()}", "child", "{}", None, None, None, uuid4(), None, None, b"d"
        ),
        "select count(*) from dbos_async.workflows where name = 'child'",
        True,
    ),
    "START_DELAYED": Act(
        start.START_DELAYED,
        lambda step, tag: (*step, "1", f"child-{uuid4()}", "child", "{}", None, None, uuid4(), None, None, 60.0),
        "select count(*) from dbos_async.workflows where name = 'child' and status = 'DELAYED'",
        True,
    ),
    "SLEEP_UNTIL": Act(
        sleep.SLEEP_UNTIL, lambda step, tag: (*step, datetime(2026, 1, 1, tzinfo=UTC)), "select 0 where false"
    ),
    "SEND_LATER with a start": Act(
        send_later.SEND_LATER, _start_and_send, "select count(*) from dbos_async.workflows where id = 'started'", True
    ),
}  # fmt: skip


def step(number: int | None, attempt: int = 1) -> Row:
    """The columns of a step of ``w``; without a number they are those of the inside of a step."""
    return "w", attempt, None if number is None else "", number


FETCHED = """
    select sum(pg_stat_get_xact_blocks_fetched(oid))::int from pg_class where relnamespace = 'dbos_async'::regnamespace
"""
"""How many buffers of our tables and indexes this transaction has touched.

The plan of a statement does not tell: its top node has the buffers of what it reads, and a writing CTE that nothing reads runs
only after that. Each node has the buffers of the nodes that ran inside it, so adding all nodes counts some twice.
"""

SETTING = f"""
    insert into dbos_async.workflows (id, name, input, start_id, owner, attempt, status, output, ended_at) values
        ('w', 'f', '{{}}', gen_random_uuid(), 'me', 1, 'PENDING', null, null),
        ('other', 'f', '{{}}', gen_random_uuid(), null, 1, 'SUCCESS', '"the result"', now());
    insert into dbos_async.messages (id, seq, destination_id, topic, payload)
        select gen_random_uuid(), nextval('dbos_async.message_seq'), 'w', '', to_json(n) from generate_series(1, 5) as n;
    insert into dbos_async.messages (id, seq, destination_id, topic, payload, answer, answered_at) values
        ('{QUESTION}', nextval('dbos_async.message_seq'), 'w', 'quote', '1', null, null),
        ('{ANSWERED}', nextval('dbos_async.message_seq'), 'a shop', 'quote', '1', '2', now());
    insert into dbos_async.events (workflow_id, key, seq, value, step, attempt, act)
        values ('other', 'k', nextval('dbos_async.event_seq'), '"the event"', '1', 1, 1);
    insert into dbos_async.stream_entries (workflow_id, key, "offset", value, step, attempt, act)
        select 'other', 'k', n, to_json(n), '1', 1, 0 from generate_series(0, 2) as n;
"""
