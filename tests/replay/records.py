"""What the database holds of a program, and what in it cannot belong to one consistent execution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from difflib import unified_diff
from typing import Any, NamedTuple

from tests.replay.ledger import Said

QUERIES = {
    "steps": """
        select branch, number, verb, key, output::text, error::text, message_id::text from dbos_async.steps
        where workflow_id = $1 and completed_at is not null order by branch, number""",
    "events": """
        select key, value::text, step from dbos_async.events where workflow_id = $1 order by seq""",
    "stream entries": """
        select key, "offset" + place - 1, v.value::text, closes, step
        from dbos_async.stream_entries as e
        cross join lateral unnest(coalesce(batch, array[value])) with ordinality as v(value, place)
        where workflow_id = $1 and taken_back_by is null and rewinds_to is null order by key, 2""",
    "messages sent": """
        select destination_id, topic, payload::text from dbos_async.messages
        where sender_id = $1 and topic not like 'later %' order by seq""",
    "messages sent for later": """
        select destination_id, topic, payload::text from dbos_async.messages
        where sender_id = $1 and topic like 'later %'
        union all select destination_id, topic, payload::text from dbos_async.delayed_messages where sender_id = $1
        order by 1, 2, 3""",
    "answers given": """
        select topic, answer::text, answer_error::text from dbos_async.messages
        where destination_id = $1 and answered_at is not null order by seq""",
    "messages received": """
        select topic, payload::text, id::text from dbos_async.messages
        where destination_id = $1 and received_at is not null order by seq""",
    "children": """
        select name, input::text, parent_step from dbos_async.workflows where parent_id = $1 order by id""",
}

Rows = list[list[Any]]


class Ending(NamedTuple):
    """How a workflow stands that is not PENDING."""

    status: str
    output: str | None
    error: str | None


class Records(NamedTuple):
    """How a program ended, and all that is stored of it."""

    ending: Ending
    rows: dict[str, Rows]


async def read_records(pool: Any, workflow_id: str, ending: Ending) -> Records:
    """Read what the database holds of a program that has ended."""
    async with pool.acquire() as connection:
        return Records(
            ending,
            {
                name: [list(row) for row in await connection.fetch(query, workflow_id)]
                for name, query in QUERIES.items()
            },
        )


def differences(live: Records, replayed: Records) -> list[str]:
    """What is not the same after a replay, as texts."""
    found: list[str] = []
    if live.ending == replayed.ending:
        live = _without_given_back(live, replayed)
    if live.ending != replayed.ending:
        found.append("the result:\n" + _diff(_lines(live.ending), _lines(replayed.ending)))
    for name, rows in live.rows.items():
        if rows != replayed.rows[name]:
            found.append(f"the {name}:\n" + _diff(list(map(str, rows)), list(map(str, replayed.rows[name]))))
    return found


def contradictions(records: Records, ran: list[Said]) -> list[str]:
    """What was stored, or was told to a body that ran, and is not what the execution that came to an end has told."""
    status, output, error = records.ending
    if status != "SUCCESS" or output is None:
        return [f"the program ended as {status}: {error}"]
    result = json.loads(output)
    asked, done = result["asked"], result["done"]
    found = [f"in the log: {entry}" for entry in result["log"] if entry.startswith("!!")]
    for what, saids in (("ran", ran), ("stored", list(_stored(records.rows)))):
        found += [
            f"{what} with {said}, and the execution that ended said {asked.get(said[0])}"
            for said in saids
            if asked.get(said[0]) != said
        ]
    counts = Counter(said[0] for said in _stored(records.rows))
    found += [f"stored {counts[tag]} times: {tag}" for tag in done if counts[tag] != 1]
    return list(dict.fromkeys([*found, *_half_spoken(records.rows["stream entries"])]))


def _half_spoken(entries: Rows) -> Iterator[str]:
    """Steps of whose attempts not exactly one stands: all words up to its end, or the begin of them without an end."""
    spoken: dict[str, list[str]] = {}
    for _, _, value, closes, step in entries:
        text = None if closes else json.loads(value)
        if isinstance(text, str) and " of " in text:
            spoken.setdefault(step, []).append(text)
    for step, texts in spoken.items():
        words, attempts = zip(*(text.split(" of ") for text in texts), strict=True)
        whole = [f"word {number}" for number in range(len(words))]
        if len({*attempts}) > 1 or list(words) not in (whole, [*whole[:-1], f"end {len(words) - 1}"]):
            yield f"step {step} has spoken {texts}"


def _without_given_back(live: Records, replayed: Records) -> Records:
    """Leave out the messages that the replay has given back.

    A cancelled receive gives back what it has taken, unless the workflow ends before that (decision 16). Nobody has seen such a
    message, or the results would not be the same.
    """
    kept = {row[6] for row in replayed.rows["steps"]}
    steps = [row for row in live.rows["steps"] if row[6] is None or row[6] in kept]
    given_back = {row[6] for row in live.rows["steps"]} - {row[6] for row in steps}
    messages = [row for row in live.rows["messages received"] if row[2] not in given_back]
    return Records(live.ending, live.rows | {"steps": steps, "messages received": messages})


def _stored(rows: dict[str, Rows]) -> Iterator[Said]:
    values = [value for _, value, _ in rows["events"]]
    values += [value for _, _, value, closes, _ in rows["stream entries"] if not closes]
    values += [payload for _, _, payload in (*rows["messages sent"], *rows["messages sent for later"])]
    values += [answer for _, answer, _ in rows["answers given"]]
    for value in values:
        if isinstance(said := json.loads(value), list):
            yield said
    for name, text, _ in rows["children"]:
        if name == "random child":
            yield json.loads(text)["args"][:3]


def _lines(ending: Ending) -> list[str]:
    if ending.output is None:
        return [ending.status, str(ending.error)]
    result = json.loads(ending.output)
    return [ending.status, *result["log"], *(f"said {said}" for said in result["asked"].values())]


def _diff(before: list[str], after: list[str]) -> str:
    return "\n".join(unified_diff(before, after, "before", "after the replay", lineterm="", n=1))
